"""What the lab asks of the place that its machines are in: how a firewall is made and killed differs, nothing else."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ftfw.lab.daemons import Daemon
from ftfw.lab.host import Host

FLOWTABLE_RULES = Path(__file__).with_name("flowtable.nft").read_text()


class Site(Protocol):
    """The machines, cabled up: client, lan, firewalls, wan, server; and sync between the firewalls."""

    hosts: Mapping[str, Host]
    patience: float
    """How many times longer than in namespaces things may take."""
    missing_rules: str
    """What the firewalls lack of the house ruleset: all of it, or nothing where it is installed."""
    flowtables: frozenset[str]
    """The firewalls whose kernel has flowtables."""

    async def add_rules(self, name: str, text: str) -> None:
        """Add to the house ruleset of a firewall, from now on and after each boot."""

    async def cut(self, name: str) -> None:
        """Take the host away at once, from outside, and without a word to it; nobody else's link suffers."""

    async def heal(self, name: str) -> None:
        """Bring it back."""

    async def describe(self) -> Sequence[str]:
        """Tell how to look around by hand, one command per line."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the lab can be built."""

    daemons: Mapping[str, type[Daemon]]
    """Who may replicate there, by name."""
    site: Callable[[Path], AbstractAsyncContextManager[Site, bool | None]]
    """Builds it, given what virtual machines boot, and removes it afterwards."""
