"""A simulated kernel: the toy one, one that plays recordings of a real one, or both in one table.

A recording is played again and again, each time with other addresses.  Whoever asks gets what the real kernel had at
that step, though the events that led to it may not have been read yet.
"""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from random import Random
from typing import NamedTuple

from ftfw.config.schema import Replicate
from ftfw.kernel import decode, expectation, flow_entry, uapi
from ftfw.kernel.attributes import BODY, MESSAGE_SIZE, message, split
from ftfw.kernel.flow_model import Flow
from ftfw.replication.store import Store
from tests.simulation import recording
from tests.simulation.filters import flow_passes, helper_passes
from tests.simulation.recording import key_of, without_silent_flags
from tests.unit.conntrack import Conn, is_expectation, walk
from tests.unit.table import Dump, Table

Row = dict[int, bytes]
Rows = dict[bytes, Row]

RECORDINGS = ("ftp", "mixed", "churn")
ROUNDS = 4  # with addresses of their own; the fifth round has those of the first
FOUR = re.compile(rb"(\x08\x00[\x01\x02]\x00(?:\xc0\x00\x02|\xc6\x33\x64))(.)", re.DOTALL)
SIX = re.compile(rb"(\x14\x00[\x03\x04]\x00\x20\x01\x0d\xb8\x00[\x01\x02])\x00\x00", re.DOTALL)


class Entry(NamedTuple):
    """An entry as a dump tells it; `untold`: marks and labels that have changed since an event told them."""

    row: bytes
    untold: frozenset[int] = frozenset()


class Change(NamedTuple):
    """A step of a recording."""

    events: list[bytes]
    entries: dict[bytes, Entry]
    gone: list[bytes]


@dataclass
class View:
    """Holds the part of a table that must be alike in a store, and the marks and labels that no event has told."""

    rows: Rows
    untold: dict[bytes, frozenset[int]]
    # Expectations whose master is not to be replicated.  They are until the master is found, which is told after them.
    optional: Set[bytes] = frozenset()

    def difference(self, held: Rows, *, but: Set[bytes] = frozenset(), whole: bool = False) -> str:
        """Return how a store differs from what it was told, or, if `whole`, from the table; "" if it does not.

        `but`: keys that are left out.
        """
        if held == self.rows:
            return ""
        wrong = []
        for key in (held.keys() | self.rows.keys()) - but - self.optional:
            one, other = held.get(key, {}), self.rows.get(key, {})
            kinds = {kind for kind in one.keys() | other.keys() if one.get(kind) != other.get(kind)}
            if not whole:
                kinds -= self.untold.get(key, frozenset())
            if kinds:
                wrong.append((key.hex(), {kind: (one.get(kind), other.get(kind)) for kind in kinds}))
        return f"{len(wrong)} differ, attributes held and true: {min(wrong)}" if wrong else ""


class Kernel(Table):
    """Does what recordings say, and what the toy does.

    `share`: how much of what happens is out of recordings.  `rounds`: numbers, shared by all kernels of a run.
    `replicate`: what of the table is to be replicated.
    """

    def __init__(self, random: Random, rounds: Iterator[int], share: float, replicate: Replicate | None = None) -> None:
        super().__init__(random)
        self.replicate = replicate or Replicate()
        self.entries: dict[bytes, Entry] = {}  # flows and expectations
        self._rounds, self._share = rounds, share
        self._play: Iterator[Change] = iter(())
        self.was_silent = False  # whether a mark or a label has changed, ever, that nothing told
        self._named: dict[bytes, bytes] = {}  # flows' keys by what a GET names them

    def go_on(self) -> int:
        """Let something happen; returns how many events it has."""
        before = len(self.pending)
        if self.random.random() < self._share:
            self._take(next(self._play, None) or self._next_recording())
        else:
            self.change()
        return len(self.pending) - before

    def _next_recording(self) -> Change:
        """Begin a recording; what is left of an earlier round of its addresses ends before."""
        changes = prepared(self.random.choice(RECORDINGS), next(self._rounds) % ROUNDS)
        self._play = iter(changes)
        begun = {key for change in changes for key in change.entries}
        over = [key for key in self.entries if key in begun or self.random.random() < 0.5]
        masters = {flow_entry.tuple_of(key) for key in over if not expectation.is_key(key)}
        left = (key for key in self.entries if expectation.is_key(key) and key not in over)
        over += [key for key in left if expectation.master_of(key) in masters]  # a master's end is theirs
        return Change([end_of(self.entries[key].row) for key in over], {}, over)

    def _take(self, change: Change) -> None:
        self.pending += change.events
        for key in change.gone:
            if self.entries.pop(key, None) and not expectation.is_key(key):
                self._named.pop(_name(key), None)
        self.entries.update(change.entries)
        self.was_silent |= any(there.untold for there in change.entries.values())
        self._named.update((_name(key), key) for key in change.entries if not expectation.is_key(key))

    # What an injector does

    def create(self, key: bytes, value: bytes) -> None:
        """Create an entry as it was held; one of the same key is replaced."""
        self.rows.pop(key, None)
        self.entries[key] = Entry(as_dumped(key, value))
        if not expectation.is_key(key):
            self._named[_name(key)] = key

    def delete_flow(self, key: bytes) -> None:
        """Delete a flow, and with it the expectations of which it is the master."""
        self.rows.pop(key, None)
        if self.entries.pop(key, None):
            self._named.pop(_name(key), None)
        master = flow_entry.tuple_of(key)
        if not any(flow_entry.tuple_of(each) == master for each in self.flows()):
            for each in [each for each in self.entries if expectation.is_key(each)]:
                if expectation.master_of(each) == master:
                    self.delete_expectation(each)

    def delete_expectation(self, key: bytes) -> None:
        """Delete an expectation, if it is there."""
        self.entries.pop(key, None)

    def keys(self) -> Iterator[bytes]:
        """The keys of all flows and expectations."""
        yield from self.rows
        yield from self.entries

    def flows(self) -> Iterator[bytes]:
        """The keys of all flows."""
        return (key for key in self.keys() if not expectation.is_key(key))

    def has(self, key: bytes) -> bool:
        """Return whether there is an entry of this key."""
        return key in self.rows or key in self.entries

    def finds(self, name: bytes) -> bool:
        """Return whether there is a flow of this original tuple and zone."""
        return name in self._named or any(_name(key) == name for key in self.rows)

    def take_over(self, known: dict[bytes, list[Conn]]) -> None:
        """Traffic comes through this kernel from here on: injected flows change again, and no recording goes on."""
        self._play = iter(())
        for key in known.keys() & self.entries.keys():
            self._named.pop(_name(key), None)
            row = row_of(self.entries.pop(key).row)
            alike = (version for version in reversed(known[key]) if _toy_row(version) == row)
            self.rows[key] = next(alike, known[key][-1])

    def dump(self) -> "KernelDump":
        return KernelDump(self)

    def get(self, keys: list[bytes]) -> list[bytes]:
        """Return what a kernel answers now to GETs of flows."""
        found = []
        for key in keys:
            if key in self.rows:
                found.append(self.rows[key].full())
            elif (name := self._named.get(_name(key))) is not None:
                found.append(self.entries[name].row)
        return found

    def view(self) -> View:
        """Return the part of the table that is to be replicated."""
        rows = {key: _toy_row(there) for key, there in self.rows.items()}
        rows.update((key, row_of(there.row)) for key, there in self.entries.items())
        optional: Set[bytes] = frozenset()
        if self.replicate != Replicate():
            passing = {key for key in self.flows() if flow_passes(self.replicate, self._decoded(key))}
            expected = {key for key in rows if expectation.is_key(key) and self._helper_passes(key)}
            masters = set(map(flow_entry.tuple_of, passing))
            optional = {key for key in expected if expectation.master_of(key) not in masters}
            rows = {key: row for key, row in rows.items() if key in passing or key in expected - optional}
        untold = {key: there.untold for key, there in self.entries.items() if there.untold and key in rows}
        return View(rows, untold, optional)

    def _helper_passes(self, key: bytes) -> bool:
        decoded = decode.expectation(key, self.entries[key].row[BODY:])
        return helper_passes(self.replicate, decoded.helper)

    def _decoded(self, key: bytes) -> Flow:
        row = self.rows[key].full() if key in self.rows else self.entries[key].row
        return _decode_flow(key, row)


class KernelDump(Dump):
    """Flows first, then expectations, as a snapshot has them."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self._kernel = kernel
        self._keys += [key for key in kernel.entries if not expectation.is_key(key)]
        kernel.random.shuffle(self._keys)
        self._flows_read = False

    def step(self) -> bool:
        if not self._keys and not self._flows_read:
            self._flows_read = True
            self._keys += filter(expectation.is_key, self._kernel.entries)
        if self._keys and (there := self._kernel.entries.get(self._keys[-1])) is not None:
            self._keys.pop()
            self.read.append(there.row)
            return True
        return super().step()


@cache
def prepared(name: str, number: int) -> list[Change]:
    """A recording with the addresses of a round, and account kept of what no event tells."""
    table: dict[bytes, Entry] = {}
    changes = []
    for step in recording.load(name).steps:
        events, rows = ([_renumbered(each, number) for each in part] for part in (step.events, step.rows))
        gone = [_renumbered(key, number) for key in step.gone]
        entries = {key_of(row): row for row in rows}
        noted = {key: Entry(row, _untold(table.get(key), row, events)) for key, row in entries.items()}
        table.update(noted)
        for key in gone:
            del table[key]
        changes.append(Change(events, noted, gone))
    assert not table, f"the recording {name} ends before its flows do"
    return changes


def _renumbered(data: bytes, number: int) -> bytes:
    """The same with other documentation addresses in its tuples: a quarter of the last byte's range is used."""
    data = FOUR.sub(lambda found: found[1] + bytes(((found[2][0] + 64 * number) % 256,)), data)
    return SIX.sub(lambda found: found[1] + bytes((0, number)), data)


def _untold(old: Entry | None, row: bytes, events: list[bytes]) -> frozenset[int]:
    """The marks and labels of this row that are others than it was told last.

    A packet has set them that was dropped then: the event comes with the flow's next packet that passes.  All else that
    is compared has to be told, if only by a hint.
    """
    if is_expectation(row):
        return frozenset()
    key, new = key_of(row), row_of(row)
    before = row_of(old.row) if old is not None else {}
    untold = set(old.untold) if old is not None else set()
    about = [walk(event[BODY:]) for event in events if key_of(event) == key]
    for kind in (uapi.CTA_MARK, uapi.CTA_LABELS):
        told = [event[kind] for event in about if kind in event]
        if told and told[-1] in (new.get(kind), bytes(4)):
            untold.discard(kind)
        elif not about and new.get(kind) != before.get(kind):
            untold.add(kind)
    return frozenset(untold)


def _compared(row: Row, *, flow: bool) -> Row:
    """Return what is compared of a row: neither timers, nor flags of TCP that come and go, nor a mark of 0."""
    row = dict(row)
    row.pop(uapi.CTA_TIMEOUT if flow else uapi.CTA_EXPECT_TIMEOUT, None)
    if flow:
        if uapi.CTA_PROTOINFO in row:
            row[uapi.CTA_PROTOINFO] = without_silent_flags(row[uapi.CTA_PROTOINFO])
        if row.get(uapi.CTA_MARK) == bytes(4):
            del row[uapi.CTA_MARK]
    return row


@lru_cache(maxsize=1 << 15)
def row_of(found: bytes) -> Row:
    """Return what a backup should hold of an entry that a dump tells: type → payload."""
    row = walk(found[BODY:])
    flow = not is_expectation(found)
    for kind in FLOW_LEFT_OUT if flow else EXPECTATION_LEFT_OUT:
        row.pop(kind, None)
    return _compared(row, flow=flow)


FLOW_LEFT_OUT = (uapi.CTA_TUPLE_ORIG, uapi.CTA_ZONE, uapi.CTA_USE)
EXPECTATION_LEFT_OUT = (uapi.CTA_EXPECT_MASTER, uapi.CTA_EXPECT_TUPLE, uapi.CTA_EXPECT_MASK, uapi.CTA_EXPECT_ID)


@lru_cache(maxsize=1 << 15)
def _decode_flow(key: bytes, row: bytes) -> Flow:
    return decode.flow(key, row[BODY:])


@lru_cache(maxsize=1 << 15)
def _toy_row(there: Conn) -> Row:
    return _compared(there.table_row(), flow=True)


@lru_cache(maxsize=1 << 15)
def _row_held(value: bytes, *, flow: bool) -> Row:
    return _compared(walk(value), flow=flow)


def held(store: Store) -> Rows:
    """The rows of a store, as `View` has them."""
    rows = {key: _row_held(value, flow=True) for key, value in chain(store.plain.items(), store.rich.items())}
    rows.update((key, _row_held(value, flow=False)) for key, value in store.expectations.items())
    assert len(rows) == store.flow_count() + len(store.expectations)
    return rows


@lru_cache(maxsize=1 << 14)
def _name(key: bytes) -> bytes:
    return flow_entry.found_by(key)


def as_dumped(key: bytes, value: bytes) -> bytes:
    """Return a held entry as a dump tells it after it was put in."""
    kind = uapi.EXP_NEW if expectation.is_key(key) else uapi.CT_NEW
    return message(kind, uapi.NLM_F_MULTI, flow_entry.family_of(key), key + value)


def end_of(row: bytes) -> bytes:
    """The event of an entry's end."""
    if is_expectation(row):
        return message(uapi.EXP_DELETE, 0, row[MESSAGE_SIZE], row[BODY:])
    attributes = split(row, BODY)
    told = (uapi.CTA_TUPLE_ORIG, uapi.CTA_TUPLE_REPLY, uapi.CTA_ZONE, uapi.CTA_ID, uapi.CTA_STATUS)
    return message(
        uapi.CT_DELETE, 0, row[MESSAGE_SIZE], b"".join(attributes[kind] for kind in told if kind in attributes)
    )
