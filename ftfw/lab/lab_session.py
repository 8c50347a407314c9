"""Runs one call of the lab: several runs one after the other, their output, signals and exit code."""

import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import trio
from rich.console import Console

from ftfw.lab.failover_run import Keep, Observer, first_of, run_lab
from ftfw.lab.lab_host import LabError
from ftfw.lab.lab_report import JsonPrinter, Printer
from ftfw.lab.lab_site import Site
from ftfw.lab.replication_daemons import ReplicationDaemon
from ftfw.lab.verdicts import lost

MODES = ("warm", "hot")
Command = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """Describes a run of the lab that is still to be done."""

    site_name: str
    site: AbstractAsyncContextManager[Site]
    daemon: type[ReplicationDaemon]
    mode: str


def lab_options(*, daemons: Sequence[str], clean: Callable[[], Awaitable[list[str]]]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command the options of every lab: mode, daemon, only, as_data and keep.

    `daemons` are the names for `--daemon`. `clean` removes the leftovers of killed labs and returns the labs' names;
    `--clean` calls it and does nothing else.
    """

    def clean_and_exit(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            try:
                for name in trio.run(clean):
                    click.echo(f"removed {name}")
            except LabError as error:
                raise click.ClickException(str(error)) from None
            context.exit()

    options = [
        click.option("--mode", type=click.Choice(MODES), help="Standby mode; both, one after the other, by default."),
        click.option("--daemon", type=click.Choice(daemons), default="ftfw", show_default=True, help="Who replicates."),
        click.option("--only", metavar="PATTERN", default="*", help="Only flows with such names, for example 'ftp-*'."),
        click.option("--json", "as_data", is_flag=True, help="Print JSON at the end instead of the table."),
        click.option(
            "--keep",
            is_flag=True,
            help="Leave the lab standing after the last run, or the first that fails, until Ctrl-C.",
        ),
        click.option(
            "--clean",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=clean_and_exit,
            help="Remove what killed labs have left, and do nothing else.",
        ),
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def modes_of(daemon: str, mode: str | None) -> tuple[str, ...]:
    """Return the standby modes to run: the given one, or all that the daemon has. Only ftfw has more than one."""
    if mode:
        return (mode,)
    return MODES if daemon == "ftfw" else MODES[:1]


def run_session(runs: Sequence[PlannedRun], *, only: str, as_data: bool, keep: bool) -> None:
    """Do the runs and print their results.

    Raises click.ClickException if the lab cannot be built or run. Exits with 130 if a signal ended it, and with 1 if
    ftfw lost a flow.
    """
    observer = JsonPrinter() if as_data else Printer(Console())
    error = ""
    try:
        trio.run(partial(_run_all, runs, only=only, observer=observer, keep=keep))
    except* LabError as errors:
        error = str(first_of(errors))
    if isinstance(observer, JsonPrinter):
        observer.print_runs()
    if error:
        raise click.ClickException(error)
    if len(observer.runs) < len(runs) and not observer.standing:
        sys.exit(130)
    if any(run.daemon == "ftfw" and lost(run.rows) for run in observer.runs):
        sys.exit(1)


async def _run_all(runs: Sequence[PlannedRun], *, only: str, observer: Observer, keep: bool) -> None:
    """Do each run. A signal releases a lab that is kept, and cancels one that is running, which then removes itself."""
    released = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for _ in signals:
                    if observer.standing and not released.is_set():
                        released.set()
                    else:
                        nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            for planned in runs:
                kept = Keep(released=released, failed_only=planned is not runs[-1]) if keep else None
                await run_lab(
                    site_name=planned.site_name,
                    site=planned.site,
                    mode=planned.mode,
                    daemon=planned.daemon,
                    observer=observer,
                    only=only,
                    keep=kept,
                )
                if observer.standing:
                    break
            nursery.cancel_scope.cancel()
