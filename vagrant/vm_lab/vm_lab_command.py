"""The command line of the lab with firewalls that boot."""

import itertools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import click

from ftfw.lab.lab_leftovers import remove_leftovers
from ftfw.lab.lab_session import PlannedRun, lab_options, modes_of, run_session
from ftfw.lab.lab_site import Site
from vagrant.vm_lab import control_groups
from vagrant.vm_lab.installed_daemons import INSTALLED_DAEMONS
from vagrant.vm_lab.machines_site import BOTH, ONE, machines_site
from vagrant.vm_lab.vagrant_site import vagrant_site

IMAGE = Path(__file__).parents[1] / "box/image"

SITES: dict[str, Callable[[Path], AbstractAsyncContextManager[Site, bool | None]]] = {
    "machines": lambda image: machines_site(image, emulated=BOTH),
    "mixed": lambda image: machines_site(image, emulated=ONE),
    "vagrant": lambda _: vagrant_site(),
}


async def remove_vm_leftovers() -> list[str]:
    """Remove what killed labs left, control groups included; return the names of those labs."""
    # Namespaces first: with them go the processes in the control groups.
    return sorted({*await remove_leftovers(), *await control_groups.remove_leftover_groups()})


@click.command()
@lab_options(daemons=list(INSTALLED_DAEMONS), clean=remove_vm_leftovers)
@click.option(
    "--site",
    "sites",
    multiple=True,
    type=click.Choice(list(SITES)),
    default=["machines", "mixed"],
    show_default=True,
    help="Where: two virtual machines, one and a container on this machine's kernel, or the machines of `vagrant up`;"
    " several, one after the other.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    default=IMAGE,
    help="The directory with the image that machines boot. Default: vagrant/box/image.",
)
def vm_lab(
    *, mode: str | None, daemon: str, only: str, as_data: bool, keep: bool, sites: tuple[str, ...], image: Path
) -> None:
    """Cut the power of the active firewall under real traffic and tell which flows live on.

    Everything but Vagrant's machines is made for this and removed afterwards.
    Exit code 1 if the lab could not be run, or if ftfw lost a flow.
    """
    runs = [
        PlannedRun(site_name=name, site=SITES[name](image), daemon=INSTALLED_DAEMONS[daemon], mode=each)
        for name, each in itertools.product(sites, modes_of(daemon, mode))
    ]
    run_session(runs, only=only, as_data=as_data, keep=keep)
