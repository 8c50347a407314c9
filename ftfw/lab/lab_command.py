"""`ftfw lab`: the command line of the failover lab."""

import itertools
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import trio
from rich.console import Console

from ftfw.lab.daemons import DAEMONS, Daemon
from ftfw.lab.failover_run import Keep, Observer, first_of, run_lab
from ftfw.lab.host import LabError
from ftfw.lab.judge import lost
from ftfw.lab.lab_report import JsonPrinter, Printer
from ftfw.lab.site import Site
from ftfw.lab.sites import SITES, netns

MODES = ("warm", "hot")
IMAGE = Path("vagrant/box/image")


def _clean(context: click.Context) -> None:
    """Tell what is removed; then there is nothing more to do."""
    try:
        for name in trio.run(netns.clean):
            click.echo(f"removed {name}")
    except LabError as error:
        raise click.ClickException(str(error)) from None
    context.exit()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One run of the lab."""

    name: str
    place: AbstractAsyncContextManager[Site]
    daemon: type[Daemon]
    mode: str


@click.command()
@click.option("--mode", type=click.Choice(MODES), help="Standby mode; both, one after the other, by default.")
@click.option("--daemon", type=click.Choice(list(DAEMONS)), default="ftfw", show_default=True, help="Who replicates.")
@click.option("--only", metavar="PATTERN", default="*", help="Only flows with such names, for example 'ftp-*'.")
@click.option("--json", "as_data", is_flag=True, help="Print JSON at the end instead of the table.")
@click.option(
    "--keep", is_flag=True, help="Leave the lab standing after the last run, or the first that fails, until Ctrl-C."
)
@click.option(
    "--site",
    "sites",
    multiple=True,
    type=click.Choice(list(SITES)),
    default=["namespaces"],
    show_default=True,
    help="Where: in namespaces, between two virtual machines, between one and this machine's kernel, or in the"
    " Vagrant lab that stands; several, one after the other.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    default=IMAGE,
    show_default=True,
    help="The directory with what virtual machines boot.",
)
@click.option(
    "--clean",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, wanted: _clean(context) if wanted else None,
    help="Remove what labs have left that were killed, and do nothing else.",
)
def lab(  # noqa: PLR0917 - click calls it by name
    mode: str | None, daemon: str, only: str, as_data: bool, keep: bool, sites: tuple[str, ...], image: Path
) -> None:
    """Cut off the active firewall under real traffic and tell which flows live on.

    Everything but Vagrant's machines is made for this and removed afterwards.
    Exit code 1 if the lab could not be run, or if ftfw lost a flow.
    """
    # The modes are ftfw's own: the others run once.
    modes = (mode,) if mode else MODES if daemon == "ftfw" else MODES[:1]
    for name in sites:
        if daemon not in (there := SITES[name].daemons):
            raise click.UsageError(f"--daemon {daemon} is not to be had at --site {name}; there are {', '.join(there)}")
    runs = [
        Wanted(name=name, place=SITES[name].site(image), daemon=SITES[name].daemons[daemon], mode=each)
        for name, each in itertools.product(sites, modes)
    ]
    observer = JsonPrinter() if as_data else Printer(Console())
    error = ""
    try:
        trio.run(partial(_run_all, runs, only=only, observer=observer, keep=keep))
    except* LabError as errors:
        error = str(first_of(errors))
    if isinstance(observer, JsonPrinter):
        observer.tell()
    if error:
        raise click.ClickException(error)
    if len(observer.runs) < len(runs) and not observer.standing:
        sys.exit(130)
    if daemon == "ftfw" and any(lost(run.rows) for run in observer.runs):
        sys.exit(1)


async def _run_all(runs: Sequence[Wanted], *, only: str, observer: Observer, keep: bool) -> None:
    """Run each; a signal releases a lab that is kept, and cancels what is under way, which then removes itself."""
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
            for wanted in runs:
                kept = Keep(released=released, failed_only=wanted is not runs[-1]) if keep else None
                await run_lab(
                    name=wanted.name,
                    place=wanted.place,
                    mode=wanted.mode,
                    daemon=wanted.daemon,
                    observer=observer,
                    only=only,
                    keep=kept,
                )
                if observer.standing:
                    break
            nursery.cancel_scope.cancel()
