"""Builds the lab in namespaces of this machine: hosts share its kernel; the lab moves addresses and kills daemons."""

# Site describes what the methods promise.
# ruff: noqa: D102

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ftfw.lab import topology
from ftfw.lab.lab_host import Host
from ftfw.lab.namespaces import SWITCH, Network, network

HOUSE_RULES = Path(__file__).with_name("nftables.conf").read_text()


class NamespaceSite:
    """Makes every host a namespace; the lab itself starts daemons, kills them, and moves the virtual addresses."""

    patience = 1.0
    missing_rules = HOUSE_RULES
    flowtables: frozenset[str] = frozenset()  # both firewalls share one kernel, so the lab does not offload here

    def __init__(self, network: Network) -> None:
        self._network = network
        self.hosts: Mapping[str, Host] = {}

    async def build(self) -> None:
        """Make the hosts."""
        self.hosts = {name: await self._network.add_host(name) for name in topology.ADDRESSES}

    async def add_rules(self, name: str, text: str) -> None:
        await self.hosts[name].run("nft", "-f", "-", stdin=text)

    async def cut(self, name: str) -> None:
        await self._network.set_ports(name, "down")

    async def heal(self, name: str) -> None:
        await self._network.set_ports(name, "up")

    async def describe(self) -> Sequence[str]:
        return [f"ip netns exec {self._network.namespace(name)} bash" for name in (*self.hosts, SWITCH)]


@asynccontextmanager
async def namespace_site() -> AsyncIterator[NamespaceSite]:
    """Build the lab in namespaces, yield it, and remove it in every case."""
    async with network() as built:
        made = NamespaceSite(built)
        await made.build()
        yield made
