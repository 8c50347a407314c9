"""Runs the daemons whose replication the lab tries: ftfw, conntrackd, or none."""

# ReplicationDaemon describes what the methods promise.
# ruff: noqa: D102, ARG002

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from ftfw.lab import topology
from ftfw.lab.lab_host import Host, LabError, end

SYNC_LIMIT_S = 20
POLL_S = 0.2
LOG = "daemon.log"


class ReplicationDaemon(ABC):
    """Starts, promotes and kills one replication daemon on both firewalls."""

    name: str
    own_addresses = False
    """True if the firewalls, and not the lab, move the virtual addresses and decide which one is active."""
    addresses_first = False
    """True if the addresses move before `promote`: the entries are in the kernel already, or traffic waits for them."""

    def __init__(self, mode: str, patience: float) -> None:
        self.mode = mode
        self.patience = patience
        self._processes: dict[str, trio.Process] = {}

    async def prepare(self, hosts: tuple[Host, ...]) -> None:
        """Prepare both nodes, once, before the first start."""
        return

    @abstractmethod
    async def start(self, host: Host, role: str) -> None:
        """Start the daemon in a role (`active` or `backup`); it answers when this returns."""

    @abstractmethod
    async def synced(self, active: Host, backup: Host) -> None:
        """Return when the backup is in sync with the active."""

    @abstractmethod
    async def promote(self, host: Host) -> None:
        """Make that node the active one after the other one was cut off."""

    async def take_over(self, host: Host, adopt: Callable[[], Awaitable[Any]]) -> float:
        """Make that node active and move the virtual addresses to it; return the duration of the promotion in seconds.

        `adopt` moves the addresses.
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
        """Return the node's own report on its last commit, for the output of the lab; empty if it has none."""
        return ""

    async def kill(self, host: Host) -> None:
        """Kill the daemon with SIGKILL."""
        if process := self._processes.pop(host.name, None):
            await end(process)

    async def kill_all(self) -> None:
        """Kill the daemons on all hosts."""
        for process in self._processes.values():
            await end(process)
        self._processes.clear()

    async def launch(self, host: Host, *argv: str) -> None:
        """Start the process of the daemon on a host."""
        self._processes[host.name] = await host.start(*argv, log=LOG)

    async def check_alive(self, host: Host) -> None:
        """Raise LabError with the end of the daemon's log if it has ended."""
        if self._processes[host.name].poll() is not None:
            raise LabError(f"{self.name} on {host.name} ended:\n{(await host.read(LOG)).strip()[-2000:]}")


class NoReplication(ReplicationDaemon):
    """Runs no daemon, as the control: every flow has to be lost."""

    name = "none"

    async def start(self, host: Host, role: str) -> None:
        return

    async def synced(self, active: Host, backup: Host) -> None:
        return

    async def promote(self, host: Host) -> None:
        return


class FtfwDaemon(ReplicationDaemon):
    """Runs ftfw."""

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
interface = "{topology.SYNC}"
group = "{topology.SYNC_GROUP}"
port = {topology.SYNC_PORT}

[security]
key_files = ["{host.workdir}/link.key"]

[standby]
mode = "{self.mode}"

[takeover]
gate_interfaces = ["{topology.LAN}", "{topology.WAN}"]

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

    async def _until(self, host: Host, met: Callable[[dict[str, Any]], bool], otherwise: str) -> None:
        with trio.move_on_after(SYNC_LIMIT_S):
            while True:
                await self.check_alive(host)
                try:
                    if met(await self._status(host)):
                        return
                except LabError:
                    pass  # the control socket does not answer yet
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


class ConntrackdDaemon(ReplicationDaemon):
    """Runs conntrackd, with the commands of its own primary-backup.sh."""

    name = "conntrackd"

    async def prepare(self, hosts: tuple[Host, ...]) -> None:
        template = Path(__file__).with_name("conntrackd.conf").read_text()
        for host in hosts:
            address = topology.ADDRESSES[host.name][topology.SYNC][0].partition("/")[0]
            content = template.replace("@ADDRESS@", address).replace("@WORKDIR@", host.workdir)
            await host.write("conntrackd.conf", content)

    async def start(self, host: Host, role: str) -> None:
        await host.run("rm", "-f", "conntrackd.lock", "conntrackd.ctl")
        await self.launch(host, "conntrackd", "-C", f"{host.workdir}/conntrackd.conf")
        with trio.move_on_after(SYNC_LIMIT_S) as limit:
            while "cache" not in await self._ask(host, "-s"):
                await self.check_alive(host)
                await trio.sleep(POLL_S)
        if limit.cancelled_caught:
            log = (await host.read(LOG)).strip()[-2000:]
            raise LabError(f"conntrackd on {host.name} does not answer after {SYNC_LIMIT_S} s:\n{log}")
        if role == "backup":
            await self._ask(host, "-t")
            await self._ask(host, "-n")

    async def _ask(self, host: Host, *arguments: str) -> str:
        try:
            return await host.run("conntrackd", "-C", f"{host.workdir}/conntrackd.conf", *arguments)
        except LabError:
            return ""

    async def synced(self, active: Host, backup: Host) -> None:
        await trio.sleep(2)  # conntrackd does not report whether it is in sync

    async def promote(self, host: Host) -> None:
        for step in ("-c", "-f", "-R", "-B"):
            await self._ask(host, step)


DAEMONS: dict[str, type[ReplicationDaemon]] = {
    kind.name: kind for kind in (FtfwDaemon, NoReplication, ConntrackdDaemon)
}
