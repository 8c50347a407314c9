from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given

from ftfw.kernel import flow_entry, uapi
from ftfw.kernel.attributes import MalformedError
from ftfw.kernel.flow_entry import Kind
from tests.unit.conntrack import (
    TCP,
    UDP,
    Conn,
    End,
    attribute,
    be16,
    be32,
    conn,
    connections,
    inverse,
    nest,
    netlink,
    seq_adjust,
    synproxy_info,
    tcp_info,
    walk,
)

SIX = End("2001:db8::1", "2001:db8::2", 1, 2, uapi.IPPROTO_UDP)
RICH = conn(
    mark=5, helper=b"ftp", labels=bytes(16), master=UDP, sequence=seq_adjust(15, 16), synproxy=synproxy_info(), ident=9
)


def after(old: Conn | bytes | None, message: bytes) -> dict[int, bytes]:
    """Return what is held after `message` where `old` was held: type → payload."""
    parsed = flow_entry.parse(message)
    held = old.held() if isinstance(old, Conn) else old
    return walk(flow_entry.overlay(held, parsed.kind, parsed.attributes, Counter()))


@given(connections())
def test_messages_are_of_their_kind(each: Conn) -> None:
    kinds = [flow_entry.parse(m).kind for m in (each.new(), each.update(), each.full(), each.destroy())]
    assert kinds == [Kind.NEW, Kind.UPDATE, Kind.FULL, Kind.DESTROY]
    assert flow_entry.parse(each.new()).family == each.family


@given(connections())
def test_the_key_is_the_original_tuple_and_the_zone(each: Conn) -> None:
    attributes = flow_entry.parse(each.new()).attributes
    assert flow_entry.key_of(attributes) == each.key
    assert flow_entry.family_of(each.key) == each.family
    assert flow_entry.protocol_of(each.key) == each.original.protocol
    assert flow_entry.is_gre(each.key) == (each.original.protocol == uapi.IPPROTO_GRE)
    assert flow_entry.tuple_of(each.key) == replace(each.original, zone=None).pack(uapi.CTA_TUPLE_ORIG)


def test_the_name_of_the_other_end_is_the_reply_tuple_and_the_zone() -> None:
    there = conn(zone=5)
    reply = there.reply.pack(uapi.CTA_TUPLE_REPLY)
    assert flow_entry.reply_name(there.key, there.held()) == reply + be16(uapi.CTA_ZONE, 5)
    assert flow_entry.reply_name(conn().key, conn().held()) == reply


def test_a_kernel_looks_up_helpers_by_name_family_and_protocol() -> None:
    assert flow_entry.helper_kind((RICH.key, RICH.held())) == ("ftp", uapi.AF_INET, uapi.IPPROTO_TCP)
    six = conn(SIX)
    assert flow_entry.helper_kind((six.key, six.held())) == (None, uapi.AF_INET6, uapi.IPPROTO_UDP)


def test_the_zone_of_a_key_has_one_form() -> None:
    assert flow_entry.zone_of(conn().key) == b""
    assert flow_entry.zone_of(conn(zone=3).key) == be16(uapi.CTA_ZONE, 3)
    assert flow_entry.zone_of(conn(replace(TCP, zone=3)).key) == be16(uapi.CTA_ZONE, 3)


def test_a_master_is_looked_for_in_its_childs_zone() -> None:
    master = UDP.pack(uapi.CTA_TUPLE_MASTER)
    assert flow_entry.master_key(conn().key, master) == conn(UDP).key
    assert flow_entry.master_key(conn(zone=3).key, master) == conn(UDP, zone=3).key


@given(connections())
def test_a_dumped_entry_is_held_whole(each: Conn) -> None:
    assert after(None, each.full()) == each.table_row() | (
        {} if each.mark else {k: v for k, v in after(None, each.full()).items() if k == uapi.CTA_MARK}
    )


@given(connections())
def test_an_update_keeps_what_it_does_not_say(each: Conn) -> None:
    held = after(each, each.update())
    for kind in (
        uapi.CTA_TUPLE_REPLY,
        uapi.CTA_PROTOINFO,
        uapi.CTA_LABELS,
        uapi.CTA_TUPLE_MASTER,
        uapi.CTA_SEQ_ADJ_ORIG,
        uapi.CTA_SEQ_ADJ_REPLY,
        uapi.CTA_SYNPROXY,
    ):
        assert held.get(kind) == each.table_row().get(kind)


def test_an_update_states_status_timeout_helper_and_mark_in_full() -> None:
    changed = replace(RICH, status=uapi.IPS_CONFIRMED, timeout=3, helper=b"", mark=0)
    held = after(RICH, changed.update())
    assert held[uapi.CTA_STATUS] == b"\0\0\0\x08"
    assert held[uapi.CTA_TIMEOUT] == b"\0\0\0\x03"
    assert uapi.CTA_HELP not in held
    assert uapi.CTA_MARK not in held
    assert uapi.CTA_LABELS in held
    named = after(RICH, replace(RICH, helper=b"sip", mark=6).update())
    assert named[uapi.CTA_MARK] == b"\0\0\0\x06"
    assert walk(named[uapi.CTA_HELP]) == {uapi.CTA_HELP_NAME: b"sip\0"}


def test_an_update_replaces_what_it_says() -> None:
    told = replace(RICH, labels=b"\x01" * 16, protoinfo=tcp_info(7))
    held = after(RICH, told.update("labels", "protoinfo"))
    assert held[uapi.CTA_LABELS] == b"\x01" * 16
    assert held[uapi.CTA_PROTOINFO] == walk(tcp_info(7))[uapi.CTA_PROTOINFO]


def test_an_update_of_another_entry_with_the_same_tuple_takes_nothing_over() -> None:
    """The end of the old one and the beginning of the new one were lost."""
    other = conn(ident=10)
    assert after(RICH, other.update("protoinfo")) == other.table_row()


def test_a_new_entry_replaces_whatever_was_held() -> None:
    fresh = conn(ident=RICH.ident)
    assert after(RICH, fresh.new()) == fresh.table_row()


def test_a_full_answer_replaces_all_but_what_an_offloaded_entry_lacks() -> None:
    offloaded = conn(ident=RICH.ident, offloaded=True)
    held = after(RICH, offloaded.full())
    assert held[uapi.CTA_TIMEOUT] == RICH.table_row()[uapi.CTA_TIMEOUT]
    assert held[uapi.CTA_PROTOINFO] == RICH.table_row()[uapi.CTA_PROTOINFO]
    assert uapi.CTA_LABELS not in held
    assert uapi.CTA_SEQ_ADJ_ORIG not in held


def test_attributes_of_unknown_type_are_dropped_and_counted() -> None:
    strange = attribute(99, b"x")
    message = netlink(uapi.CT_NEW, 0x600, uapi.AF_INET, conn().new()[20:] + strange)
    dropped: Counter[str] = Counter()
    parsed = flow_entry.parse(message)
    value = flow_entry.overlay(None, parsed.kind, parsed.attributes, dropped)
    assert walk(value) == conn().table_row()
    assert dropped == {"unknown_attribute": 1}


def test_known_attributes_of_no_use_are_dropped_without_a_word() -> None:
    dropped: Counter[str] = Counter()
    parsed = flow_entry.parse(conn(counters=(3, 2), began=1, event_time=2).full())
    assert not walk(flow_entry.overlay(None, parsed.kind, parsed.attributes, dropped)).keys() & flow_entry.DROPPED
    assert not dropped


def test_the_snapshot_lies_under_what_events_said() -> None:
    live = conn(ident=9, timeout=1, protoinfo=tcp_info(7))
    merged = walk(flow_entry.under(RICH.held(), live.held(), frozenset()))
    assert merged[uapi.CTA_TIMEOUT] == b"\0\0\0\x01"
    assert merged[uapi.CTA_PROTOINFO] == walk(tcp_info(7))[uapi.CTA_PROTOINFO]
    assert merged[uapi.CTA_LABELS] == RICH.labels
    assert uapi.CTA_TUPLE_MASTER in merged
    assert uapi.CTA_HELP not in merged  # the event would have named it
    assert uapi.CTA_MARK not in merged


def test_but_over_what_was_held_before_it() -> None:
    stale = conn(ident=9, protoinfo=tcp_info(2), synproxy=synproxy_info(7))
    merged = walk(flow_entry.under(RICH.held(), stale.held(), frozenset({uapi.CTA_PROTOINFO, uapi.CTA_SYNPROXY})))
    assert merged[uapi.CTA_PROTOINFO] == RICH.table_row()[uapi.CTA_PROTOINFO]
    assert merged[uapi.CTA_SYNPROXY] == RICH.table_row()[uapi.CTA_SYNPROXY]


def test_the_snapshot_of_another_entry_says_nothing() -> None:
    live = conn(ident=10)
    assert flow_entry.under(RICH.held(), live.held(), frozenset()) == live.held()


def test_plain_is_what_events_say_whole() -> None:
    assert flow_entry.is_plain(conn(mark=1).key, conn(mark=1).held())
    assert not flow_entry.is_plain(RICH.key, RICH.held())
    gre = conn(replace(TCP, protocol=uapi.IPPROTO_GRE), protoinfo=b"")
    assert not flow_entry.is_plain(gre.key, gre.held())


def test_what_an_entry_has() -> None:
    rich = flow_entry.parse(replace(RICH, counters=(0, 0)).full()).attributes
    assert flow_entry.helper_of(rich) == "ftp"
    assert flow_entry.timeout_of(rich) == 120
    assert flow_entry.packets_of(rich) == 0
    assert (flow_entry.has_helper(RICH.held()), flow_entry.has_master(RICH.held())) == (True, True)
    plain = flow_entry.parse(conn().new()).attributes
    assert flow_entry.helper_of(plain) is None
    assert (flow_entry.has_helper(conn().held()), flow_entry.has_master(conn().held())) == (False, False)
    assert flow_entry.helper_of({uapi.CTA_HELP: nest(uapi.CTA_HELP)}) is None


def test_packets_of_both_directions_are_added() -> None:
    counts = [nest(kind, attribute(1, (3).to_bytes(8, "big"))) for kind in (9, 10)]
    assert flow_entry.packets_of({9: counts[0], 10: counts[1]}) == 6


def test_an_answer_travels_without_sequence_and_port() -> None:
    answer = bytearray(conn().full())
    answer[6:16] = b"\0\0" + b"\x07" * 8
    assert flow_entry.as_full(bytes(answer)) == conn().full()


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        conn().new()[:19],
        conn().new()[:-4],
        conn().new() + b"\0\0\0\0",
        netlink(uapi.CT_NEW, 0x400, 2, b""),
        netlink(uapi.CT_GET, 0, 2, b""),
        netlink(uapi.CT_NEW, 0, 2, b"\x03\0\x01\0"),
    ],
)
def test_what_is_no_message_is_malformed(damaged: bytes) -> None:
    with pytest.raises(MalformedError):
        flow_entry.parse(damaged)


def test_a_flow_without_original_tuple_has_no_key() -> None:
    with pytest.raises(MalformedError):
        flow_entry.key_of({uapi.CTA_ID: be32(uapi.CTA_ID, 1)})


def test_families_are_told_by_the_key() -> None:
    assert flow_entry.family_of(conn(SIX).key) == uapi.AF_INET6
    assert flow_entry.family_of(inverse(TCP).pack(uapi.CTA_TUPLE_REPLY)) == uapi.AF_INET
