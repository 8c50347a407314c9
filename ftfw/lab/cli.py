"""`ftfw lab`: the command line of the failover lab."""

import signal
import sys

import click
import trio
from rich.console import Console

from .daemons import DAEMONS
from .host import LabError
from .judge import lost
from .report import JsonPrinter, Printer
from .run import Keep, Observer, first_of, run_lab

MODES = ("warm", "hot")


@click.command()
@click.option("--mode", type=click.Choice(MODES), help="Standby mode; both, one after the other, by default.")
@click.option("--daemon", type=click.Choice(list(DAEMONS)), default="ftfw", show_default=True, help="Who replicates.")
@click.option("--only", metavar="PATTERN", default="*", help="Only flows with such names, for example 'ftp-*'.")
@click.option("--json", "as_data", is_flag=True, help="Print JSON at the end instead of the table.")
@click.option(
    "--keep", is_flag=True, help="Leave the lab standing after the last run, or the first that fails, until Ctrl-C."
)
def lab(mode: str | None, daemon: str, only: str, as_data: bool, keep: bool) -> None:
    """Cut off the active firewall under real traffic and tell which flows live on.

    Everything happens in network namespaces of its own and is removed afterwards.
    Exit code 1 if the lab could not be run, or if ftfw lost a flow.
    """
    # The modes are ftfw's own: the others run once.
    modes = (mode,) if mode else MODES if daemon == "ftfw" else MODES[:1]
    observer = JsonPrinter() if as_data else Printer(Console())
    error = ""
    try:
        trio.run(_run_all, modes, daemon, only, observer, keep)
    except* LabError as errors:
        error = str(first_of(errors))
    if isinstance(observer, JsonPrinter):
        observer.tell()
    if error:
        raise click.ClickException(error)
    if len(observer.runs) < len(modes) and not observer.standing:
        sys.exit(130)
    if daemon == "ftfw" and any(lost(run.rows) for run in observer.runs):
        sys.exit(1)


async def _run_all(modes: tuple[str, ...], daemon: str, only: str, observer: Observer, keep: bool) -> None:
    """Run each mode; a signal releases a lab that is kept, and cancels what is under way, which then removes itself."""
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
            for mode in modes:
                kept = Keep(released=released, failed_only=mode != modes[-1]) if keep else None
                await run_lab(daemon=daemon, mode=mode, observer=observer, only=only, keep=kept)
                if observer.standing:
                    break
            nursery.cancel_scope.cancel()
