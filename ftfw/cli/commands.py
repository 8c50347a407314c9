"""Defines the command line.

Commands import heavy modules when they run: `ftfw notify` and `ftfw promote` are on the failover path.
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from ftfw import __version__
from ftfw.cli.progress_view import progress_bar, request
from ftfw.config.default_paths import DEFAULT_CONFIG
from ftfw.control.client import SILENCE_MAX_S, ControlError, call, socket_of
from ftfw.control.notification_words import STATES, TYPES

FAILED = 1
MISCONFIGURED = 2
WATCH_ANSWER_S = 10.0
READY_ANSWER_S = 2.0  # a script that asks whether this node is ready cannot wait for a daemon that hangs


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print an error to standard error, and exit with this code."""
    for line in message.splitlines():
        click.echo(f"ftfw: {line}", err=True)
    raise click.exceptions.Exit(code)


def _remember_config(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    # The option may be given before and after the command; the later one counts.
    if value is not None:
        context.find_root().obj = value


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=_remember_config,
    expose_value=False,
    is_eager=True,
    help=f"Read this configuration file.  [default: {DEFAULT_CONFIG}]",
)
wait_option = click.option(
    "--wait/--no-wait",
    default=None,
    help="Wait until it is done, or return at once.  [default: wait on a terminal]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _config_path(context: click.Context) -> Path | None:
    """Return the file given with --config; None without it."""
    path = context.find_root().obj
    return path if isinstance(path, Path) else None


def _ask(
    context: click.Context,
    command: str,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    silence_max_s: float = SILENCE_MAX_S,
    **arguments: Any,
) -> dict[str, Any]:
    """Have the daemon execute `command`, and return its result; exit with an error if it cannot."""
    path = _control_socket(context)
    try:
        return call(path, command, on_progress=on_progress, silence_max_s=silence_max_s, **arguments)
    except ControlError as error:
        fail(str(error))


def _control_socket(context: click.Context) -> Path:
    path, warning = socket_of(_config_path(context))
    if warning is not None:
        click.echo(f"ftfw: warning: {warning}", err=True)
    return path


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--role", type=click.Choice(["active", "backup"]), help="Run the daemon; begin in this role.")
@config_option
@click.version_option(__version__, prog_name="ftfw", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context, role: str | None) -> None:
    """Replicate connection tracking from an active firewall to its backups.

    `ftfw --role active|backup` runs the daemon in the foreground. Except for check, keygen and lab, the commands
    control the daemon that runs on this host.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
    """
    if context.invoked_subcommand is not None:
        if role is not None:
            raise click.UsageError("--role starts the daemon and takes no command; use promote or demote")
        return
    if role is None:
        raise click.UsageError("name a command, or start the daemon with --role active|backup")
    _run_daemon(_config_path(context) or DEFAULT_CONFIG, role)


def _run_daemon(path: Path, role: str) -> None:
    from ftfw.config.config_errors import ConfigError
    from ftfw.config.schema import load, require_complete

    try:
        config = load(path)
        require_complete(config, path)
    except ConfigError as error:
        fail(str(error), MISCONFIGURED)
    from ftfw.daemon.log.journald import log_formatter
    from ftfw.daemon.log.rate_limit import RateLimit
    from ftfw.daemon.node import StartError, run

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(log_formatter(sys.stderr, os.environ))
    handler.addFilter(RateLimit(handler))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        run(config, role, path)
    except StartError as error:
        fail(str(error))


@main.command()
@config_option
@click.pass_context
def promote(context: click.Context) -> None:
    """Make this node active.

    Commits the entries that this node holds to its kernel, and returns when every entry has been tried. Never waits
    for a peer. On an active it does nothing.
    """
    with progress_bar("commit") as on_progress:
        result = _ask(context, "promote", on_progress)
    _print_role_change(result)


@main.command()
@config_option
@click.pass_context
def demote(context: click.Context) -> None:
    """Make this node a backup.

    Returns when this node has stopped streaming. On a backup it does nothing.
    """
    _print_role_change(_ask(context, "demote"))


@main.command()
@wait_option
@config_option
@click.pass_context
def resync(context: click.Context, *, wait: bool | None) -> None:
    """Request a new snapshot of the active's table.

    A backup requests it for itself; an active sends one to all backups. Entries that a backup holds stay until the
    snapshot is complete.
    """
    found = _request(context, "resync", wait=wait)
    if found is None:
        click.echo("a snapshot is requested; `ftfw status` shows when it is complete")
    else:
        click.echo(f"the snapshot is complete: {found[1]['flows']} flows, {found[1]['expectations']} expectations")


@main.command()
@wait_option
@config_option
@click.pass_context
def scrub(context: click.Context, *, wait: bool | None) -> None:
    """Compare backups with the active, and repair them.

    A backup requests the compare for itself; an active compares all backups.
    """
    found = _request(context, "scrub", wait=wait)
    if found is None:
        click.echo("a compare is requested; `ftfw status` on a backup counts compares and repairs under stream")
        return
    before, after = ((status.get("stream") or {}).get("repaired") or {} for status in found)
    repaired = ", ".join(f"{count - before.get(kind, 0)} {kind}" for kind, count in after.items())
    click.echo(f"compared: {found[1]['flows']} flows, {found[1]['expectations']} expectations; repaired: {repaired}")


def _request(
    context: click.Context, command: str, *, wait: bool | None
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Request a resync or a scrub; return the status before and after if the command waited for it, else None."""
    if not (sys.stdout.isatty() if wait is None else wait):
        _ask(context, command)
        return None
    ask = partial(call, _control_socket(context))
    try:
        with progress_bar(command) as tell:
            return request(ask, command, tell or (lambda _: None))
    except ControlError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped waiting; the request still stands, and `ftfw status` shows when it is done")


@main.command()
@json_option
@click.option("--ready", is_flag=True, help="Exit with 0 if this node may take over or is active, else with 1.")
@click.option("--no-count", is_flag=True, help="Print the counts that an active has, up to a minute old.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value=2.0,
    type=click.FloatRange(min=0.1),
    metavar="[SECONDS]",
    help="Repeat the status every 2 seconds, or every SECONDS, until Ctrl-C.",
)
@config_option
@click.pass_context
def status(context: click.Context, *, as_json: bool, ready: bool, no_count: bool, watch: float | None) -> None:
    """Print the role, the sync state and the counters of this node.

    docs/commands.md explains every field.
    """
    if watch is not None:
        if as_json or ready:
            raise click.UsageError("--watch cannot be combined with --json or --ready")
        from ftfw.cli.status_view import watch_status

        path = _control_socket(context)
        with contextlib.suppress(KeyboardInterrupt):
            watch_status(lambda: call(path, "status", silence_max_s=WATCH_ANSWER_S, count=False), watch)
        return
    if ready and not as_json:
        found = _ask(context, "ready", silence_max_s=READY_ANSWER_S)
        click.echo("ready" if found.get("ready") else "not ready")
    else:
        silence_max_s = READY_ANSWER_S if ready else SILENCE_MAX_S
        found = _ask(context, "status", silence_max_s=silence_max_s, count=not (ready or no_count))
        if as_json:
            click.echo(json.dumps(found, indent=2))
        else:
            from ftfw.cli.status_view import print_status

            print_status(found)
    if ready and not found.get("ready"):
        raise click.exceptions.Exit(FAILED)


@main.command()
@click.argument("what", type=click.Choice(["flows", "expectations"]))
@json_option
@config_option
@click.pass_context
def show(context: click.Context, *, what: str, as_json: bool) -> None:
    """Print the flows or expectations that this node replicates.

    A backup prints the entries that it holds, an active those that it streams.
    """
    from ftfw.cli.entry_lines import entry_line

    entries = _ask(context, "show", what=what)["entries"]
    if as_json:
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        click.echo(f"[\n{lines}\n]" if lines else "[]")
        return
    for entry in entries:
        click.echo(entry_line(entry))


@main.command()
@click.argument("type", type=click.Choice(TYPES), metavar="TYPE")
@click.argument("name")
@click.argument("state", type=click.Choice(STATES), metavar="STATE")
@click.argument("priority", type=int, required=False)
@config_option
@click.pass_context
def notify(context: click.Context, *, type: str, name: str, state: str, priority: int | None) -> None:  # noqa: A002
    """Report a VRRP state to the daemon.

    The arguments are those of keepalived's notify scripts. TYPE is INSTANCE or GROUP; STATE is MASTER, BACKUP, FAULT,
    STOP or DELETED. If all of keepalived.instances are MASTER, this node becomes active; in any other state it becomes
    a backup.
    """
    _print_role_change(_ask(context, "notify", type=type, name=name, state=state, priority=priority))


@main.command()
@click.option(
    "--from-conntrackd",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Translate conntrackd's configuration FILE to TOML, and check nothing.",
)
@json_option
@config_option
@click.pass_context
def check(context: click.Context, *, as_json: bool, from_conntrackd: Path | None) -> None:
    """Check the configuration and this host, and change nothing.

    Prints findings, each with its remedy. The exit code is 1 if there is a problem, and 2 if it is in the
    configuration.
    """
    if from_conntrackd is not None:
        if as_json:
            raise click.UsageError("--from-conntrackd prints TOML; it cannot be combined with --json")
        _print_translation(from_conntrackd)
        return
    from ftfw.cli.check.check_runner import run_checks
    from ftfw.cli.check.finding import Level
    from ftfw.cli.check.finding_report import print_findings

    findings = run_checks(_config_path(context) or DEFAULT_CONFIG)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        print_findings(findings)
    problems = [finding for finding in findings if finding.level is Level.PROBLEM]
    if any(finding.subject == "configuration" for finding in problems):
        raise click.exceptions.Exit(MISCONFIGURED)
    if problems:
        raise click.exceptions.Exit(FAILED)


def _print_translation(path: Path) -> None:
    """Print ftfw's configuration to standard output, and remarks to standard error."""
    from ftfw.cli.migration.conntrackd_syntax import MigrationError
    from ftfw.cli.migration.translation import NothingToDoError, translate

    try:
        # Comments may be in any encoding; all other text is ASCII.
        translation = translate(path.read_bytes().decode("ascii", "replace"))
    except OSError as error:
        fail(f"{path}: cannot be read: {error.strerror}", MISCONFIGURED)
    except MigrationError as error:
        fail(f"{path}: {error}", MISCONFIGURED)
    except NothingToDoError as error:
        fail(f"{path}: {error}")
    click.echo(translation.toml, nl=False)
    for remark in translation.remarks:
        where = f"line {remark.line}: " if remark.line else ""
        click.echo(f"ftfw: {remark.severity}: {where}{remark.option}: {remark.why}", err=True)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
def keygen(file: Path) -> None:
    """Write a new link key to FILE.

    The file gets mode 0600. An existing file is not overwritten.
    """
    from ftfw.security import key_file

    try:
        key_file.generate(file)
    except key_file.KeyFileError as error:
        fail(str(error))
    click.echo(f"{file}: new key written; copy it to every node, and name it in security.key_files")


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@config_option
def lab(arguments: tuple[str, ...]) -> None:
    """Run the failover lab in network namespaces.

    The lab writes its own configuration. `ftfw lab --help` lists its options.
    """
    from ftfw.lab.lab_command import lab as lab_command

    lab_command.main(list(arguments), prog_name="ftfw lab")


def _print_role_change(result: dict[str, Any]) -> None:
    """Print the role and, if there was a commit, its counts in the same line; print warnings to standard error."""
    for warning in result.get("warnings", ()):
        click.echo(f"ftfw: warning: {warning}", err=True)
    line = str(result.get("role", "done"))
    commit = result.get("last_commit")
    if commit and result.get("changed", True):
        from ftfw.cli.entry_lines import commit_summary

        line += f"; {commit_summary(commit)}"
    click.echo(line)
