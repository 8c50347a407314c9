"""What an active does: kernel events → selection → stream; snapshots when a backup needs one."""

import logging
from collections import Counter
from contextlib import aclosing

import trio

from ftfw.daemon.wire import Wire
from ftfw.kernel.inject import Injector
from ftfw.kernel.netlink import EventSocket, OverrunError, dump_expectations, dump_flows
from ftfw.kernel.select import Selector
from ftfw.replication.active import Active

log = logging.getLogger(__name__)

GATHER_S = 0.008  # events are gathered for so long: wake-ups, system calls and frames are paid per batch
DRAIN_MAX = 2048  # events taken between two checkpoints: a few milliseconds
TICK_S = 0.1
WINDOW_LOOK_S = 0.1  # a backup that vanished sends no acknowledgement that would wake the snapshot
HINTS_PER_REQUEST = 128


class Streaming:
    """The active's work, from subscription to cancellation."""

    def __init__(
        self,
        *,
        active: Active,
        events: EventSocket,
        selector: Selector,
        injector: Injector,
        wire: Wire,
        counts: Counter[str],
    ) -> None:
        self.active = active
        self._events = events
        self._selector = selector
        self._injector = injector
        self._wire = wire
        self._counts = counts  # events, overruns
        self._snapshot_begun = False
        self._heard = trio.Event()  # replaced whenever a backup has said something

    def after_batch(self) -> None:
        """Backups have said something."""
        self.send()
        self._heard.set()
        self._heard = trio.Event()

    async def run(self) -> None:
        """Stream until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_events)
                nursery.start_soon(self._keep_time, nursery)
        finally:
            self._events.close()

    def send(self) -> None:
        """Put what the protocol has to say on the wire."""
        self._wire.send(self.active.outgoing)

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
        now = trio.current_time()
        self.active.offer(selected.parts, now)
        self.active.tick(now)  # a heartbeat of its own would wake the backup once more
        self.send()
        if selected.hints:
            await self._answer_hints(list(selected.hints))
        return len(found)

    async def _answer_hints(self, keys: list[bytes]) -> None:
        """Read flows that changed without an event, and stream all there is of them."""
        for start in range(0, len(keys), HINTS_PER_REQUEST):
            found = self._injector.read(keys[start : start + HINTS_PER_REQUEST])
            selected = self._selector.answers(found)
            self.active.offer(selected.parts, trio.current_time())
            self.send()
            await trio.lowlevel.checkpoint()

    async def _keep_time(self, nursery: trio.Nursery) -> None:
        while True:
            now = trio.current_time()
            self.active.tick(now)
            self.send()
            if self.active.snapshot_wanted and not self._snapshot_begun and self.active.live(now):
                self._snapshot_begun = True
                nursery.start_soon(self._snapshot)
            await trio.sleep(TICK_S)

    async def _snapshot(self) -> None:
        """Stream the whole table: flows first, then expectations."""
        self.active.begin_snapshot(trio.current_time())
        self.send()
        for dump in (dump_flows, dump_expectations):
            async with aclosing(dump()) as batches:
                async for batch in batches:
                    selected = self._selector.dumped(batch)
                    while not self.active.may_snapshot(trio.current_time()):
                        with trio.move_on_after(WINDOW_LOOK_S):
                            await self._heard.wait()
                    self.active.add_snapshot(selected.parts, trio.current_time())
                    self.send()
        self.active.end_snapshot(trio.current_time())
        self.send()
        self._snapshot_begun = False
