"""The daemons that may stand between the takeover and the flows: ftfw, its peer conntrackd, or none."""

# What the methods promise stands at Daemon.
# ruff: noqa: D102, ARG002

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from ftfw.lab import plan
from ftfw.lab.host import Host, LabError, end

SYNC_LIMIT_S = 20
POLL_S = 0.2
LOG = "daemon.log"


class Daemon(ABC):
    """One replication daemon on both firewalls; knows who runs where."""

    name: str
    own_addresses = False
    """Whether the firewalls see to the virtual addresses and to who is active, and not the lab."""
    addresses_first = False
    """Whether the addresses move before `promote`: entries are in the kernel already, or traffic waits for them."""

    def __init__(self, mode: str, patience: float) -> None:
        self.mode = mode
        self.patience = patience
        self._processes: dict[str, trio.Process] = {}

    async def prepare(self, hosts: tuple[Host, ...]) -> None:
        """Do once what both nodes need."""
        return

    @abstractmethod
    async def start(self, host: Host, role: str) -> None:
        """Start the daemon in that role; it answers when this returns."""

    @abstractmethod
    async def synced(self, active: Host, backup: Host) -> None:
        """Return once the backup holds what the active has."""

    @abstractmethod
    async def promote(self, host: Host) -> None:
        """Make that node the active one; the peer is gone."""

    async def take_over(self, host: Host, adopt: Callable[[], Awaitable[Any]]) -> float:
        """Make that node the one that is active and has the addresses; how long promotion took, in seconds.

        `adopt` gives it the addresses.
        """
        if self.addresses_first:
            await adopt()
        begun = time.monotonic()
        await self.promote(host)
        seconds = time.monotonic() - begun
        if not self.addresses_first:
            await adopt()
        return seconds

    async def account(self, host: Host) -> str:
        """Tell what the node says about its last commit, for whoever reads the lab's output."""
        return ""

    async def kill(self, host: Host) -> None:
        """Kill -9, as a crash would."""
        if process := self._processes.pop(host.name, None):
            await end(process)

    async def kill_all(self) -> None:
        """Leave nothing running."""
        for process in self._processes.values():
            await end(process)
        self._processes.clear()

    async def launch(self, host: Host, *argv: str) -> None:
        """Start the daemon's process on a host."""
        self._processes[host.name] = await host.start(*argv, log=LOG)

    async def check_alive(self, host: Host) -> None:
        """LabError with the daemon's last words if it has ended."""
        if self._processes[host.name].poll() is not None:
            raise LabError(f"{self.name} on {host.name} ended:\n{(await host.read(LOG)).strip()[-2000:]}")


class Nobody(Daemon):
    """No daemon at all: the control, in which every flow has to be lost."""

    name = "none"

    async def start(self, host: Host, role: str) -> None:
        return

    async def synced(self, active: Host, backup: Host) -> None:
        return

    async def promote(self, host: Host) -> None:
        return


class Ftfw(Daemon):
    """Our own."""

    name = "ftfw"
    addresses_first = True

    async def prepare(self, hosts: tuple[Host, ...]) -> None:
        first, *others = hosts
        await self._ftfw(first, "keygen", f"{first.workdir}/link.key")
        for other in others:
            await other.write("link.key", await first.read("link.key"), mode=0o600)
        for host in hosts:
            await host.write("ftfw.toml", self._configuration(host))

    def _configuration(self, host: Host) -> str:
        return f"""\
[node]
name = "{host.name}"

[[link]]
transport = "multicast"
interface = "{plan.SYNC}"
group = "{plan.SYNC_GROUP}"
port = {plan.SYNC_PORT}

[security]
key_files = ["{host.workdir}/link.key"]

[standby]
mode = "{self.mode}"

[takeover]
gate_interfaces = ["{plan.LAN}", "{plan.WAN}"]

[control]
socket = "{host.workdir}/control.sock"
"""

    async def _ftfw(self, host: Host, *arguments: str) -> str:
        return await host.run(host.python, "-m", "ftfw", *arguments)

    async def _node(self, host: Host, *arguments: str) -> str:
        return await self._ftfw(host, *arguments, "--config", f"{host.workdir}/ftfw.toml")

    async def start(self, host: Host, role: str) -> None:
        config = f"{host.workdir}/ftfw.toml"
        await self.launch(host, host.python, "-m", "ftfw", "--role", role, "--config", config)
        await self._until(host, bool, "does not answer")

    async def _until(self, host: Host, met: Any, otherwise: str) -> None:
        with trio.move_on_after(SYNC_LIMIT_S):
            while True:
                await self.check_alive(host)
                try:
                    if met(await self._status(host)):
                        return
                except LabError:
                    pass  # not yet
                await trio.sleep(POLL_S)
        log = (await host.read(LOG)).strip()[-2000:]
        raise LabError(f"ftfw on {host.name} {otherwise} after {SYNC_LIMIT_S} s:\n{log}")

    async def _status(self, host: Host) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(await self._node(host, "status", "--json"))
        return status

    async def synced(self, active: Host, backup: Host) -> None:
        await self._until(backup, lambda status: status["synced"] is True, "is not in sync")

    async def promote(self, host: Host) -> None:
        await self._node(host, "promote")

    async def account(self, host: Host) -> str:
        return f"last commit: {json.dumps((await self._status(host)).get('last_commit'))}"


class Conntrackd(Daemon):
    """The peer, driven as its own primary-backup.sh drives it."""

    name = "conntrackd"

    async def prepare(self, hosts: tuple[Host, ...]) -> None:
        template = Path(__file__).with_name("conntrackd.conf").read_text()
        for host in hosts:
            address = plan.ADDRESSES[host.name][plan.SYNC][0].partition("/")[0]
            content = template.replace("@ADDRESS@", address).replace("@WORKDIR@", host.workdir)
            await host.write("conntrackd.conf", content)

    async def start(self, host: Host, role: str) -> None:
        await host.run("rm", "-f", "conntrackd.lock", "conntrackd.ctl")
        await self.launch(host, "conntrackd", "-C", f"{host.workdir}/conntrackd.conf")
        with trio.move_on_after(SYNC_LIMIT_S):
            while "cache" not in await self._ask(host, "-s"):
                await self.check_alive(host)
                await trio.sleep(POLL_S)
        if role == "backup":
            await self._ask(host, "-t")
            await self._ask(host, "-n")

    async def _ask(self, host: Host, *arguments: str) -> str:
        try:
            return await host.run("conntrackd", "-C", f"{host.workdir}/conntrackd.conf", *arguments)
        except LabError:
            return ""

    async def synced(self, active: Host, backup: Host) -> None:
        await trio.sleep(2)  # it has no word for it

    async def promote(self, host: Host) -> None:
        for step in ("-c", "-f", "-R", "-B"):
            await self._ask(host, step)


DAEMONS: dict[str, type[Daemon]] = {kind.name: kind for kind in (Ftfw, Nobody, Conntrackd)}
