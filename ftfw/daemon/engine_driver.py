"""Runs sans-I/O engines: calls their timers when they are due, and sends their bodies."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

import trio

from ftfw.daemon.transport import Transport


class Engine(Protocol):
    """Defines the part of an engine that its driver uses.  All times are seconds, monotonic."""

    def bodies_to_send(self) -> list[bytes]:
        """Return the bodies of the frames to send, in their order, and forget them."""

    def get_timer(self) -> float | None:
        """Return the time at which `handle_timer` is to be called; None if nothing will be due."""

    def handle_timer(self, now: float) -> None:
        """Do everything that is due at `now`."""


class EngineDriver:
    """Sends the bodies of `engines`, and sleeps until the earliest of their timers.

    Callers of an engine's methods call `flush` afterwards.  `moved` is called, without arguments, when engines may
    have changed their state: after a batch of frames, and after a timer.
    """

    def __init__(self, engines: Sequence[Engine], transport: Transport, *, moved: Callable[[], None]) -> None:
        self._engines = engines
        self._transport = transport
        self._moved = moved
        self._sleep = trio.CancelScope()

    async def run(self) -> None:
        """Run the engines' timers until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._earliest()) as self._sleep:
                await trio.sleep_forever()
            self.after_batch()

    def after_batch(self) -> None:
        """Send the bodies that a batch of received frames, or a timer, has caused, and call `moved`."""
        self.flush()
        self._moved()

    def flush(self) -> None:
        """Handle the timers that are due, and send the engines' bodies."""
        now = trio.current_time()
        for engine in self._engines:
            timer = engine.get_timer()
            if timer is not None and timer <= now:
                engine.handle_timer(now)
            self._transport.send(engine.bodies_to_send())
        # A deadline that is too early costs one wake-up; moving it at each batch would cost more.
        if (earliest := self._earliest()) < self._sleep.deadline:
            self._sleep.deadline = earliest

    def _earliest(self) -> float:
        timers = [engine.get_timer() for engine in self._engines]
        return min((timer for timer in timers if timer is not None), default=inf)
