"""Installed ftfw: systemd starts it, keepalived moves the addresses and changes its role."""

# ReplicationDaemon describes what the methods promise.
# ruff: noqa: D102, ARG002

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ftfw.lab import topology
from ftfw.lab.lab_host import Host, LabError
from ftfw.lab.replication_daemons import SYNC_LIMIT_S, ReplicationDaemon

CONFIG, KEY = "/etc/ftfw/ftfw.toml", "/etc/ftfw/link.key"
POLL_S = 0.5
TAKEOVER_LIMIT_S = 30


class KeepalivedAlone(ReplicationDaemon):
    """Runs keepalived without ftfw, as the control: the addresses move, and nothing replicates."""

    name = "none"
    own_addresses = True
    services: tuple[str, ...] = ("keepalived",)

    async def prepare(self, hosts: tuple[Host, ...]) -> None:
        """Stop the services, delete the entries that an interrupted run left, and configure both nodes."""
        for host in hosts:
            await host.run("systemctl", "disable", "--now", "keepalived", "ftfw")
            # Entries of an interrupted run would let flows survive. TCP entries do no harm, and ssh uses one.
            for protocol in ("udp", "gre"):
                await host.run("sh", "-c", f"conntrack -D -p {protocol} >/dev/null 2>&1 || true")
            await self.configure(host, hosts[0])

    async def configure(self, host: Host, first: Host) -> None:
        """Configure a node on which nothing runs; `first` is the node that is prepared first."""

    async def start(self, host: Host, role: str) -> None:
        """Start the services, or find them started by the boot; wait until an active has the addresses."""
        for service in self.services:
            await host.run("systemctl", "enable", "--now", service)
        if role == "active":
            await self._until(lambda: self.is_active(host), f"{host.name} does not become active")

    async def is_active(self, host: Host) -> bool:
        """Tell whether the host has all virtual addresses."""
        listed = await host.run("ip", "-brief", "address")
        return all(f" {address}/" in listed for addresses in topology.VIRTUAL.values() for address in addresses)

    async def synced(self, active: Host, backup: Host) -> None:
        return

    async def promote(self, host: Host) -> None:
        await self._until(lambda: self.is_active(host), f"{host.name} does not take over")

    async def take_over(self, host: Host, adopt: Callable[[], Awaitable[Any]]) -> float:
        """Wait until keepalived has moved the addresses."""
        await self.promote(host)
        return 0.0

    async def _until(self, met: Callable[[], Awaitable[bool]], otherwise: str) -> None:
        limit_s = max(SYNC_LIMIT_S, TAKEOVER_LIMIT_S) * self.patience
        with trio.move_on_after(limit_s):
            while True:
                if await met():
                    return
                await trio.sleep(POLL_S)
        raise LabError(f"{otherwise} within {limit_s:g} s")


class InstalledFtfw(KeepalivedAlone):
    """Runs ftfw and keepalived as services."""

    name = "ftfw"
    services = ("ftfw", "keepalived")

    async def configure(self, host: Host, first: Host) -> None:
        config = await host.run("cat", CONFIG)
        await replace_content(
            host, CONFIG, re.sub(r'^mode = ".*"', f'mode = "{self.mode}"', config, flags=re.MULTILINE)
        )
        if host is not first:
            await replace_content(host, KEY, await first.run("cat", KEY))

    async def start(self, host: Host, role: str) -> None:
        await super().start(host, role)
        await self._until(lambda: self._answers(host), f"ftfw on {host.name} does not answer")

    async def _answers(self, host: Host) -> bool:
        return bool(await self._status(host))

    async def _status(self, host: Host) -> dict[str, Any]:
        """Return the node's status; an empty one if it does not answer."""
        try:
            status: dict[str, Any] = json.loads(await host.run("ftfw", "status", "--json"))
        except LabError:
            return {}
        return status

    async def is_active(self, host: Host) -> bool:
        return await super().is_active(host) and (await self._status(host)).get("role") == "active"

    async def synced(self, active: Host, backup: Host) -> None:
        async def is_synced() -> bool:
            return (await self._status(backup)).get("synced") is True

        try:
            await self._until(is_synced, f"ftfw on {backup.name} is not in sync")
        except LabError as error:
            why = (await self._status(backup)).get("why_not_synced")
            log = await backup.run("journalctl", "--no-pager", "-o", "cat", "-u", "ftfw", "-n", "10")
            raise LabError(f"{error}: {why}\n{log.strip()}") from None

    async def take_over(self, host: Host, adopt: Callable[[], Awaitable[Any]]) -> float:
        await self.promote(host)
        return float((await self._last_commit(host)).get("seconds", 0))

    async def account(self, host: Host) -> str:
        return f"last commit: {json.dumps(await self._last_commit(host))}"

    async def _last_commit(self, host: Host) -> dict[str, Any]:
        return (await self._status(host)).get("last_commit") or {}


async def replace_content(host: Host, path: str, content: str) -> None:
    """Replace the content of a file on a host; its owner and mode stay."""
    await host.run("sh", "-c", f"cat >{path}", stdin=content)


INSTALLED_DAEMONS: dict[str, type[ReplicationDaemon]] = {kind.name: kind for kind in (InstalledFtfw, KeepalivedAlone)}
