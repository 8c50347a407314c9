"""What a backup holds for its peer: flows and expectations, as the stream left them.  Pure.

Snapshot and live events may interleave in any way.  Between `begin_snapshot` and `end_snapshot` an entry that a live
event has touched is the event's: the snapshot only fills in what the event left out, and does not bring back what was
destroyed.  What neither has named by the end is gone from the active, and goes.  Until then it stays held, so that a
promotion in the middle has the most there is.  A snapshot may be of some buckets only; the rest stays as it is then.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from ftfw.kernel import decode, entry_digest, expectation, flow_entry
from ftfw.kernel.attributes import BODY, MalformedError
from ftfw.kernel.flow_entry import Kind
from ftfw.kernel.flow_model import Expectation, Flow
from ftfw.kernel.message_run import Run
from ftfw.kernel.message_shapes import DESTROY, PREFIX, SHAPES, Shape, dumped_value
from ftfw.kernel.validate import Checker
from ftfw.replication import limits
from ftfw.replication.bucket_digests import Scope

REPAIRS: Final = ("missing", "stale", "different")


class Store:
    """Flows and expectations by key; `dropped` counts by reason what could not be held.

    `repaired` counts, by kind, what snapshots that were to repair found: one of `REPAIRS`.

    `journal` True: the keys that changed are kept until `take_changes`, for a kernel that follows the store.
    """

    def __init__(self, *, journal: bool = False, dropped: Counter[str] | None = None) -> None:
        self.plain: dict[bytes, bytes] = {}  # flows of which an event says everything: it replaces them
        self.rich: dict[bytes, bytes] = {}  # flows with more attributes: events are laid over them
        self.expectations: dict[bytes, bytes] = {}
        self.dropped: Counter[str] = Counter() if dropped is None else dropped
        self._helped: dict[bytes, set[bytes]] = {}  # original tuple → keys of the flows with a helper, for their zones
        self._journal: set[bytes] | None = set() if journal else None
        self._checker = Checker()
        self.repaired: Counter[str] = Counter()
        self._watched: set[bytes] | None = None  # what live events touched since `watch`
        self._live: set[bytes] | None = None  # while a snapshot is under way: what live events touched
        self._scope: Scope | None = None  # the entries that the snapshot is of; None: all
        self._repairs: dict[bytes, str] | None = None  # what it found, by key, unless it is not to repair
        self._present: set[bytes] = set()  # what the snapshot named
        self._whole: set[bytes] = set()  # of which the kernel has told everything meanwhile
        self._doubtful: dict[bytes, frozenset[int]] = {}  # and what live events left of what was held before

    @property
    def in_snapshot(self) -> bool:
        """Whether a snapshot has begun and not ended."""
        return self._live is not None

    @property
    def awaits_masters(self) -> bool:
        """Whether flows may yet come that others name as their masters: a snapshot of everything is under way."""
        return self._live is not None and self._scope is None

    @property
    def snapshot_size(self) -> int:
        """How many entries the snapshot under way has named so far."""
        return len(self._present)

    def flow_count(self) -> int:
        """How many flows are held."""
        return len(self.plain) + len(self.rich)

    def apply(self, messages: Run | Iterable[bytes]) -> None:
        """Take live messages in, in their order."""
        if isinstance(messages, Run):
            if self._apply_run(messages):
                return
            messages = messages.split()
        plain, rich, doubtful = self.plain, self.rich, self._doubtful
        touched: list[bytes] = []
        touch = touched.append if self._notes() else None
        careful = bool(rich or doubtful)
        shape_of, as_number = SHAPES.get, int.from_bytes
        for message in messages:
            shape = shape_of(message[:PREFIX])
            # `shape.fits` without the call
            if (
                shape is None
                or shape.dump
                or len(message) != shape.size
                or as_number(message, "big") & shape.mask != shape.pattern
            ):
                self._apply_slowly(message, touched)
                careful = True
                continue
            key = message[BODY : shape.split]
            if careful and (key in rich or key in doubtful):
                self._apply_slowly(message, touched)
                continue
            if touch is not None:
                touch(key)
            if shape.kind == DESTROY:
                plain.pop(key, None)
            else:
                plain[key] = message[shape.split :]
        self._note(touched)

    def _apply_run(self, run: Run) -> bool:
        """Take a run in without looking at each message; False if something in it asks for that."""
        ends = run.shape.kind == DESTROY
        if run.shape.dump:
            return False
        if ends or self.rich or self._doubtful or self._notes():
            keys = run.keys()
            if not (self.rich.keys().isdisjoint(keys) and self._doubtful.keys().isdisjoint(keys)):
                return False
            self._note(keys)
            if ends:
                for key in keys:
                    self.plain.pop(key, None)
                return True
        self.plain.update(run.pairs())
        return True

    def _notes(self) -> bool:
        """Whether anybody wants to know what live events touch."""
        return self._live is not None or self._journal is not None or self._watched is not None

    def _note(self, touched: list[bytes]) -> None:
        for noted in (self._live, self._journal, self._watched):
            if noted is not None:
                noted.update(touched)

    def _apply_slowly(self, message: bytes, touched: list[bytes]) -> None:
        self._note(touched)  # whether a flow was touched before makes a difference here
        touched.clear()
        try:
            parsed = flow_entry.parse(message)
            self._checker.check(message, parsed)
            if parsed.kind in (Kind.EXPECT_NEW, Kind.EXPECT_DESTROY):
                key = expectation.key_of(parsed.attributes)
                if parsed.kind is Kind.EXPECT_NEW:
                    self.expectations[key] = expectation.value_of(parsed.attributes)
                else:
                    self.expectations.pop(key, None)
            else:
                key = flow_entry.key_of(parsed.attributes)
                if not self._apply_flow(parsed, key):
                    return
            touched.append(key)
        except MalformedError:
            self.dropped["malformed"] += 1

    def _apply_flow(self, parsed: flow_entry.Parsed, key: bytes) -> bool:
        """Whether the message was about a flow that is, or has just ended."""
        if parsed.kind is Kind.DESTROY:
            self._doubtful.pop(key, None)
            self._remove(key)
            return True
        old = self.plain.get(key) or self.rich.get(key)
        if parsed.kind is Kind.FULL and (old is None or not flow_entry.same_instance(old, parsed.attributes)):
            if self._live is None or key in self._live or (self._scope is not None and key not in self._scope):
                return False  # the answer to a question about a flow that has ended since, or was never heard of
            old = None  # what the snapshot under way says of it may be older than the answer
        if self._live is not None:
            self._doubt(key, old, parsed)
        self._hold(key, flow_entry.overlay(old, parsed.kind, parsed.attributes, self.dropped))
        return True

    def _doubt(self, key: bytes, old: bytes | None, parsed: flow_entry.Parsed) -> None:
        """Keep account of what the snapshot under way is to say of a flow, not what was held before it."""
        left: frozenset[int] = frozenset()
        if parsed.kind is Kind.FULL:
            self._whole.add(key)
        if parsed.kind is Kind.UPDATE and old is not None and flow_entry.same_instance(old, parsed.attributes):
            assert self._live is not None
            if key in self._doubtful:
                left = self._doubtful[key] - parsed.attributes.keys()
            elif key not in self._live and key not in self._present:
                left = flow_entry.unsaid(old, parsed.attributes)
        if left:
            self._doubtful[key] = left
        else:
            self._doubtful.pop(key, None)

    def _hold(self, key: bytes, value: bytes) -> None:
        if flow_entry.is_plain(key, value):
            if key in self.rich:
                self._remove(key)
            self.plain[key] = value
            return
        self.plain.pop(key, None)
        self.rich[key] = value
        if flow_entry.has_helper(value):
            self._helped.setdefault(flow_entry.tuple_of(key), set()).add(key)

    def _remove(self, key: bytes) -> None:
        if self.plain.pop(key, None) is not None or self.rich.pop(key, None) is None:
            return
        tuple_ = flow_entry.tuple_of(key)
        helped = self._helped.get(tuple_)
        if helped is not None:
            helped.discard(key)
            if not helped:
                del self._helped[tuple_]

    def zone_of(self, expectation_key: bytes) -> bytes:
        """The zone attribute of an expectation's master, or nothing: expectations do not name theirs."""
        masters = self.masters_of(expectation_key)
        return flow_entry.zone_of(min(masters, key=len)) if masters else b""

    def masters_of(self, expectation_key: bytes) -> Iterable[bytes]:
        """Return the keys of held flows that may be an expectation's master: they have its tuple, and a helper."""
        return self._helped.get(expectation.master_of(expectation_key), ())

    def begin_snapshot(self, scope: Scope | None = None, *, repair: bool = False) -> None:
        """A snapshot begins: everything in `scope` (None: all) that it and live events do not name goes at its end.

        `repair`: count what it finds wrong in `repaired`.
        """
        self.abort_snapshot()
        self._live = set()
        self._scope, self._repairs = scope, {} if repair else None

    def add_snapshot(self, messages: Run | Iterable[bytes]) -> None:
        """Take a part of the snapshot in.  Without a `begin_snapshot` there is nothing to be a part of."""
        assert self._live is not None
        changed: list[bytes] = []
        for message in messages.split() if isinstance(messages, Run) else messages:
            if (shape := _dump_shape(message)) is not None:
                key = message[BODY : shape.split]
                if key not in self._live and key not in self.rich and self._repairs is None:
                    self.plain[key] = dumped_value(message, shape)
                    self._present.add(key)
                    changed.append(key)
                    continue
            try:
                key, value, kind = self._snapshot_entry(message)
            except MalformedError:
                self.dropped["malformed"] += 1
                continue
            self._present.add(key)
            changed.append(key)
            if key in self._live:
                self._fill_in(key, value, kind)
                continue
            if self._repairs is not None:
                self._compare(key, value)
            if kind is Kind.EXPECT_NEW:
                self.expectations[key] = value
            else:
                self._hold(key, value)
        if self._journal is not None:
            self._journal.update(changed)

    def _fill_in(self, key: bytes, value: bytes, kind: Kind) -> None:
        """Put a snapshot's entry below what live events have said of it."""
        above = self.get_flow(key)
        if kind is Kind.FULL and above is not None and key not in self._whole:
            self._hold(key, flow_entry.under(value, above, self._doubtful.pop(key, frozenset())))

    def _snapshot_entry(self, message: bytes) -> tuple[bytes, bytes, Kind]:
        if (shape := _dump_shape(message)) is not None:
            return message[BODY : shape.split], dumped_value(message, shape), Kind.FULL
        parsed = flow_entry.parse(message)
        self._checker.check(message, parsed)
        key_of = expectation.key_of if parsed.kind is Kind.EXPECT_NEW else flow_entry.key_of
        key = key_of(parsed.attributes)
        if parsed.kind is Kind.EXPECT_NEW:
            return key, expectation.value_of(parsed.attributes), parsed.kind
        if parsed.kind is not Kind.FULL:
            raise MalformedError(f"{parsed.kind} in a snapshot")
        return key, flow_entry.overlay(self.get_flow(key), Kind.FULL, parsed.attributes, self.dropped), Kind.FULL

    def _compare(self, key: bytes, value: bytes) -> None:
        """Keep account of what a snapshot that is to repair finds."""
        assert self._repairs is not None
        held = self.value(key)
        if held is None:
            self._repairs[key] = "missing"
        elif not entry_digest.alike(held, value):
            self._repairs[key] = "different"

    def end_snapshot(self) -> int:
        """The snapshot is complete; returns how many entries went because nobody named them."""
        return sum(self.sweep())

    def sweep(self) -> Iterator[int]:
        """Do so a slice at a time; the snapshot ends with the last one."""
        assert self._live is not None
        for keys in self._slices():
            stale = [key for key in keys if not (key in self._live or key in self._present)]
            if self._scope is not None:
                stale = [key for key in stale if key in self._scope]
            for key in stale:
                if self.expectations.pop(key, None) is None:
                    self._remove(key)
            if self._journal is not None:
                self._journal.update(stale)
            if self._repairs is not None:
                self._repairs.update(dict.fromkeys(stale, "stale"))
            yield len(stale)
        if self._repairs is not None:
            self.repaired.update(kind for key, kind in self._repairs.items() if key not in self._live)
        self.abort_snapshot()

    def _slices(self) -> Iterator[list[bytes]]:
        """The keys of all that is held, as of now; some of them may be gone when their turn comes."""
        keys = [*self.plain, *self.rich, *self.expectations]
        for start in range(0, len(keys), limits.STEP_ENTRIES):
            yield keys[start : start + limits.STEP_ENTRIES]

    def watch(self) -> None:
        """Note what live events touch from now on."""
        self._watched = set()

    def unwatch(self) -> set[bytes]:
        """What they have touched; nothing is noted any more."""
        watched, self._watched = self._watched, None
        return watched or set()

    def digests(self, salt: bytes) -> Iterator[Iterator[tuple[bytes, int]]]:
        """Key and digest of all that is held, a slice at a time."""
        for keys in self._slices():
            values = ((key, self.value(key)) for key in keys)
            yield entry_digest.digests(((key, value) for key, value in values if value is not None), salt)

    def abort_snapshot(self) -> None:
        """The snapshot will not be completed; what it brought stays."""
        self._live, self._present, self._whole = None, set(), set()
        self._scope = self._repairs = None
        self._doubtful.clear()

    def take_changes(self) -> set[bytes]:
        """The keys that changed since the last call."""
        assert self._journal is not None
        changes, self._journal = self._journal, set()
        return changes

    def get_flow(self, key: bytes) -> bytes | None:
        """The value of a held flow."""
        return self.plain.get(key) or self.rich.get(key)

    def value(self, key: bytes) -> bytes | None:
        """The value of a held flow or expectation."""
        return self.get_flow(key) or self.expectations.get(key)

    def flows(self) -> Iterator[Flow]:
        """The held flows, decoded."""
        for key, value in chain(list(self.plain.items()), list(self.rich.items())):
            yield decode.flow(key, value)

    def decoded_expectations(self) -> Iterator[Expectation]:
        """The held expectations, decoded."""
        for key, value in list(self.expectations.items()):
            yield decode.expectation(key, value, self.zone_of(key))


def _dump_shape(message: bytes) -> Shape | None:
    """The shape of a message from a dump, if it has a plain one."""
    shape = SHAPES.get(message[:PREFIX])
    return shape if shape is not None and shape.dump and shape.fits(message) else None
