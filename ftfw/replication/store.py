"""Holds the flows and expectations that a backup received from its active.  Pure.

A snapshot and live events may interleave in any way.  Between `begin_snapshot` and `end_snapshot` the events decide
about each entry that they have touched: the snapshot fills in attributes that an event left out, and does not bring
back an entry that was destroyed.  Entries that neither the snapshot nor an event has named are no longer on the active:
they are removed at the end.  Until then they stay, so that a promotion during a snapshot commits everything that is
held.  A snapshot may be of some buckets only; entries in other buckets stay as they are.

A key is the bytes of CTA_TUPLE_ORIG and CTA_ZONE of a flow, or of an expectation's tuple, mask and master; a value is
the bytes of all other attributes (`ftfw.kernel.flow_entry`, `ftfw.kernel.expectation`).
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
from ftfw.kernel.message_shapes import DESTROY, Shape, dumped_value, recognise
from ftfw.kernel.validate import Checker
from ftfw.replication import limits
from ftfw.replication.bucket_digests import Scope

REPAIRS: Final = ("missing", "stale", "different")


class Store:
    """Holds flows and expectations by key.

    `dropped` counts messages that could not be applied, by reason.  `repaired` counts entries that snapshots found to
    be wrong, by kind (one of `REPAIRS`).  `journal`: record the keys that change, for `take_changes`: a hot
    backup's kernel follows the store by them.
    """

    def __init__(self, *, journal: bool = False, dropped: Counter[str] | None = None) -> None:
        self.plain: dict[bytes, bytes] = {}  # flows whose events are complete: an event replaces the value
        self.rich: dict[bytes, bytes] = {}  # flows with more attributes: an event is laid over the value
        self.expectations: dict[bytes, bytes] = {}
        self.dropped: Counter[str] = Counter() if dropped is None else dropped
        self._helped: dict[bytes, set[bytes]] = {}  # original tuple → keys of the flows with a helper
        self._journal: dict[bytes, None] | None = {} if journal else None  # keys, in the order of the first change
        self._checker = Checker()
        self.repaired: Counter[str] = Counter()
        self._touched_since_compare: set[bytes] | None = None  # keys; None: no compare is under way
        # While a snapshot is under way; otherwise None or empty:
        self._touched_by_events: set[bytes] | None = None  # keys that live events named since it began
        self._scope: Scope | None = None  # the buckets that the snapshot is of; None: all
        self._repairs: dict[bytes, str] | None = None  # entries that the snapshot found to be wrong; None: not counted
        self._named: set[bytes] = set()  # keys that the snapshot named
        self._fully_reported: set[bytes] = set()  # keys of flows that a GET answered in full since it began
        # Attributes, by key, that are older than the snapshot and that no event has repeated:
        self._unconfirmed: dict[bytes, frozenset[int]] = {}
        self._removing = False  # the snapshot is complete; stale entries are being removed
        self._unneeded: list[set[bytes]] = []  # keys of earlier snapshots, to be freed

    @property
    def in_snapshot(self) -> bool:
        """Return True if a snapshot has begun and is not complete."""
        return self._touched_by_events is not None and not self._removing

    @property
    def snapshot_size(self) -> int:
        """Return how many entries the snapshot under way has named so far."""
        return len(self._named)

    def flow_count(self) -> int:
        """Return how many flows are held."""
        return len(self.plain) + len(self.rich)

    def apply(self, messages: Run | Iterable[bytes]) -> None:
        """Apply live messages (netlink, with header) in their order; count malformed ones in `dropped`."""
        if isinstance(messages, Run):
            if self._apply_run(messages):
                return
            messages = messages.split()
        plain, rich, unconfirmed = self.plain, self.rich, self._unconfirmed
        touched: list[bytes] = []
        touch = touched.append if self._notes() else None
        careful = bool(rich or unconfirmed)
        for message in messages:
            shape = recognise(message)
            if shape is None or shape.dump:
                self._apply_slowly(message, touched)
                careful = True
                continue
            key = message[BODY : shape.split]
            if careful and (key in rich or key in unconfirmed):
                self._apply_slowly(message, touched)
                continue
            if touch is not None:
                touch(key)
            if shape.kind == DESTROY:
                plain.pop(key, None)
            else:
                plain[key] = message[shape.split : shape.value_end]
        self._note(touched)

    def _apply_run(self, run: Run) -> bool:
        """Apply a run as a whole; return False, and apply nothing, if its messages must be applied one by one."""
        ends = run.shape.kind == DESTROY
        if run.shape.dump:
            return False
        if ends or self.rich or self._unconfirmed or self._notes():
            keys = run.keys()
            if not (self.rich.keys().isdisjoint(keys) and self._unconfirmed.keys().isdisjoint(keys)):
                return False
            self._note(keys)
            if ends:
                for key in keys:
                    self.plain.pop(key, None)
                return True
        self.plain.update(run.pairs())
        return True

    def _notes(self) -> bool:
        """Return True if the keys that live events touch are noted anywhere."""
        return any(noted is not None for noted in (self._touched_by_events, self._journal, self._touched_since_compare))

    def _note(self, touched: list[bytes]) -> None:
        for noted in (self._touched_by_events, self._touched_since_compare):
            if noted is not None:
                noted.update(touched)
        if self._journal is not None:
            self._journal.update(dict.fromkeys(touched))

    def _apply_slowly(self, message: bytes, touched: list[bytes]) -> None:
        self._note(touched)  # `_apply_flow` asks whether a flow was touched before
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
        """Apply a message about a flow; return False if it is the answer to a GET for a flow that is not held."""
        if parsed.kind is Kind.DESTROY:
            self._unconfirmed.pop(key, None)
            self._remove(key)
            return True
        old = self.plain.get(key) or self.rich.get(key)
        if parsed.kind is Kind.FULL and (old is None or not flow_entry.same_instance(old, parsed.attributes)):
            touched = self._touched_by_events
            if touched is None or key in touched or (self._scope is not None and key not in self._scope):
                return False  # the flow has ended since the GET, or was never held
            old = None  # the snapshot under way may name the flow as it was before the answer
        if self._touched_by_events is not None:
            self._note_unconfirmed(key, old, parsed)
        self._hold(key, flow_entry.overlay(old, parsed.kind, parsed.attributes, self.dropped))
        return True

    def _note_unconfirmed(self, key: bytes, old: bytes | None, parsed: flow_entry.Parsed) -> None:
        """Note which attributes of a flow are older than the snapshot: for these the snapshot decides."""
        left: frozenset[int] = frozenset()
        if parsed.kind is Kind.FULL:
            self._fully_reported.add(key)
        if parsed.kind is Kind.UPDATE and old is not None and flow_entry.same_instance(old, parsed.attributes):
            assert self._touched_by_events is not None
            if key in self._unconfirmed:
                left = self._unconfirmed[key] - parsed.attributes.keys()
            elif key not in self._touched_by_events and key not in self._named:
                left = flow_entry.unsaid(old, parsed.attributes)
        if left:
            self._unconfirmed[key] = left
        else:
            self._unconfirmed.pop(key, None)

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
        else:
            self._forget_helper(key)

    def _remove(self, key: bytes) -> None:
        if self.plain.pop(key, None) is None and self.rich.pop(key, None) is not None:
            self._forget_helper(key)

    def _forget_helper(self, key: bytes) -> None:
        if not self._helped:
            return
        tuple_ = flow_entry.tuple_of(key)
        helped = self._helped.get(tuple_, set())
        helped.discard(key)
        if not helped:
            self._helped.pop(tuple_, None)

    def zone_of(self, expectation_key: bytes) -> bytes:
        """Return the CTA_ZONE attribute of an expectation's master, or b"": the kernel reports no other."""
        masters = self.masters_of(expectation_key)
        return flow_entry.zone_of(min(masters, key=len)) if masters else b""

    def masters_of(self, expectation_key: bytes) -> Iterable[bytes]:
        """Return the keys of held flows that may be an expectation's master: they have its tuple, and a helper."""
        return self._helped.get(expectation.master_of(expectation_key), ())

    def begin_snapshot(self, scope: Scope | None = None, *, repair: bool = False) -> None:
        """Begin a snapshot of the buckets in `scope` (None: of the whole table); give up one that is under way.

        Entries in these buckets that neither the snapshot nor live events name are removed at its end.  `repair`: count
        the held entries that the snapshot shows to be wrong in `repaired`.
        """
        self.abort_snapshot()
        self._touched_by_events = set()
        self._scope, self._repairs = scope, {} if repair else None

    def add_snapshot(self, messages: Run | Iterable[bytes]) -> None:
        """Add a part of the snapshot that `begin_snapshot` has begun."""
        assert self._touched_by_events is not None
        changed: list[bytes] = []
        for message in messages.split() if isinstance(messages, Run) else messages:
            if (shape := _dump_shape(message)) is not None:
                key = message[BODY : shape.split]
                if key not in self._touched_by_events and key not in self.rich and self._repairs is None:
                    self.plain[key] = dumped_value(message, shape)
                    self._named.add(key)
                    changed.append(key)
                    continue
            try:
                key, value, kind = self._snapshot_entry(message)
            except MalformedError:
                self.dropped["malformed"] += 1
                continue
            self._named.add(key)
            changed.append(key)
            if key in self._touched_by_events:
                self._fill_in(key, value, kind)
                continue
            if self._repairs is not None:
                self._compare(key, value)
            if kind is Kind.EXPECT_NEW:
                self.expectations[key] = value
            else:
                self._hold(key, value)
        if self._journal is not None:
            self._journal.update(dict.fromkeys(changed))

    def _fill_in(self, key: bytes, value: bytes, kind: Kind) -> None:
        """Fill in the attributes that live events have left out from a snapshot's entry."""
        above = self.get_flow(key)
        if kind is Kind.FULL and above is not None and key not in self._fully_reported:
            self._hold(key, flow_entry.under(value, above, self._unconfirmed.pop(key, frozenset())))

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
        """Note the key as missing or different if the snapshot's entry shows that the held one is wrong."""
        assert self._repairs is not None
        held = self.value(key)
        if held is None:
            self._repairs[key] = "missing"
        elif not entry_digest.alike(held, value):
            self._repairs[key] = "different"

    def end_snapshot(self) -> int:
        """End the snapshot in one call; return how many stale entries were removed."""
        return sum(self.remove_stale())

    def remove_stale(self) -> Iterator[int]:
        """End the snapshot in steps; return an iterator that yields how many stale entries each step has removed.

        The snapshot is complete at once; `stale` names entries that are not removed yet.
        """
        assert self._touched_by_events is not None
        self._removing = True
        return self._remove_stale()

    def stale(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those of `keys` that a complete snapshot has not named: `remove_stale` removes their entries."""
        if not self._removing:
            return []
        assert self._touched_by_events is not None
        stale = [key for key in keys if not (key in self._touched_by_events or key in self._named)]
        return stale if self._scope is None else [key for key in stale if key in self._scope]

    def _remove_stale(self) -> Iterator[int]:
        for keys in self._key_steps():
            stale = self.stale(keys)
            for key in stale:
                if self.expectations.pop(key, None) is None:
                    self._remove(key)
            if self._journal is not None:
                self._journal.update(dict.fromkeys(stale))
            if self._repairs is not None:
                self._repairs.update(dict.fromkeys(stale, "stale"))
            yield len(stale)
        touched = self._touched_by_events or set()
        while self._repairs:
            some = [self._repairs.popitem() for _ in range(min(len(self._repairs), limits.STEP_ENTRIES))]
            self.repaired.update(kind for key, kind in some if key not in touched)
            yield 0
        self.abort_snapshot()

    def _key_steps(self) -> Iterator[list[bytes]]:
        """Generate the keys of all entries held now, in steps; some may be gone when their turn comes.

        The first step has no keys: to list a million of them takes 10 ms.
        """
        listed = [list(self.plain), list(self.rich), list(self.expectations)]
        yield []
        for keys in listed:
            while keys:
                yield keys[-limits.STEP_ENTRIES :]
                del keys[-limits.STEP_ENTRIES :]  # to free a million at once takes 10 ms, too

    def begin_compare(self) -> None:
        """Note the keys that live events touch from now on."""
        self._touched_since_compare = set()

    def end_compare(self) -> set[bytes]:
        """Return the keys that live events have touched since `begin_compare`, and stop noting them."""
        touched, self._touched_since_compare = self._touched_since_compare, None
        return touched or set()

    def digests(self, salt: bytes) -> Iterator[Iterator[tuple[bytes, int]]]:
        """Yield, in steps, pairs of key and digest (32 bits) of the entries held; `salt` has SALT_SIZE bytes."""
        for keys in self._key_steps():
            values = ((key, self.value(key)) for key in keys)
            yield entry_digest.digests(((key, value) for key, value in values if value is not None), salt)

    def abort_snapshot(self) -> None:
        """Give up the snapshot, if one is under way; the entries that it brought stay."""
        snapshots = (self._touched_by_events, self._named, self._fully_reported)
        self._unneeded += [keys for keys in snapshots if keys is not None and len(keys) > limits.STEP_ENTRIES]
        self._touched_by_events, self._named, self._fully_reported = None, set(), set()
        self._scope = self._repairs = None
        self._removing = False
        self._unconfirmed.clear()

    @property
    def has_unneeded(self) -> bool:
        """Return True if there is something for `free` to do."""
        return bool(self._unneeded)

    def free(self) -> bool:
        """Free one of the sets of keys that earlier snapshots needed; return True if there are more.

        A million keys take 15 ms.
        """
        if self._unneeded:
            self._unneeded.pop()
        return bool(self._unneeded)

    def begin_journal(self) -> None:
        """Keep the keys that change from now on, if they are not kept already."""
        if self._journal is None:
            self._journal = {}

    def take_changes(self) -> dict[bytes, None]:
        """Return the keys that changed since the last call, in the order of their first change, and forget them."""
        assert self._journal is not None
        changes, self._journal = self._journal, {}
        return changes

    def get_flow(self, key: bytes) -> bytes | None:
        """Return the value of a flow; None if it is not held."""
        return self.plain.get(key) or self.rich.get(key)

    def value(self, key: bytes) -> bytes | None:
        """Return the value of a flow or expectation; None if it is not held."""
        return self.get_flow(key) or self.expectations.get(key)

    def flows(self) -> Iterator[Flow]:
        """Yield the held flows, decoded."""
        for key, value in chain(list(self.plain.items()), list(self.rich.items())):
            yield decode.flow(key, value)

    def decoded_expectations(self) -> Iterator[Expectation]:
        """Yield the held expectations, decoded."""
        for key, value in list(self.expectations.items()):
            yield decode.expectation(key, value, self.zone_of(key))


def _dump_shape(message: bytes) -> Shape | None:
    """Return the shape of a plain message from a dump; None if it is not plain."""
    shape = recognise(message)
    return shape if shape is not None and shape.dump else None
