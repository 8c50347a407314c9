"""Defines the interface of a place that the lab runs in: places differ only in how a firewall is made and killed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ftfw.lab.lab_host import Host

FLOWTABLE_RULES = Path(__file__).with_name("flowtable.nft").read_text()


class Site(Protocol):
    """Holds the connected hosts: client, lan, firewalls, wan, server; and sync between the firewalls."""

    hosts: Mapping[str, Host]
    """Each host by its name in `topology`."""
    patience: float
    """Factor by which time limits are longer than in namespaces."""
    missing_rules: str
    """The part of the house ruleset that the firewalls have not loaded: all of it, or nothing where it is installed."""
    flowtables: frozenset[str]
    """Names of the firewalls whose kernel has flowtables."""

    async def add_rules(self, name: str, text: str) -> None:
        """Add rules in nft's language to the ruleset of a firewall, from now on and after each boot."""

    async def cut(self, name: str) -> None:
        """Cut a firewall off at once, from outside and without notice; no other host may lose a link."""

    async def heal(self, name: str) -> None:
        """Bring a firewall back that was cut."""

    async def describe(self) -> Sequence[str]:
        """Return the shell commands that lead into the hosts, one per host."""
