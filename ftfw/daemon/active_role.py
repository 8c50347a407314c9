"""What an active does: kernel events → selection → stream; snapshots and comparisons when they are needed."""

import logging
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

import trio

from ftfw.daemon.engine_driver import EngineDriver
from ftfw.kernel import entry_digest
from ftfw.kernel.entry_digest import SALT_SIZE
from ftfw.kernel.event_selector import Selected, Selector
from ftfw.kernel.netlink import EventSocket, OverrunError, dump_expectations, dump_flows
from ftfw.replication.active import Active
from ftfw.replication.bucket_digests import Digests
from ftfw.replication.state_tables import Reading

log = logging.getLogger(__name__)

GATHER_S = 0.008  # events are gathered for so long: wake-ups, system calls and frames are paid per batch
DRAIN_MAX = 2048  # events taken between two checkpoints: a few milliseconds
COUNT_S = 60.0  # how old the counts may be for whoever does not ask for them, unless tables are compared less often


class Streaming:
    """The active's work, from subscription to cancellation."""

    def __init__(
        self,
        *,
        active: Active,
        events: EventSocket,
        selector: Selector,
        driver: EngineDriver,
        counts: Counter[str],
        counted: tuple[int, int] | None,
        compare_s: float,
    ) -> None:
        self.active = active
        self._events = events
        self._selector = selector
        self._driver = driver
        self.counted: tuple[int | None, int | None] = counted or (None, None)  # flows and expectations, when last read
        self._counted_at = trio.current_time() if counted else float("-inf")
        self._count_s = max(COUNT_S, compare_s)
        self._counts = counts  # events, overruns
        self._moved = trio.Event()  # replaced whenever backups have said something, or a timer was due

    def after_batch(self) -> None:
        """Wake what waits for backups to say something, or to be given up."""
        self._moved.set()
        self._moved = trio.Event()

    async def run(self) -> None:
        """Stream until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_events)
                nursery.start_soon(self._read_table)
        finally:
            self._events.close()

    async def _follow_events(self) -> None:
        while True:
            taken = await self._take_batch()
            if not taken:
                await self._events.wait()
            else:
                await trio.sleep(GATHER_S if taken < DRAIN_MAX else 0)

    async def _take_batch(self) -> int:
        """Stream a batch of events; returns of how many."""
        try:
            found = self._events.drain(DRAIN_MAX)
        except OverrunError:
            self._counts["overruns"] += 1
            log.warning(
                "the kernel had more events than kernel.event_buffer_bytes holds; a snapshot makes up for what was lost"
            )
            self.active.lose(trio.current_time())
            return DRAIN_MAX
        self._counts["events"] += len(found)
        selected = self._selector.select(found)
        self.active.offer(selected.parts, trio.current_time())
        self._driver.flush()  # with a heartbeat, if one is due: by itself it would wake the backup once more
        for answers in self._selector.follow(selected.hints):
            self.active.offer(answers.parts, trio.current_time())
            self._driver.flush()
            await trio.lowlevel.checkpoint()
        return len(found)

    async def _read_table(self) -> None:
        """Read the kernel's table whenever a backup needs it, or its counts are old."""
        while True:
            wanted = self.active.wanted() if self.active.live(trio.current_time()) else Reading.NOTHING
            if wanted is Reading.SNAPSHOT:
                await self._snapshot()
            elif wanted is Reading.COMPARISON:
                await self._compare()
            elif trio.current_time() - self._counted_at >= self._count_s:
                async with aclosing(self._dumped()) as dumped:
                    async for _ in dumped:
                        pass  # it counts
            else:
                with trio.move_on_at(self._counted_at + self._count_s):
                    await self._moved.wait()

    async def _snapshot(self) -> None:
        """Stream the table, or the buckets of it that are wanted: flows first, then expectations."""
        scope = self.active.begin_snapshot(trio.current_time())
        self._driver.flush()
        async with aclosing(self._dumped()) as dumped:
            async for found in dumped:
                parts = found.parts if scope is None else [entry_digest.within(scope, found.messages, found.parts)]
                await self._wait_for_room()
                self.active.add_snapshot(parts, trio.current_time())
                self._driver.flush()
        await self._catch_up()
        self.active.end_snapshot(trio.current_time())
        self._driver.flush()

    async def _compare(self) -> None:
        """Stream the digests of the table."""
        self.active.begin_comparison(trio.current_time())
        self._driver.flush()
        salt, digests = os.urandom(SALT_SIZE), Digests()
        async with aclosing(self._dumped()) as dumped:
            async for found in dumped:
                digests.add(entry_digest.digests(entry_digest.dumped(found.parts), salt))
        await self._catch_up()
        for _ in self.active.end_comparison(digests, salt, trio.current_time()):
            self._driver.flush()
            await self._wait_for_room()

    async def _dumped(self) -> AsyncGenerator[Selected, None]:
        """What concerns the peer of the kernel's table: flows first, then expectations."""
        counts = []
        for dump in (dump_flows, dump_expectations):
            count = 0
            async with aclosing(dump()) as batches:
                async for batch in batches:
                    found = self._selector.dumped(batch)
                    count += len(found.messages)
                    yield found
            counts.append(count)
        self.counted = counts[0], counts[1]
        self._counted_at = trio.current_time()

    async def _wait_for_room(self) -> None:
        while not self.active.may_snapshot(trio.current_time()):
            await self._moved.wait()

    async def _catch_up(self) -> None:
        """Stream what happened while the table was read, so that nothing in it is ahead of the events.

        That is, as much as may have waited in the socket's buffer: more may be coming all the time.
        """
        for _ in range(self._events.most // DRAIN_MAX + 1):
            if await self._take_batch() < DRAIN_MAX:
                break
            await trio.lowlevel.checkpoint()
