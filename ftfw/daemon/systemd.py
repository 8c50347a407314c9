"""What a daemon says to systemd: that it is ready, how it is, and that it lives."""

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

STATUS_S: Final = 1.0  # how late a change of the status may be told
TICKS: Final = 3  # within the time after which the watchdog bites


class Supervisor:
    """Whoever has started this daemon and listens at $NOTIFY_SOCKET (sd_notify(3)); if nobody does, nothing is said."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # "@" begins an abstract address; a service is told nothing but these two kinds.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path if path.startswith("/") else None
        self._tick_s = min(STATUS_S, (_watchdog_s(environment) or STATUS_S * TICKS) / TICKS)
        self._status: str | None = None

    async def run(self, describe: Callable[[], str]) -> None:
        """Say that the daemon is ready, then what `describe` says and that this loop goes round, until cancelled.

        `describe` gives one line.
        """
        self._say("READY=1", *self._news(describe()))
        while self._address is not None:
            await trio.sleep(self._tick_s)
            self._say("WATCHDOG=1", *self._news(describe()))

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the daemon reads again what it goes by, and afterwards that it is ready."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._say("READY=1")

    def stopping(self) -> None:
        """Say that the daemon is about to end."""
        self._say("STOPPING=1")

    def _news(self, status: str) -> tuple[str, ...]:
        if status == self._status:
            return ()
        self._status = status
        return (f"STATUS={status}",)

    def _say(self, *words: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto("\n".join(words).encode(), self._address)
            except OSError as error:
                log.warning("systemd does not hear %s: %s; see NotifyAccess= in ftfw's unit", words[0], error.strerror)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """After how long a silence the watchdog bites; None if there is none, or it is another process's."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(environment.get("WATCHDOG_USEC", 0)) / 1e6 or None


def one_line(role: str, *, conflict: bool, synced: bool | None, why_not: str | None) -> str:
    """The status in a line; `synced` is None for a node without peers."""
    if conflict:
        return f"{role}; conflict: more than one node is active"
    if why_not is not None:
        return f"{role}; {why_not}"
    return f"{role}, {'no peer is heard' if synced is None else 'in sync' if synced else 'not in sync'}"
