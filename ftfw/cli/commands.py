"""The command line. Heavy modules are imported by the commands that need them: `ftfw notify` is in a hurry.

Exit codes: 0 done, 1 failed, 2 usage or configuration.
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
READY_ANSWER_S = 2.0  # whoever asks whether this node is ready cannot wait for a daemon that hangs


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say on standard error what is wrong, and end."""
    for line in message.splitlines():
        click.echo(f"ftfw: {line}", err=True)
    raise click.exceptions.Exit(code)


def _remember_config(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    # Given before or after the command, it means the same; the later one counts.
    if value is not None:
        context.find_root().obj = value


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=_remember_config,
    expose_value=False,
    is_eager=True,
    help=f"The configuration file.  [default: {DEFAULT_CONFIG}]",
)
wait_option = click.option(
    "--wait/--no-wait",
    default=None,
    help="Return when it is done, or at once.  [default: wait on a terminal]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")


def _config_path(context: click.Context) -> Path | None:
    """Return the file given with --config, or None."""
    path = context.find_root().obj
    return path if isinstance(path, Path) else None


def _ask(
    context: click.Context,
    command: str,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    silence_max_s: float = SILENCE_MAX_S,
    **arguments: Any,
) -> dict[str, Any]:
    """Have the daemon carry out `command`; end with a message if it cannot."""
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
@click.option("--role", type=click.Choice(["active", "backup"]), help="Run the daemon, in this first role.")
@config_option
@click.version_option(__version__, prog_name="ftfw", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context, role: str | None) -> None:
    """Replicate connection tracking from an active firewall to its backups.

    `ftfw --role active|backup` runs the daemon in the foreground. Most of the commands talk to the daemon
    that runs on this host.
    """
    if context.invoked_subcommand is not None:
        if role is not None:
            raise click.UsageError("--role starts the daemon and goes with no command; use promote or demote")
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

    Puts what it holds into its kernel, and returns when every entry has been tried. Never waits for the peer.
    """
    with progress_bar("commit") as on_progress:
        result = _ask(context, "promote", on_progress)
    _tell_role_change(result)


@main.command()
@config_option
@click.pass_context
def demote(context: click.Context) -> None:
    """Make this node a backup.

    Returns when streaming has stopped.
    """
    _tell_role_change(_ask(context, "demote"))


@main.command()
@wait_option
@config_option
@click.pass_context
def resync(context: click.Context, *, wait: bool | None) -> None:
    """Ask the active for a fresh snapshot."""
    found = _request(context, "resync", wait=wait)
    if found is None:
        click.echo("asked for a fresh snapshot; `ftfw status` shows when it is in")
    else:
        click.echo(f"the snapshot is in: {found[1]['flows']} flows, {found[1]['expectations']} expectations")


@main.command()
@wait_option
@config_option
@click.pass_context
def scrub(context: click.Context, *, wait: bool | None) -> None:
    """Compare what backups hold with the active's table, and mend what differs."""
    found = _request(context, "scrub", wait=wait)
    if found is None:
        click.echo("asked for a comparison; `ftfw status` on a backup counts them and what they repaired under stream")
        return
    before, after = ((status.get("stream") or {}).get("repaired") or {} for status in found)
    differing = ", ".join(f"{count - before.get(kind, 0)} {kind}" for kind, count in after.items())
    click.echo(f"compared: {found[1]['flows']} flows, {found[1]['expectations']} expectations; mended: {differing}")


def _request(
    context: click.Context, command: str, *, wait: bool | None
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Ask for a resync or a scrub; the status before and after, if it was waited for."""
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
        fail("not waited for any longer; what was asked for stands, and `ftfw status` shows when it is done")


@main.command()
@json_option
@click.option("--ready", is_flag=True, help="Exit 0 if this node may take over or is active, else 1.")
@click.option("--no-count", is_flag=True, help="For a timer: an active tells counts that it has, up to a minute old.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value=2.0,
    type=click.FloatRange(min=0.1),
    metavar="[SECONDS]",
    help="Show it again and again, every 2 seconds unless told otherwise, until Ctrl-C.",
)
@config_option
@click.pass_context
def status(context: click.Context, *, as_json: bool, ready: bool, no_count: bool, watch: float | None) -> None:
    """Show role, sync state and counters."""
    if watch is not None:
        if as_json or ready:
            raise click.UsageError("--watch is for people and goes with neither --json nor --ready")
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
    """Show the entries held or streamed.

    On a backup: what it holds for its peer. On an active: what it streams.
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
    """Take keepalived's notify arguments.

    MASTER in all instances and groups that count promotes this node, any other state demotes it.
    """
    _tell_role_change(_ask(context, "notify", type=type, name=name, state=state, priority=priority))


@main.command()
@click.option(
    "--from-conntrackd",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Print what conntrackd's configuration FILE is for ftfw, and look at nothing else.",
)
@json_option
@config_option
@click.pass_context
def check(context: click.Context, *, as_json: bool, from_conntrackd: Path | None) -> None:
    """Check the configuration and this host.

    Each finding comes with its remedy. Exit code 1 if there is a problem.
    """
    if from_conntrackd is not None:
        if as_json:
            raise click.UsageError("--from-conntrackd prints TOML; it does not go with --json")
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
    """Print ftfw's configuration on standard output, and what has no equivalent on standard error."""
    from ftfw.cli.migration.conntrackd_syntax import MigrationError
    from ftfw.cli.migration.translation import NothingToDoError, translate

    try:
        # The comments may be in any encoding; what counts is ASCII.
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

    The file has mode 0600; an existing one is never overwritten.
    """
    from ftfw.security import key_file

    try:
        key_file.generate(file)
    except key_file.KeyFileError as error:
        fail(str(error))
    click.echo(f"{file}: a new key; copy it to every node, and name it in security.key_files")


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@config_option
def lab(arguments: tuple[str, ...]) -> None:
    """Run the failover lab.

    In network namespaces, with a configuration of its own.
    """
    from ftfw.lab.lab_command import lab as lab_command

    lab_command.main(list(arguments), prog_name="ftfw lab")


def _tell_role_change(result: dict[str, Any]) -> None:
    """Print the role, in one line with the commit if there was one; warnings go to standard error."""
    for warning in result.get("warnings", ()):
        click.echo(f"ftfw: warning: {warning}", err=True)
    line = str(result.get("role", "done"))
    commit = result.get("last_commit")
    if commit and result.get("changed", True):
        from ftfw.cli.entry_lines import commit_summary

        line += f"; {commit_summary(commit)}"
    click.echo(line)
