from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftfw.kernel import message_run, uapi
from ftfw.kernel.message_run import Run
from ftfw.kernel.message_shapes import recognise
from ftfw.replication.bucket_digests import Scope, bucket_of
from ftfw.replication.limits import STEP_ENTRIES
from ftfw.replication.store import Store
from tests.unit.conntrack import (
    MEASURED,
    TCP,
    UDP,
    Conn,
    Expect,
    attribute,
    be16,
    be32,
    conn,
    connections,
    expectations,
    flow_messages,
    nest,
    netlink,
    seq_adjust,
    streams,
    tcp_info,
    walk,
)
from tests.unit.table import Dump, Rows, Table, held, without_empty_marks
from tests.unit.usable import use_everything

MARK, ID = uapi.CTA_MARK, uapi.CTA_ID
STATED = {uapi.CTA_STATUS, uapi.CTA_TIMEOUT, uapi.CTA_HELP, MARK}
NOT_HELD = {uapi.CTA_TUPLE_ORIG, uapi.CTA_ZONE, uapi.CTA_USE, *MEASURED}


def model_apply(rows: Rows, message: bytes) -> None:
    """Apply a message to a table, attribute by attribute and with nothing clever."""
    attributes = walk(message[20:])
    zone = attributes.get(uapi.CTA_ZONE)
    key = attribute(uapi.CTA_TUPLE_ORIG | uapi.NLA_F_NESTED, attributes[uapi.CTA_TUPLE_ORIG])
    key += b"" if zone is None else attribute(uapi.CTA_ZONE, zone)
    kind = int.from_bytes(message[4:6], "little"), int.from_bytes(message[6:8], "little")
    said = {k: v for k, v in attributes.items() if k not in NOT_HELD}
    old = rows.get(key, {})
    if kind[0] == uapi.CT_DELETE:
        rows.pop(key, None)
    elif kind[1] == 0x600:
        rows[key] = said
    elif kind[1] == 0:
        kept = {k: v for k, v in old.items() if k not in STATED} if old.get(ID) == said[ID] else {}
        rows[key] = kept | said
    elif old.get(ID) == said[ID]:
        lacking = {k: old[k] for k in (uapi.CTA_TIMEOUT, uapi.CTA_PROTOINFO) if k in old}
        rows[key] = lacking | said


@given(streams())
def test_the_store_equals_a_simple_model(messages: list[bytes]) -> None:
    store, rows = Store(), Rows()
    for message in messages:
        model_apply(rows, message)
    store.apply(messages)
    assert held(store) == rows
    assert store.flow_count() == len(rows)
    assert not store.dropped


@given(streams(), st.integers(1, 5))
def test_batches_make_no_difference(messages: list[bytes], size: int) -> None:
    at_once, in_parts = Store(), Store()
    at_once.apply(messages)
    for start in range(0, len(messages), size):
        in_parts.apply(messages[start : start + size])
    assert (at_once.plain, at_once.rich) == (in_parts.plain, in_parts.rich)


@given(connections())
def test_events_and_snapshot_hold_an_entry_alike(each: Conn) -> None:
    live, snapshot = Store(), Store()
    live.apply([each.new(), each.update("sequence", "synproxy")])
    take_snapshot(snapshot, [each.full()])
    assert without_empty_marks(held(snapshot)) == held(live) == {each.key: each.table_row()}


def take_snapshot(store: Store, messages: Iterable[bytes]) -> int:
    store.begin_snapshot()
    store.add_snapshot(messages)
    return store.end_snapshot()


def test_an_answer_does_not_bring_back_what_ended() -> None:
    store = Store()
    store.apply([conn().new(), conn().destroy(), conn(labels=bytes(16)).full()])
    assert store.flow_count() == 0


def test_an_answer_about_the_entry_before_changes_nothing() -> None:
    store = Store()
    store.apply([conn(ident=2).new(), conn(ident=1, labels=bytes(16)).full()])
    assert held(store) == {conn().key: conn(ident=2).table_row()}


def test_an_answer_completes_what_is_held() -> None:
    store = Store()
    adjusted = conn(helper=b"ftp", sequence=seq_adjust(15))
    store.apply([adjusted.new(), adjusted.full()])
    assert without_empty_marks(held(store)) == {adjusted.key: adjusted.table_row()}


def test_a_flow_that_has_lost_its_helper_gives_its_zone_to_no_expectation() -> None:
    store = Store()
    master = conn(TCP, helper=b"ftp", zone=3, labels=bytes(15) + b"\x01")
    found = Expect(TCP, UDP)
    store.apply([master.new(), found.new()])
    [key] = store.expectations
    assert store.zone_of(key) != b""
    store.apply([replace(master, helper=b"", ident=9).new()])
    assert master.key in store.rich
    assert store.zone_of(key) == b""


def test_a_flow_moves_between_plain_and_rich() -> None:
    store = Store()
    helped = conn(helper=b"ftp")
    store.apply([conn().new()])
    assert (len(store.plain), len(store.rich)) == (1, 0)
    store.apply([helped.update()])
    assert (len(store.plain), len(store.rich)) == (0, 1)
    store.apply([conn().update()])
    assert (len(store.plain), len(store.rich)) == (1, 0)
    assert held(store) == {conn().key: conn().table_row()}


# Expectations


@given(st.lists(expectations(), max_size=4))
def test_expectations_come_and_go(some: list[Expect]) -> None:
    store = Store()
    store.apply([each.new() for each in some])
    assert set(store.expectations) == {each.key for each in some}
    store.apply([each.destroy() for each in some])
    assert not store.expectations


def test_an_expectation_has_its_masters_zone() -> None:
    store = Store()
    awaited = Expect(TCP, UDP)
    store.apply([conn(zone=3, helper=b"ftp").new(), awaited.new()])
    assert store.zone_of(awaited.key) == be16(uapi.CTA_ZONE, 3)
    store.apply([conn(zone=3).destroy()])
    assert store.zone_of(awaited.key) == b""


def test_of_two_masters_with_one_tuple_the_one_without_zone_is_taken() -> None:
    store = Store()
    store.apply([conn(zone=3, helper=b"ftp").new(), conn(helper=b"ftp").new()])
    assert store.zone_of(Expect(TCP, UDP).key) == b""


# Snapshots


def test_what_a_snapshot_does_not_name_goes_at_its_end_and_not_before() -> None:
    store = Store()
    store.apply([conn().new(), conn(UDP, helper=b"sip").new(), Expect(TCP, UDP).new()])
    store.begin_snapshot()
    store.add_snapshot([])
    assert (store.flow_count(), len(store.expectations)) == (2, 1)
    assert store.end_snapshot() == 3
    assert (store.flow_count(), len(store.expectations)) == (0, 0)
    assert not store.in_snapshot


def test_what_ended_during_a_snapshot_is_not_brought_back() -> None:
    store = Store()
    awaited = Expect(TCP, UDP)
    store.apply([conn().new(), conn(UDP, helper=b"sip").new(), awaited.new()])
    store.begin_snapshot()
    store.apply([conn().destroy(), conn(UDP).destroy(), awaited.destroy()])
    store.add_snapshot([conn().full(), conn(UDP, helper=b"sip").full(), awaited.full()])
    assert store.end_snapshot() == 0
    assert (store.flow_count(), len(store.expectations)) == (0, 0)


def test_an_aborted_snapshot_leaves_what_is_held() -> None:
    store = Store()
    store.apply([conn().new()])
    store.begin_snapshot()
    store.add_snapshot([conn(UDP).full()])
    store.abort_snapshot()
    assert not store.in_snapshot
    assert set(held(store)) == {conn().key, conn(UDP).key}


def test_a_snapshot_that_begins_again_forgets_the_first_one() -> None:
    store = Store()
    store.begin_snapshot()
    store.add_snapshot([conn().full()])
    store.begin_snapshot()
    store.add_snapshot([conn(UDP).full()])
    assert store.end_snapshot() == 1
    assert set(held(store)) == {conn(UDP).key}


def test_an_answer_about_a_flow_not_heard_of_does_not_keep_the_snapshot_from_naming_it() -> None:
    store = Store()
    store.begin_snapshot()
    store.apply([conn(labels=bytes(16)).full()])
    store.add_snapshot([conn(labels=bytes(16)).full()])
    store.end_snapshot()
    assert set(held(store)) == {conn().key}


def test_a_snapshot_entry_that_was_read_before_an_answer_changes_nothing_of_it() -> None:
    """The answer counts whether or not the flow was held before: what it lacks is gone, what it has is newer."""
    read = conn(helper=b"ftp", labels=b"\x01" * 16, sequence=seq_adjust(15, position=1))
    later = conn(helper=b"ftp", sequence=seq_adjust(15, position=2))
    for before in ([], [read.new()], [conn(ident=7).new()]):
        store = Store()
        store.apply(before)
        store.begin_snapshot()
        store.apply([later.full()])
        store.add_snapshot([read.full()])
        store.end_snapshot()
        assert without_empty_marks(held(store)) == {later.key: later.table_row()}


def test_an_answer_does_not_bring_back_what_ended_during_the_snapshot() -> None:
    store = Store()
    store.begin_snapshot()
    store.apply([conn().destroy(), conn(labels=bytes(16)).full()])
    store.end_snapshot()
    assert held(store) == {}


def test_a_snapshot_corrects_what_was_missed_of_a_flow_that_an_event_touches_too() -> None:
    """The UPDATE that told the TCP state was lost; one that tells another thing comes during the snapshot."""
    store = Store()
    now = conn(protoinfo=tcp_info(3), mark=5)
    store.apply([conn(protoinfo=tcp_info(1)).new()])
    store.begin_snapshot()
    store.apply([now.update("mark")])
    store.add_snapshot([now.full()])
    store.end_snapshot()
    assert held(store) == {now.key: now.table_row()}


def test_but_not_what_events_have_said_since() -> None:
    store = Store()
    read, later = conn(protoinfo=tcp_info(1), labels=b"\x01" * 16), conn(protoinfo=tcp_info(3), labels=b"\x02" * 16)
    store.apply([read.new()])
    store.begin_snapshot()
    store.apply([later.update("labels"), later.update("protoinfo"), later.update()])
    store.add_snapshot([read.full()])
    store.end_snapshot()
    assert held(store) == {later.key: later.table_row()}


def test_nor_in_one_batch_with_plain_messages() -> None:
    store = Store()
    read, later = conn(protoinfo=tcp_info(1)), conn(protoinfo=tcp_info(3))
    store.apply([read.new()])
    store.begin_snapshot()
    store.apply([later.update("protoinfo"), later.update()])
    store.add_snapshot([read.full()])
    store.end_snapshot()
    assert held(store) == {later.key: later.table_row()}


def test_the_journal_names_what_changed_once() -> None:
    store = Store(journal=True)
    awaited = Expect(TCP, UDP)
    store.apply([conn().new(), conn(UDP, helper=b"sip").new(), awaited.new()])
    assert store.take_changes().keys() == {conn().key, conn(UDP).key, awaited.key}
    assert not store.take_changes()
    store.begin_snapshot()
    store.add_snapshot([conn().full()])
    assert store.take_changes().keys() == {conn().key}
    store.end_snapshot()
    assert store.take_changes().keys() == {conn(UDP).key, awaited.key}


def test_what_is_held_is_decoded() -> None:
    store = Store()
    store.apply([conn(zone=3, helper=b"ftp").new(), conn(UDP).new(), Expect(TCP, UDP, timeout=17).new()])
    found = {flow.protocol: flow for flow in store.flows()}
    assert (found["tcp"].helper, found["tcp"].zone, found["udp"].helper) == ("ftp", 3, None)
    assert found["udp"].original == {"src": UDP.source, "dst": UDP.destination, "sport": 40001, "dport": 53}
    [awaited] = store.decoded_expectations()
    assert (awaited.timeout, awaited.zone, awaited.helper) == (17, 3, "ftp")


@pytest.mark.parametrize("block", range(8))
def test_a_snapshot_among_events_leaves_the_store_equal_to_the_table(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        random = Random(seed)
        table, store = Table(random), Store(journal=random.random() < 0.5)
        for _ in range(random.randrange(30)):
            table.change()
            table.deliver(store, random.randrange(3))
        table.drop_pending()  # an overrun: what was held may be wrong in any way
        for _ in range(random.randrange(20)):
            table.change()
        if random.random() < 0.5:
            table.drop_pending()
        for attempt in range(random.randrange(1, 3)):
            if attempt:
                store.abort_snapshot()
            one_snapshot(table, store, random)
        assert without_empty_marks(held(store)) == table.expected(), f"seed {seed}"
        for _ in range(20):
            table.change()
        table.deliver(store, 1000)
        assert without_empty_marks(held(store)) == table.expected(), f"seed {seed}, afterwards"


def one_snapshot(table: Table, store: Store, random: Random) -> None:
    store.begin_snapshot()
    dump = Dump(table)
    ended: set[bytes] = set()
    more = True
    while more or dump.read:
        action = random.randrange(4)
        if action == 0:
            before = set(table.rows)
            table.change()
            ended = (ended | (before - set(table.rows))) - set(table.rows)
        elif action == 1:
            table.deliver(store, random.randrange(4))
        elif action == 2:
            more = dump.step()
        else:
            count = random.randrange(4)
            store.add_snapshot(dump.read[:count])
            del dump.read[:count]
    store.end_snapshot()
    table.deliver(store, 1000)
    assert not ended & set(held(store))


# Damage


def damaged_somewhere(random: Random, message: bytes) -> bytes:
    """A message with a length, a type or a payload that the kernel never writes; its own length is right."""
    body = bytearray(message[20:])
    for _ in range(random.randrange(1, 3)):
        action = random.randrange(4)
        if action == 0 and body:
            body[random.randrange(len(body))] = random.randrange(256)
        elif action == 1 and body:
            del body[random.randrange(len(body)) :]
        elif action == 2 and body:
            at = random.randrange(0, len(body), 4)
            del body[at : at + 4 * random.randrange(1, 4)]
        else:
            at = random.randrange(0, len(body) + 1, 4)
            body[at:at] = random.randbytes(random.choice((1, 2, 4, 8)))
    kind, flags = int.from_bytes(message[4:6], "little"), int.from_bytes(message[6:8], "little")
    return netlink(kind, flags, message[16], bytes(body))


RICH = conn(helper=b"ftp", labels=bytes(16), master=UDP, sequence=seq_adjust(15, 16), zone=2, mark=1)


@settings(max_examples=25)
@given(flow_messages() | st.builds(Expect.new, expectations()), st.integers(0, 1 << 32))
def test_damaged_messages_are_dropped_or_held_and_usable(message: bytes, seed: int) -> None:
    random = Random(seed)
    for _ in range(20):
        damaged = damaged_somewhere(random, message)
        for store in (Store(journal=True), Store()):
            store.apply([RICH.new(), damaged])
            store.begin_snapshot()
            store.apply([damaged, damaged])
            store.add_snapshot([damaged, RICH.full(), damaged])
            use_everything(store)
            store.end_snapshot()
            use_everything(store)


def test_a_damaged_message_is_counted_and_nothing_else_changes() -> None:
    store = Store()
    store.apply([conn().new()])
    before = held(store)
    tuples = conn(UDP).new()[20 : 20 + 104]
    for extra in (
        attribute(uapi.CTA_STATUS, b"\0\0\0"),
        attribute(uapi.CTA_TIMEOUT, bytes(8)),
        attribute(uapi.CTA_ZONE, b"\x01"),
        nest(uapi.CTA_PROTOINFO, nest(uapi.CTA_PROTOINFO_TCP, attribute(uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY, b"\x01"))),
        nest(uapi.CTA_SEQ_ADJ_ORIG, be32(uapi.CTA_SEQADJ_CORRECTION_POS, 1)),
        nest(uapi.CTA_TUPLE_MASTER),
        attribute(uapi.CTA_HELP, b"ftp\0"),
    ):
        store.apply([netlink(uapi.CT_NEW, 0x600, uapi.AF_INET, tuples + extra)])
    assert held(store) == before
    assert store.dropped == Counter(malformed=7)


def test_a_plain_message_behind_other_bytes_is_not_taken_for_one() -> None:
    """Its beginning is that of a plain one, and so is its end."""
    for message in (conn().new(), conn().full(), conn().destroy()):
        longer = message[:32] + bytes(200) + message
        for part in ([longer], message_run.unpack_columns(longer, b"\0\x23", 2, b"ab", most=1000)):
            store = Store()
            store.apply(part)
            store.begin_snapshot()
            store.add_snapshot(part)
            assert held(store) == {}
            assert store.dropped["malformed"] == 2 * len(part)


def test_in_a_snapshot_as_well() -> None:
    store = Store()
    broken = netlink(uapi.CT_NEW, 0x002, uapi.AF_INET, conn().full()[20:72])
    store.begin_snapshot()
    store.add_snapshot([broken, conn().full(), b"", conn().destroy(), Expect(TCP, UDP).destroy()])
    store.end_snapshot()
    assert set(held(store)) == {conn().key}
    assert store.dropped["malformed"] == 4


def test_an_unknown_attribute_is_dropped_alone_and_counted() -> None:
    store = Store()
    strange = netlink(uapi.CT_NEW, 0x600, uapi.AF_INET, conn().new()[20:] + attribute(77, b"odd"))
    store.apply([strange, strange])
    assert held(store) == {conn().key: conn().table_row()}
    assert store.dropped == {"unknown_attribute": 2}


# Snapshots of some buckets, and what they repair


BUCKETS = 5  # as a power of two


def scope_of(*some: Conn) -> Scope:
    return Scope(BUCKETS, {bucket_of(each.key, BUCKETS) for each in some})


def test_a_snapshot_of_some_buckets_leaves_the_others_alone() -> None:
    store = Store()
    ended, kept, altered = conn(TCP), conn(UDP), conn(replace(TCP, source_port=9))
    assert len(scope_of(ended, kept, altered).buckets) == 3
    store.apply([ended.new(), kept.new(), altered.new()])
    store.begin_snapshot(scope_of(ended, altered), repair=False)
    store.add_snapshot([replace(altered, mark=5).full()])
    assert store.end_snapshot() == 1
    assert held(store) == {each.key: each.table_row() for each in (kept, replace(altered, mark=5))}
    assert not store.repaired


def test_what_a_snapshot_repairs_is_counted_by_kind_but_for_what_events_have_touched() -> None:
    stale, different, alike, missing = (conn(replace(TCP, source_port=port)) for port in range(1, 5))
    touched = [conn(replace(UDP, source_port=port)) for port in range(1, 4)]
    everything = [stale, different, alike, missing, *touched]
    store = Store()
    store.apply([each.new() for each in (stale, different, alike, touched[0], touched[1])])
    store.begin_snapshot(scope_of(*everything), repair=True)
    later = replace(different, status=uapi.IPS_CONFIRMED, timeout=1)
    store.add_snapshot([each.full() for each in (later, replace(alike, timeout=1), missing, touched[2])])
    store.add_snapshot([replace(touched[0], mark=9).full()])
    store.apply([touched[0].update("mark"), touched[1].destroy(), touched[2].new()])
    store.end_snapshot()
    assert store.repaired == {"stale": 1, "different": 1, "missing": 1}


@pytest.mark.parametrize(
    ("change", "repaired"),
    [({}, {}), ({"mark": 5}, {"different": 1}), ({"status": uapi.IPS_CONFIRMED}, {"different": 1})],
)
def test_what_a_flowtable_does_is_no_repair(change: dict[str, Any], repaired: dict[str, int]) -> None:
    """A flow gets into it without an event, and has neither timeout nor state there."""
    known = conn(TCP, status=uapi.IPS_CONFIRMED | uapi.IPS_SEEN_REPLY)
    taken = replace(known, offloaded=True, **change)
    taken = replace(taken, status=taken.status | uapi.IPS_OFFLOAD)
    for before, after in ((known, taken), (taken, known)):
        store = Store()
        for there in (before, after):
            store.begin_snapshot(repair=there is after)
            store.add_snapshot([there.full()])
            store.end_snapshot()
        assert store.repaired == repaired


def test_stale_entries_are_removed_in_steps_and_events_between_them_count() -> None:
    store = Store()
    flows = [conn(replace(UDP, source_port=port)) for port in range(STEP_ENTRIES + 10)]
    store.apply([each.new() for each in flows])
    store.begin_snapshot()
    removal = store.remove_stale()
    assert (next(removal), next(removal)) == (0, STEP_ENTRIES)
    store.apply([flows[0].update("mark"), flows[-1].new()])
    assert sum(removal) == 9
    assert set(held(store)) == {flows[-1].key, flows[0].key}
    assert not store.in_snapshot


def test_a_store_tells_what_events_have_touched_while_it_was_compared() -> None:
    store = Store()
    store.apply([conn(TCP).new()])
    store.begin_compare()
    runs = [conn(replace(UDP, source_port=port)).new() for port in range(5)]
    shape = recognise(runs[0])
    assert shape is not None
    store.apply([conn(TCP).update("mark")])
    store.apply(Run(shape, b"".join(runs)))
    assert len(store.end_compare()) == 6
    store.apply([conn(TCP).destroy()])
    assert store.end_compare() == set()


def test_a_complete_snapshot_tells_what_is_stale_before_it_is_removed() -> None:
    """A promotion does not wait until it is: it leaves these entries out."""
    store = Store()
    gone, named, touched = (conn(replace(UDP, source_port=port)) for port in range(3))
    everything = [gone.key, named.key, touched.key]
    store.apply([each.new() for each in (gone, named, touched)])
    store.begin_snapshot()
    store.add_snapshot([named.full()])
    store.apply([touched.update("mark")])
    assert (store.stale(everything), store.in_snapshot) == ([], True), "the rest of the snapshot may name them"
    removal = store.remove_stale()
    assert (store.stale(everything), store.in_snapshot) == ([gone.key], False)
    assert sum(removal) == 1
    assert store.stale(everything) == []


def test_a_snapshot_of_some_buckets_makes_nothing_stale_in_the_others() -> None:
    store = Store()
    inside, outside = conn(TCP), conn(UDP)
    assert scope_of(inside).without(scope_of(outside)) is not None
    store.apply([inside.new(), outside.new()])
    store.begin_snapshot(scope_of(inside))
    store.remove_stale()
    assert store.stale([inside.key, outside.key]) == [inside.key]


def test_the_keys_of_a_large_snapshot_are_freed_one_set_at_a_time() -> None:
    """To free a million keys holds the loop for 15 ms."""
    store = Store()
    flows = [conn(replace(UDP, source_port=port)) for port in range(STEP_ENTRIES + 1)]
    for some, sets in ((flows[1:], 0), (flows, 2)):
        store.begin_snapshot()
        store.add_snapshot([flow.full() for flow in some])
        store.apply([flow.update("mark") for flow in some])
        store.abort_snapshot()
        freed = int(store.has_unneeded)
        while store.free():
            freed += 1
        assert freed == sets, "few are freed at once"
