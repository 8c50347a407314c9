"""Notifies systemd that the daemon is ready, in which state it is, and that its loop runs (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import trio

log = logging.getLogger(__name__)

STATUS_S: Final = 1.0  # within which a change of the status is sent
FEEDS: Final = 3  # within the watchdog's timeout


class SystemdNotifier:
    """Sends notifications to $NOTIFY_SOCKET; without that variable, sends nothing."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # "@" begins an abstract address; services get only these two kinds of address.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path if path.startswith("/") else None
        self._tick_s = min(STATUS_S, (_watchdog_s(environment) or STATUS_S * FEEDS) / FEEDS)
        self._status: str | None = None

    async def run(self, describe: Callable[[], str]) -> None:
        """Send that the daemon is ready, then that its loop runs and the line from `describe`, until cancelled."""
        self._send("READY=1", *self._changed(describe()))
        while self._address is not None:
            await trio.sleep(self._tick_s)
            self._send("WATCHDOG=1", *self._changed(describe()))

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Send that the daemon reloads, and afterwards that it is ready."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def stopping(self) -> None:
        """Send that the daemon is about to end."""
        self._send("STOPPING=1")

    def _changed(self, status: str) -> tuple[str, ...]:
        if status == self._status:
            return ()
        self._status = status
        return (f"STATUS={status}",)

    def _send(self, *words: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto("\n".join(words).encode(), self._address)
            except OSError as error:
                log.warning("systemd does not get %s: %s; check NotifyAccess= in ftfw's unit", words[0], error.strerror)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's timeout in seconds; None without a watchdog, or if it watches another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(environment.get("WATCHDOG_USEC", 0)) / 1e6 or None


def one_line(role: str, *, conflict: bool, synced: bool | None, why_not: str | None) -> str:
    """Return the status in a line; `synced` is None for a node without peers."""
    if conflict:
        return f"{role}; conflict: more than one node is active"
    if why_not is not None:
        return f"{role}; {why_not}"
    return f"{role}, {'no peer is heard' if synced is None else 'in sync' if synced else 'not in sync'}"
