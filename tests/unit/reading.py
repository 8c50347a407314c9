"""Drives `TableReader` over a simulated kernel: the dump is read a few buckets at a time, between other events."""

from random import Random

from ftfw.kernel.event_selector import Selector
from ftfw.replication.active import Active
from ftfw.replication.table_reader import TableReader
from tests.unit.conntrack import is_expectation
from tests.unit.table import Dump, Table

ALL = 1 << 30
BITS = 8  # of the number of buckets: tables are small


class Reader:
    """Reads one kernel's table for its active, as `daemon.active_role` does."""

    def __init__(self, active: Active, table: Table, random: Random, selector: Selector) -> None:
        self._reader = TableReader(active, selector, random=random.randbytes, bits=BITS)
        self._table = table
        self._dump: Dump | None = None

    def is_reading(self) -> bool:
        return self._reader.is_reading

    def step(self, now: float, buckets: int, *, send: bool = True) -> None:
        """Read so many buckets, if a backup needs it; without `send`, a later step streams what is read."""
        if self._dump is None:
            if not self._reader.begin(now):
                return
            self._dump = self._table.dump()
        if not self._reader.has_room(now):
            return
        more = all(self._dump.step() for _ in range(buckets))
        if not send:
            return
        found, self._dump.read = self._dump.read, []
        self._reader.add_flows([each for each in found if not is_expectation(each)], now)
        self._reader.add_expectations([each for each in found if is_expectation(each)], now)
        if not more:
            self._dump = None
            self.follow(ALL, now)  # nothing in the table may be ahead of the events
            for _ in self._reader.end(now):
                pass

    def follow(self, most: int, now: float) -> None:
        """Stream at most so many events, and what the kernel answers about flows that changed without an event."""
        for _ in self._reader.receive_events(self._table.take(most), now):
            pass
