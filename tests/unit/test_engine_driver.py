from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ftfw.daemon.engine_driver import EngineDriver
from ftfw.daemon.transport import Transport


class Bodies(Transport):
    """A transport that keeps what is sent, and when."""

    def __init__(self, clock: MockClock) -> None:
        super().__init__([], [b"k" * 32], name="fw1")
        self._clock = clock
        self.sent: list[tuple[float, bytes]] = []

    def send(self, bodies: Sequence[bytes]) -> None:
        self.sent += [(round(self._clock.current_time(), 3), body) for body in bodies]


class Clockwork:
    """An engine that says something each time its timer is due."""

    def __init__(self, name: bytes, timer: float | None) -> None:
        self.name = name
        self.timer = timer
        self.every = 10.0
        self.bodies: list[bytes] = []

    def bodies_to_send(self) -> list[bytes]:
        bodies, self.bodies = self.bodies, []
        return bodies

    def get_timer(self) -> float | None:
        return self.timer

    def handle_timer(self, now: float) -> None:
        self.timer = now + self.every
        self.bodies.append(self.name)


@asynccontextmanager
async def running(driver: EngineDriver) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def test_each_timer_is_handled_when_it_is_due_and_not_before(autojump_clock: MockClock) -> None:
    transport, moves = Bodies(autojump_clock), list[float]()
    driver = EngineDriver(
        [Clockwork(b"one", 1.0), Clockwork(b"two", 3.5)], transport, moved=lambda: moves.append(trio.current_time())
    )
    async with running(driver):
        await trio.sleep(12.0)
    assert transport.sent == [(1.0, b"one"), (3.5, b"two"), (11.0, b"one")]
    assert moves == pytest.approx([1.0, 3.5, 11.0])


async def test_a_flush_handles_what_is_due_and_says_it(autojump_clock: MockClock) -> None:
    transport, engine = Bodies(autojump_clock), Clockwork(b"one", None)
    driver = EngineDriver([engine], transport, moved=lambda: None)
    async with running(driver):
        engine.bodies.append(b"answer")
        driver.flush()
        engine.timer = trio.current_time()
        driver.flush()
    assert transport.sent == [(0.0, b"answer"), (0.0, b"one")]


@pytest.mark.parametrize("before", [None, 5.0])
async def test_a_timer_that_moves_ahead_is_not_slept_through(before: float | None, autojump_clock: MockClock) -> None:
    transport, engine = Bodies(autojump_clock), Clockwork(b"one", before)
    driver = EngineDriver([engine], transport, moved=lambda: None)
    async with running(driver):
        engine.timer = 2.0
        driver.flush()
        await trio.sleep(4.0)
    assert transport.sent == [(2.0, b"one")]


async def test_a_timer_that_moves_back_is_handled_when_it_is_due(autojump_clock: MockClock) -> None:
    transport, engine = Bodies(autojump_clock), Clockwork(b"one", 2.0)
    driver = EngineDriver([engine], transport, moved=lambda: None)
    async with running(driver):
        engine.timer = 3.0
        await trio.sleep(4.0)
    assert transport.sent == [(3.0, b"one")]
