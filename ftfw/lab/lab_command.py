"""Defines `ftfw lab`, the command line of the failover lab in network namespaces."""

import click

from ftfw.lab.lab_leftovers import remove_leftovers
from ftfw.lab.lab_session import PlannedRun, lab_options, modes_of, run_session
from ftfw.lab.namespace_site import namespace_site
from ftfw.lab.replication_daemons import DAEMONS


@click.command()
@lab_options(daemons=list(DAEMONS), clean=remove_leftovers)
def lab(mode: str | None, daemon: str, only: str, as_data: bool, keep: bool) -> None:
    """Cut off the active firewall under real traffic, and report which flows survive.

    Two firewalls, a client and a server are made in network namespaces for this, and removed afterwards.
    Exit code 1 if the lab could not be run, or if ftfw lost a flow.
    """
    runs = [
        PlannedRun(site_name="namespaces", site=namespace_site(), daemon=DAEMONS[daemon], mode=each)
        for each in modes_of(daemon, mode)
    ]
    run_session(runs, only=only, as_data=as_data, keep=keep)
