"""What an active reads of a simulated kernel: events, and its table for snapshots and comparisons, a bit at a time."""

from random import Random

from ftfw.kernel import entry_digest
from ftfw.kernel.entry_digest import SALT_SIZE
from ftfw.kernel.event_selector import Selector
from ftfw.replication.active import Active
from ftfw.replication.bucket_digests import Digests, Scope
from ftfw.replication.state_tables import Reading
from tests.unit.table import Dump, Table

ALL = 1 << 30


class Reader:
    def __init__(self, active: Active, table: Table, random: Random, selector: Selector) -> None:
        self._active = active
        self._table = table
        self._random = random
        self._selector = selector
        self._dump: Dump | None = None
        self._scope: Scope | None = None
        self._digests = Digests()
        self._salt = b""

    def is_reading(self) -> bool:
        return self._dump is not None

    def step(self, now: float, buckets: int, *, send: bool = True) -> None:
        """Read so many buckets, if there is anything to read for; not `send`: what is read goes out in a later step."""
        if self._dump is None and not self._begin(now):
            return
        assert self._dump is not None
        if not self._active.may_snapshot(now):
            return
        more = all(self._dump.step() for _ in range(buckets))
        if not send:
            return
        found, self._dump.read = self._dump.read, []
        if self._active.reading is Reading.COMPARISON:
            self._digests.add(entry_digest.digests(entry_digest.dumped(self._selector.dumped(found).parts), self._salt))
        elif self._scope is None:
            self._active.add_snapshot(self._selector.dumped(found).parts, now)
        else:
            self._active.add_snapshot([entry_digest.within(self._scope, found, [found])], now)
        if not more:
            self._end(now)

    def follow(self, most: int, now: float) -> None:
        """Stream so many events, and the answers to what they hint at."""
        selected = self._selector.select(self._table.take(most))
        self._active.offer(selected.parts, now)
        for answers in self._selector.follow(selected.hints):
            self._active.offer(answers.parts, now)

    def _begin(self, now: float) -> bool:
        wanted = self._active.wanted()
        if wanted is Reading.SNAPSHOT:
            self._scope = self._active.begin_snapshot(now)
        elif wanted is Reading.COMPARISON:
            self._active.begin_comparison(now)
            self._digests, self._salt = Digests(8), self._random.randbytes(SALT_SIZE)
        else:
            return False
        self._dump = self._table.dump()
        return True

    def _end(self, now: float) -> None:
        self._dump = None
        self.follow(ALL, now)  # nothing in the table may be ahead of the events
        if self._active.reading is Reading.SNAPSHOT:
            self._active.end_snapshot(now)
        else:
            for _ in self._active.end_comparison(self._digests, self._salt, now):
                pass
