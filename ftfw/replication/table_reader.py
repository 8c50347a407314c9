"""Reads an active's kernel into its stream: live events, snapshots, compares and counts.  Sans-I/O.

The driver reads the kernel and passes on the messages; `TableReader` decides whether they are streamed, digested or
only counted.  One reading goes through these steps, in this order:

1. `begin` returns True if the table is to be read.  The driver subscribed to events before.
2. `add_flows` gets each batch of the dump of flows, then `add_expectations` each batch of the dump of expectations.
   While `has_room` is false the driver waits: backups have not acknowledged enough of the snapshot.
3. `receive_events` gets the events that waited while the table was read, so that no entry of the dump is newer than the
   events in the stream.
4. `end` ends the snapshot, or streams the digests.

The daemon (`daemon/active_role`) and the simulation call these methods in the same order.
"""

from collections.abc import Callable, Iterator, Sequence
from math import inf

from ftfw.kernel import entry_digest
from ftfw.kernel.entry_digest import SALT_SIZE
from ftfw.kernel.event_selector import Selected, Selector
from ftfw.replication.active import Active
from ftfw.replication.bucket_digests import Digests, Scope
from ftfw.replication.limits import BUCKET_BITS_MAX
from ftfw.replication.state_tables import Reading


class TableReader:
    """Selects messages of an active's kernel, and hands them to the active's stream.

    `counts` are the numbers of flows and expectations that the last reading found.  `random(n)` returns n random bytes.
    The table is read only for its counts when these are older than `count_s` seconds.  Digests are collected in
    2^`bits` buckets; `Active.end_compare` folds them.  `now` is in seconds, monotonic.
    """

    def __init__(
        self,
        active: Active,
        selector: Selector,
        *,
        random: Callable[[int], bytes],
        count_s: float = inf,
        bits: int = BUCKET_BITS_MAX,
    ) -> None:
        self.counts: tuple[int, int] | None = None
        self._active = active
        self._selector = selector
        self._random = random
        self._count_s = count_s
        self._counted_at = -inf
        self._bits = bits
        self._reading: Reading | None = None
        self._scope: Scope | None = None  # the buckets of a snapshot; None: the whole table
        self._digests = Digests(bits)
        self._salt = b""
        self._flows = self._expectations = 0  # found by the reading under way

    def receive_events(self, events: Sequence[bytes], now: float) -> Iterator[None]:
        """Stream events, then the kernel's answers about flows that changed without an event.

        `events` are netlink messages, one each.  Yields after the events and after each batch of answers: the driver
        sends, and lets other tasks run.
        """
        selected = self._selector.select(events)
        self._active.offer(selected.parts, now)
        yield
        for answers in self._selector.read_hinted(selected.hints):
            self._active.offer(answers.parts, now)
            yield

    def lose_events(self, now: float) -> None:
        """Tell the backups that the kernel has lost events (ENOBUFS): each needs a compare or a snapshot."""
        self._active.lose(now)

    def begin(self, now: float) -> bool:
        """Begin a reading of the table if a backup needs one, or if the counts are old; return True if one began."""
        assert self._reading is None, "a reading is under way"
        wanted = self._active.wanted(now)
        if wanted is Reading.SNAPSHOT:
            self._scope = self._active.begin_snapshot(now)
        elif wanted is Reading.COMPARE:
            self._active.begin_compare(now)
            self._digests, self._salt = Digests(self._bits), self._random(SALT_SIZE)
        elif now < self.count_at:
            return False
        self._reading = wanted
        self._flows = self._expectations = 0
        return True

    @property
    def count_at(self) -> float:
        """Return when the table is to be read for its counts, unless it is read before (seconds, monotonic)."""
        return self._counted_at + self._count_s

    def set_counts(self, flows: int, expectations: int, now: float) -> None:
        """Set the counts as of `now`: a reading has ended, or this node has just committed so many entries."""
        self.counts, self._counted_at = (flows, expectations), now

    @property
    def is_reading(self) -> bool:
        """Return True if a reading has begun and not ended."""
        return self._reading is not None

    def has_room(self, now: float) -> bool:
        """Return True if more of this reading may be added; False while a snapshot waits for acknowledgements."""
        return self._reading in (Reading.NOTHING, Reading.COMPARE) or self._active.may_snapshot(now)

    def add_flows(self, messages: Sequence[bytes], now: float) -> None:
        """Add a batch of a dump of flows, one netlink message each."""
        self._flows += self._add(messages, now)

    def add_expectations(self, messages: Sequence[bytes], now: float) -> None:
        """Add a batch of a dump of expectations, one netlink message each."""
        self._expectations += self._add(messages, now)

    def _add(self, messages: Sequence[bytes], now: float) -> int:
        found = self._selector.dumped(messages)
        if self._reading is Reading.COMPARE:
            self._digests.add(entry_digest.digests(entry_digest.dumped(found.parts), self._salt))
        elif self._reading is Reading.SNAPSHOT:
            self._add_to_snapshot(found, now)
        return len(found.messages)

    def _add_to_snapshot(self, found: Selected, now: float) -> None:
        if self._scope is None:
            self._active.add_snapshot(found.parts, now)
        elif wanted := entry_digest.within(self._scope, found.messages, found.parts):
            self._active.add_snapshot([wanted], now)

    def end(self, now: float) -> Iterator[None]:
        """End the reading, after the events that waited during it are streamed.

        Yields after each frame of digests: the driver sends, and waits until there is room.
        """
        self.set_counts(self._flows, self._expectations, now)
        reading, self._reading = self._reading, None
        if reading is Reading.SNAPSHOT:
            self._active.end_snapshot(now)
            yield
        elif reading is Reading.COMPARE:
            yield from self._active.end_compare(self._digests, self._salt, now)
