"""ftfw as it is installed: systemd starts it, keepalived moves the addresses and drives its role."""

# What the methods promise stands at Daemon.
# ruff: noqa: D102, ARG002

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ftfw.lab import plan
from ftfw.lab.daemons import SYNC_LIMIT_S, Daemon
from ftfw.lab.host import Host, LabError

CONFIG, KEY = "/etc/ftfw/ftfw.toml", "/etc/ftfw/link.key"
POLL_S = 0.5
TAKEOVER_LIMIT_S = 30


class KeepalivedAlone(Daemon):
    """The control: keepalived moves the addresses, and nothing replicates."""

    name = "none"
    own_addresses = True
    services: tuple[str, ...] = ("keepalived",)

    async def prepare(self, hosts: tuple[Host, ...]) -> None:
        """Begin from the beginning, whatever ran there before."""
        for host in hosts:
            await host.run("systemctl", "disable", "--now", "keepalived", "ftfw")
            # What a run that broke off has left would survive by itself. (TCP is not in the way, and ssh is TCP.)
            for protocol in ("udp", "gre"):
                await host.run("sh", "-c", f"conntrack -D -p {protocol} >/dev/null 2>&1 || true")
            await self.configure(host, hosts[0])

    async def configure(self, host: Host, first: Host) -> None:
        """Prepare a node that has nothing running; `first` is the one that is prepared first."""

    async def start(self, host: Host, role: str) -> None:
        """Start it, or see that it has started with its host."""
        for service in self.services:
            await host.run("systemctl", "enable", "--now", service)
        if role == "active":
            await self._until(lambda: self.is_active(host), f"{host.name} does not become active")

    async def is_active(self, host: Host) -> bool:
        """Whether all virtual addresses are there."""
        listed = await host.run("ip", "-brief", "address")
        return all(f" {address}/" in listed for addresses in plan.VIRTUAL.values() for address in addresses)

    async def synced(self, active: Host, backup: Host) -> None:
        return

    async def promote(self, host: Host) -> None:
        await self._until(lambda: self.is_active(host), f"{host.name} does not take over")

    async def take_over(self, host: Host, adopt: Callable[[], Awaitable[Any]]) -> float:
        """Leave it all to keepalived."""
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


class Installed(KeepalivedAlone):
    """ftfw, and what drives it."""

    name = "ftfw"
    services = ("ftfw", "keepalived")

    async def configure(self, host: Host, first: Host) -> None:
        config = await host.run("cat", CONFIG)
        await replace(host, CONFIG, re.sub(r'^mode = ".*"', f'mode = "{self.mode}"', config, flags=re.MULTILINE))
        if host is not first:
            await replace(host, KEY, await first.run("cat", KEY))

    async def start(self, host: Host, role: str) -> None:
        await super().start(host, role)
        await self._until(lambda: self._answers(host), f"ftfw on {host.name} does not answer")

    async def _answers(self, host: Host) -> bool:
        return bool(await self._status(host))

    async def _status(self, host: Host) -> dict[str, Any]:
        """The node's status; empty if it does not answer."""
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


async def replace(host: Host, path: str, content: str) -> None:
    """Change what a file of a host has, and neither its owner nor its mode."""
    await host.run("sh", "-c", f"cat >{path}", stdin=content)


INSTALLED: dict[str, type[Daemon]] = {kind.name: kind for kind in (Installed, KeepalivedAlone)}
