"""Runs an active: reads the kernel's events and table, and hands them to `TableReader`, which streams them."""

import logging
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import trio

from ftfw.daemon.engine_driver import EngineDriver
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.netlink import EventSocket, OverrunError, dump_expectations, dump_flows
from ftfw.replication.active import Active
from ftfw.replication.table_reader import TableReader

log = logging.getLogger(__name__)

GATHER_S = 0.008  # pause between two batches: wake-ups, system calls and frames cost per batch
DRAIN_MAX = 2048  # events read between two checkpoints: a few milliseconds
COUNT_S = 60.0  # longest time between two counts of the table, unless compare_s is longer


class ActiveRole:
    """Streams this kernel's events, and reads its table when a backup needs it, until cancelled.

    `counts` gets the numbers of events and overruns.  `known`: numbers of flows and expectations that this node has
    committed; None without a commit.  `compare_s`: seconds between two compares.
    """

    def __init__(
        self,
        *,
        active: Active,
        events: EventSocket,
        selector: Selector,
        driver: EngineDriver,
        counts: Counter[str],
        known: tuple[int, int] | None,
        compare_s: float,
    ) -> None:
        self.active = active
        self._events = events
        self._driver = driver
        self._counts = counts
        self._reader = TableReader(active, selector, random=os.urandom, count_s=max(COUNT_S, compare_s))
        if known is not None:
            self._reader.set_counts(*known, trio.current_time())
        self._moved = trio.Event()  # replaced after each batch of frames and each timer

    @property
    def table_counts(self) -> tuple[int | None, int | None]:
        """Return the numbers of flows and expectations that the last reading found; None before the first one."""
        return self._reader.counts or (None, None)

    def after_batch(self) -> None:
        """Wake the reading of the table: it may wait for a backup's acknowledgement or request, or for its loss."""
        self._moved.set()
        self._moved = trio.Event()

    async def run(self) -> None:
        """Stream until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stream_events)
                nursery.start_soon(self._read_table)
        finally:
            self._events.close()

    async def _stream_events(self) -> None:
        while True:
            count = await self._stream_batch()
            if not count:
                await self._events.wait()
            else:
                await trio.sleep(GATHER_S if count < DRAIN_MAX else 0)

    async def _stream_batch(self) -> int:
        """Stream a batch of events, and return how many there were; after an overrun, DRAIN_MAX."""
        try:
            events = self._events.drain(DRAIN_MAX)
        except OverrunError:
            self._counts["overruns"] += 1
            log.warning(
                "the kernel had more events than kernel.event_buffer_bytes holds, and some are lost;"
                " a compare with each backup finds the differences"
            )
            self._reader.lose_events(trio.current_time())
            return DRAIN_MAX
        self._counts["events"] += len(events)
        batches = self._reader.receive_events(events, trio.current_time())
        next(batches)
        self._driver.flush()  # with a heartbeat, if one is due: a heartbeat alone would wake the backup once more
        for _ in batches:
            self._driver.flush()
            await trio.lowlevel.checkpoint()
        return len(events)

    async def _read_table(self) -> None:
        while True:
            if self._reader.begin(trio.current_time()):
                self._driver.flush()
                await self._read_once()
            else:
                with trio.move_on_at(self._reader.count_at):
                    await self._moved.wait()

    async def _read_once(self) -> None:
        await self._add(dump_flows(), self._reader.add_flows)
        await self._add(dump_expectations(), self._reader.add_expectations)
        await self._catch_up()
        for _ in self._reader.end(trio.current_time()):
            self._driver.flush()
            await self._wait_for_room()

    async def _add(
        self, dump: AsyncGenerator[list[bytes], None], add: Callable[[Sequence[bytes], float], None]
    ) -> None:
        async with aclosing(dump) as batches:
            async for batch in batches:
                await self._wait_for_room()
                add(batch, trio.current_time())
                self._driver.flush()

    async def _wait_for_room(self) -> None:
        while not self._reader.has_room(trio.current_time()):
            await self._moved.wait()

    async def _catch_up(self) -> None:
        """Stream the events that arrived while the table was read, so that no entry read is newer than the events.

        At most as many are streamed as the socket's buffer may have held: new events may arrive all the time.
        """
        for _ in range(self._events.most // DRAIN_MAX + 1):
            if await self._stream_batch() < DRAIN_MAX:
                break
            await trio.lowlevel.checkpoint()
