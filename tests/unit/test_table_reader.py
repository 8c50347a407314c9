"""An active streams its kernel: from the kernel's messages to the frames of the stream."""

from collections import Counter
from random import Random

from ftfw.kernel.event_selector import Selector
from ftfw.replication import messages
from ftfw.replication.active import Active
from ftfw.replication.bucket_digests import Scope
from ftfw.replication.limits import SNAPSHOT_WINDOW
from ftfw.replication.messages import Resync, Stream, Want
from ftfw.replication.table_reader import TableReader
from tests.unit.conntrack import TCP, UDP, Expect, conn
from tests.unit.playbook import PEER, ack
from tests.unit.playbook import active as begun

FLOWS = [conn(TCP), conn(UDP), conn(TCP, zone=3)]
EXPECTED = Expect(TCP, UDP)


def reader(active: Active, *, count_s: float = 1e9, answers: list[bytes] | None = None) -> TableReader:
    """A reader that has just counted the table, so that it reads for a backup only until `count_s`."""
    selector = Selector(passes=None, expectations=True, dropped=Counter(), read=lambda _keys: answers or [])
    made = TableReader(active, selector, random=Random(0).randbytes, count_s=count_s, bits=8)
    made.set_counts(0, 0, 0.0)
    return made


def said(active: Active) -> list[Stream]:
    """The frames of the stream among the bodies to send."""
    return [found for found in map(messages.unpack, active.bodies_to_send()) if isinstance(found, Stream)]


def kinds(active: Active) -> list[int]:
    return [frame.kind for frame in said(active)]


def read(made: TableReader, now: float = 0.0) -> None:
    """One whole reading of the table."""
    assert made.begin(now)
    made.add_flows([flow.full() for flow in FLOWS], now)
    made.add_expectations([EXPECTED.new()], now)
    for _ in made.end(now):
        pass


def test_without_a_backup_that_asks_nothing_is_read() -> None:
    active = begun()
    made = reader(active)
    active.receive(PEER, ack(0), 0.0)
    assert not made.begin(0.0)
    assert not made.is_reading


def test_a_table_is_counted_when_its_counts_are_old() -> None:
    active = begun()
    made = reader(active, count_s=60)
    assert made.count_at == 60
    assert not made.begin(59.9)
    read(made, 60.0)
    assert made.counts == (len(FLOWS), 1)
    assert made.count_at == 120
    assert not kinds(active)


def test_a_snapshot_has_flows_and_expectations_between_its_ends() -> None:
    active = begun()
    active.receive(PEER, Resync(name="fw2", epoch=active.epoch, sequence=0, compare=False), 0.0)
    made = reader(active)
    read(made)
    found = said(active)
    assert [frame.kind for frame in found] == [
        messages.SNAPSHOT_BEGIN,
        messages.SNAPSHOT_PART,
        messages.SNAPSHOT_PART,
        messages.SNAPSHOT_END,
    ]
    assert made.counts == (len(FLOWS), 1)
    assert not made.begin(0.0)


def test_a_snapshot_of_some_buckets_has_the_entries_in_them_alone() -> None:
    active = begun()
    scope = Scope(8, frozenset(bucket for bucket in range(256) if FLOWS[0].key in Scope(8, frozenset({bucket}))))
    active.receive(PEER, Want(name="fw2", epoch=active.epoch, sequence=0, scope=scope), 0.0)
    read(reader(active))
    parts = [part for frame in said(active) if frame.kind == messages.SNAPSHOT_PART for part in frame.parts]
    there = b"".join(bytes(part.messages) if not isinstance(part, list) else b"".join(part) for part in parts)
    assert [flow.key in there for flow in FLOWS] == [flow.key in scope for flow in FLOWS]
    assert FLOWS[0].key in there


def test_a_compare_streams_digests_and_no_entries() -> None:
    active = begun()
    active.receive(PEER, Resync(name="fw2", epoch=active.epoch, sequence=0, compare=True), 0.0)
    read(reader(active))
    found = kinds(active)
    assert (found[0], set(found[1:])) == (messages.COMPARE, {messages.DIGESTS})


def test_a_snapshot_waits_for_acknowledgements_and_a_compare_does_not() -> None:
    active = begun()
    active.receive(PEER, Resync(name="fw2", epoch=active.epoch, sequence=0, compare=False), 0.0)
    made = reader(active)
    assert made.begin(0.0)
    for _ in range(SNAPSHOT_WINDOW):
        made.add_flows([FLOWS[0].full()], 0.0)
    assert not made.has_room(0.0)
    active.receive(PEER, ack(active.sequence), 0.0)
    assert made.has_room(0.0)
    other = begun()
    other.receive(PEER, Resync(name="fw2", epoch=other.epoch, sequence=0, compare=True), 0.0)
    comparing = reader(other)
    assert comparing.begin(0.0)
    assert comparing.has_room(0.0)


def test_events_come_before_the_answers_about_silent_changes() -> None:
    active = begun()
    master = conn(TCP, helper=b"ftp")
    made = reader(active, answers=[master.full()])
    steps = made.receive_events([master.new(), EXPECTED.new()], 0.0)
    next(steps)
    events = said(active)
    assert [frame.kind for frame in events] == [messages.EVENTS]
    next(steps)
    assert kinds(active) == [messages.EVENTS]
    assert not list(steps)


def test_lost_events_are_told_to_the_backups() -> None:
    active = begun()
    reader(active).lose_events(0.0)
    assert kinds(active) == [messages.LOST]
