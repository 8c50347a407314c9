"""What a backup holds for its peer: flows and expectations, as the stream left them.  Pure.

Snapshot and live events may interleave in any way.  Between `begin_snapshot` and `end_snapshot` an entry that a live
event has touched is the event's: the snapshot only fills in what the event left out, and does not bring back what was
destroyed.  What neither has named by the end is gone from the active, and goes.  Until then it stays held, so that a
promotion in the middle has the most there is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from ftfw.kernel import decode, entry, expectation
from ftfw.kernel.attributes import BODY, MalformedError
from ftfw.kernel.entry import Kind
from ftfw.kernel.layout import DESTROY, PREFIX, SHAPES, Shape, dumped_value
from ftfw.kernel.run import Run
from ftfw.kernel.wellformed import Checker
from ftfw.model import Expectation, Flow


class Store:
    """Flows and expectations by key; `dropped` counts by reason what could not be held.

    `journal` True: the keys that changed are kept until `take_changes`, for a kernel that follows the store.
    """

    def __init__(self, *, journal: bool = False) -> None:
        self.plain: dict[bytes, bytes] = {}  # flows of which an event says everything: it replaces them
        self.rich: dict[bytes, bytes] = {}  # flows with more attributes: events are laid over them
        self.expectations: dict[bytes, bytes] = {}
        self.dropped: Counter[str] = Counter()
        self._helped: dict[bytes, set[bytes]] = {}  # original tuple → keys of the flows with a helper, for their zones
        self._journal: set[bytes] | None = set() if journal else None
        self._checker = Checker()
        self._live: set[bytes] | None = None  # while a snapshot is under way: what live events touched
        self._present: set[bytes] = set()  # what the snapshot named
        self._doubtful: dict[bytes, frozenset[int]] = {}  # and what live events left of what was held before

    @property
    def in_snapshot(self) -> bool:
        """Whether a snapshot has begun and not ended."""
        return self._live is not None

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
        touch = touched.append if self._live is not None or self._journal is not None else None
        careful = bool(rich or doubtful)
        shape_of, as_number = SHAPES.get, int.from_bytes
        for message in messages:
            shape = shape_of(message[:PREFIX])
            if shape is None or shape.dump or as_number(message, "big") & shape.mask != shape.pattern:
                self._apply_slowly(message, touched)
                careful = True
                continue
            key = message[BODY : shape.split]
            if careful and (key in rich or key in doubtful):
                self._apply_slowly(message, touched)
                continue
            if touch is not None:
                touch(key)
            if shape.order == DESTROY:
                plain.pop(key, None)
            else:
                plain[key] = message[shape.split :]
        self._note(touched)

    def _apply_run(self, run: Run) -> bool:
        """Take a run in without looking at each message; False if something in it asks for that."""
        ends = run.shape.order == DESTROY
        if run.shape.dump:
            return False
        if ends or self.rich or self._doubtful or self._live is not None or self._journal is not None:
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

    def _note(self, touched: list[bytes]) -> None:
        if self._live is not None:
            self._live.update(touched)
        if self._journal is not None:
            self._journal.update(touched)

    def _apply_slowly(self, message: bytes, touched: list[bytes]) -> None:
        self._note(touched)  # whether a flow was touched before makes a difference here
        touched.clear()
        try:
            parsed = entry.parse(message)
            self._checker.check(message, parsed)
            if parsed.kind in (Kind.EXPECT_NEW, Kind.EXPECT_DESTROY):
                key = expectation.key_of(parsed.attributes)
                if parsed.kind is Kind.EXPECT_NEW:
                    self.expectations[key] = expectation.value_of(parsed.attributes)
                else:
                    self.expectations.pop(key, None)
            else:
                key = entry.key_of(parsed.attributes)
                if not self._apply_flow(parsed, key):
                    return
            touched.append(key)
        except MalformedError:
            self.dropped["malformed"] += 1

    def _apply_flow(self, parsed: entry.Parsed, key: bytes) -> bool:
        """Whether the message was about a flow that is, or has just ended."""
        if parsed.kind is Kind.DESTROY:
            self._doubtful.pop(key, None)
            self._remove(key)
            return True
        old = self.plain.get(key) or self.rich.get(key)
        if parsed.kind is Kind.FULL and (old is None or not entry.same_instance(old, parsed.attributes)):
            return False  # the answer to a question about a flow that has ended since, or was never heard of
        if self._live is not None:
            self._doubt(key, old, parsed)
        self._hold(key, entry.overlay(old, parsed.kind, parsed.attributes, self.dropped))
        return True

    def _doubt(self, key: bytes, old: bytes | None, parsed: entry.Parsed) -> None:
        """Keep account of what the snapshot under way is to say of a flow, not what was held before it."""
        left: frozenset[int] = frozenset()
        if parsed.kind is Kind.UPDATE and old is not None and entry.same_instance(old, parsed.attributes):
            assert self._live is not None
            if key in self._doubtful:
                left = self._doubtful[key] - parsed.attributes.keys()
            elif key not in self._live and key not in self._present:
                left = entry.unsaid(old, parsed.attributes)
        if left:
            self._doubtful[key] = left
        else:
            self._doubtful.pop(key, None)

    def _hold(self, key: bytes, value: bytes) -> None:
        if entry.is_plain(key, value):
            if key in self.rich:
                self._remove(key)
            self.plain[key] = value
            return
        self.plain.pop(key, None)
        self.rich[key] = value
        if entry.has_helper(value):
            self._helped.setdefault(entry.tuple_of(key), set()).add(key)

    def _remove(self, key: bytes) -> None:
        if self.plain.pop(key, None) is not None or self.rich.pop(key, None) is None:
            return
        tuple_ = entry.tuple_of(key)
        helped = self._helped.get(tuple_)
        if helped is not None:
            helped.discard(key)
            if not helped:
                del self._helped[tuple_]

    def zone_of(self, expectation_key: bytes) -> bytes:
        """The zone attribute of an expectation's master, or nothing: expectations do not name theirs."""
        helped = self._helped.get(expectation.master_of(expectation_key), ())
        return entry.zone_of(min(helped, key=len)) if helped else b""

    def begin_snapshot(self) -> None:
        """A snapshot begins: everything that it and live events do not name will go at its end."""
        self._live, self._present = set(), set()
        self._doubtful.clear()

    def add_snapshot(self, messages: Run | Iterable[bytes]) -> None:
        """Take a part of the snapshot in.  Without a `begin_snapshot` there is nothing to be a part of."""
        assert self._live is not None
        changed: list[bytes] = []
        for message in messages.split() if isinstance(messages, Run) else messages:
            if (shape := _dump_shape(message)) is not None:
                key = message[BODY : shape.split]
                if key not in self._live and key not in self.rich:
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
            live = key in self._live
            if kind is Kind.EXPECT_NEW:
                if not live:
                    self.expectations[key] = value
            elif not live:
                self._hold(key, value)
            elif (above := self.plain.get(key) or self.rich.get(key)) is not None:
                self._hold(key, entry.under(value, above, self._doubtful.pop(key, frozenset())))
        if self._journal is not None:
            self._journal.update(changed)

    def _snapshot_entry(self, message: bytes) -> tuple[bytes, bytes, Kind]:
        if (shape := _dump_shape(message)) is not None:
            return message[BODY : shape.split], dumped_value(message, shape), Kind.FULL
        parsed = entry.parse(message)
        self._checker.check(message, parsed)
        key_of = expectation.key_of if parsed.kind is Kind.EXPECT_NEW else entry.key_of
        key = key_of(parsed.attributes)
        if parsed.kind is Kind.EXPECT_NEW:
            return key, expectation.value_of(parsed.attributes), parsed.kind
        if parsed.kind is not Kind.FULL:
            raise MalformedError(f"{parsed.kind} in a snapshot")
        return key, entry.overlay(self.get_flow(key), Kind.FULL, parsed.attributes, self.dropped), Kind.FULL

    def end_snapshot(self) -> int:
        """The snapshot is complete; returns how many entries went because nobody named them."""
        assert self._live is not None
        named = self._live | self._present
        stale = [key for key in chain(self.plain, self.rich, self.expectations) if key not in named]
        for key in stale:
            if key in self.expectations:
                del self.expectations[key]
            else:
                self._remove(key)
        if self._journal is not None:
            self._journal.update(stale)
        self.abort_snapshot()
        return len(stale)

    def abort_snapshot(self) -> None:
        """The snapshot will not be completed; what it brought stays."""
        self._live, self._present = None, set()
        self._doubtful.clear()

    def take_changes(self) -> set[bytes]:
        """The keys that changed since the last call."""
        assert self._journal is not None
        changes, self._journal = self._journal, set()
        return changes

    def put_back(self, keys: set[bytes]) -> None:
        """Let the next `take_changes` name these again."""
        assert self._journal is not None
        self._journal |= keys

    def get_flow(self, key: bytes) -> bytes | None:
        """The value of a held flow."""
        return self.plain.get(key) or self.rich.get(key)

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
    if shape is None or not shape.dump or int.from_bytes(message, "big") & shape.mask != shape.pattern:
        return None
    return shape
