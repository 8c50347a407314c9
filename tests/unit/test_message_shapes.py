from dataclasses import replace
from ipaddress import ip_address
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.kernel import uapi
from ftfw.kernel.message_shapes import DESTROY, PREFIX, SHAPES, dumped_value, recognise
from tests.unit.conntrack import (
    MEASURED,
    Conn,
    End,
    attribute,
    be16,
    be32,
    conn,
    connections,
    flow_messages,
    inverse,
    nest,
    tcp_info,
    walk,
)

TCP4 = End("192.0.2.1", "198.51.100.2", 40001, 443, uapi.IPPROTO_TCP)
ENDS = [
    TCP4,
    replace(TCP4, protocol=uapi.IPPROTO_UDP),
    replace(TCP4, protocol=uapi.IPPROTO_ICMP),
    End("2001:db8::1", "2001:db8::2", 40001, 443, uapi.IPPROTO_TCP),
    End("2001:db8::1", "2001:db8::2", 40001, 443, uapi.IPPROTO_UDP),
    End("2001:db8::1", "2001:db8::2", 7, 0, uapi.IPPROTO_ICMPV6, (128, 0)),
]


def payloads(data: bytes) -> list[tuple[int, bytes]]:
    return list(walk(data).items())


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("mark", [0, 5])
def test_plain_messages_are_recognised(end: End, mark: int) -> None:
    each = conn(end, mark=mark)
    assert recognise(each.new())
    assert recognise(each.update("protoinfo"))
    assert recognise(each.destroy())
    dumped = recognise(each.full())
    assert (dumped is None) == bool(mark)
    for message in (each.new(), each.update("protoinfo")):
        shape = recognise(message)
        assert shape
        assert not shape.dump
        assert shape.kind != DESTROY
    gone = recognise(conn(end).destroy())
    assert gone
    assert gone.kind == DESTROY


@pytest.mark.parametrize(
    "measured",
    [
        {"counters": (3, 2)},
        {"began": 1 << 60},
        {"began": 1 << 60, "event_time": 1 << 61},
        {"counters": (3, 2), "began": 1 << 60},
        {"counters": (3, 2), "began": 1 << 60, "event_time": 1 << 61},
    ],
    ids="+".join,
)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("mark", [0, 5])
def test_counters_and_timestamps_make_no_message_unknown_and_are_no_value(
    end: End, mark: int, measured: dict[str, Any]
) -> None:
    each = conn(end, mark=mark)
    told = replace(each, **measured)
    for message, plain in ((told.new(), each.new()), (told.update("protoinfo"), each.update("protoinfo"))):
        shape, without = recognise(message), recognise(plain)
        assert shape
        assert without
        assert message[20 : shape.value_end] == plain[20 : without.value_end] == plain[20:]
    for timeout in (False, True):
        ended = recognise(told.destroy(timeout=timeout))
        assert ended
        assert (ended.protocol, ended.kind) == (end.protocol, DESTROY)
    dumped = recognise(replace(told, mark=0).full())
    assert dumped
    assert dumped_value(replace(told, mark=0).full(), dumped) == replace(each, mark=0).held()


@pytest.mark.parametrize("mark", [0, 0x01020304])
@pytest.mark.parametrize("end", ENDS)
def test_a_shape_knows_where_what_filters_go_by_stands(end: End, mark: int) -> None:
    four = ":" not in end.source
    other = End(
        "203.0.113.1" if four else "2001:db8::3", "203.0.113.2" if four else "2001:db8::4", 80, 81, end.protocol
    )
    info = tcp_info(4) if end.protocol == uapi.IPPROTO_TCP else b""
    each = conn(end, reply=other, mark=mark, protoinfo=info)
    addresses = [ip_address(each).packed for each in (end.source, end.destination, other.source, other.destination)]
    with_ports = end.protocol in (uapi.IPPROTO_TCP, uapi.IPPROTO_UDP)
    ports = [end.source_port, end.destination_port, 80, 81] if with_ports else []
    for message in (each.new(), each.update("protoinfo"), each.full(), each.destroy(), each.destroy(timeout=True)):
        if shape := recognise(message):
            assert shape.protocol == end.protocol
            assert list(shape.addresses_of(message)) == addresses
            assert [int.from_bytes(port, "big") for port in shape.ports_of(message)] == ports
            assert (shape.mark_of is not None) == bool(mark)
            assert shape.mark_of is None or shape.mark_of(message) == mark.to_bytes(4, "big")
            assert (shape.tcp_state_of is not None) == bool(info)
            assert shape.tcp_state_of is None or shape.tcp_state_of(message) == (7 if shape.kind == DESTROY else 4)


@given(flow_messages())
def test_a_recognised_message_is_plain_and_falls_into_key_and_value(message: bytes) -> None:
    shape = recognise(message)
    if shape is None:
        return
    attributes = walk(message[20:])
    plain = [uapi.CTA_TUPLE_ORIG, uapi.CTA_TUPLE_REPLY, uapi.CTA_ID, uapi.CTA_STATUS]
    assert set(attributes) <= {*plain, uapi.CTA_TIMEOUT, uapi.CTA_PROTOINFO, uapi.CTA_MARK, uapi.CTA_USE, *MEASURED}
    assert payloads(message[20 : shape.split]) == [(uapi.CTA_TUPLE_ORIG, attributes[uapi.CTA_TUPLE_ORIG])]
    assert (shape.kind == DESTROY) == (message[4:6] == b"\x02\x01")
    original, reply = walk(attributes[uapi.CTA_TUPLE_ORIG]), walk(attributes[uapi.CTA_TUPLE_REPLY])
    assert set(original) == set(reply) == {uapi.CTA_TUPLE_IP, uapi.CTA_TUPLE_PROTO}
    for tuple_, found in (
        (original, shape.source_of(message)),
        (reply, shape.reply_source_of(message)),
    ):
        addresses = walk(tuple_[uapi.CTA_TUPLE_IP])
        assert found == addresses[min(addresses)]


@given(connections(plain=True))
def test_the_value_of_a_dumped_entry_is_what_an_event_of_it_would_give(each: Conn) -> None:
    each = replace(each, mark=0)
    shape = recognise(each.full())
    if shape is None:
        assert each.original.protocol in (uapi.IPPROTO_SCTP, uapi.IPPROTO_GRE)
        return
    assert shape.dump
    value = dumped_value(each.full(), shape)
    assert value == each.held() == replace(each, event_time=None).new()[shape.split :]
    assert walk(value) == each.table_row()
    assert list(walk(value))[:4] == [uapi.CTA_TUPLE_REPLY, uapi.CTA_ID, uapi.CTA_STATUS, uapi.CTA_TIMEOUT]


@given(flow_messages(connections(plain=True, protocols=(6, 17))), st.data())
def test_no_damage_to_an_attribute_header_is_recognised(message: bytes, data: st.DataObject) -> None:
    """No bit may change unseen in any byte that is not payload."""
    shape = recognise(message)
    if shape is None:
        return
    headers = [i for i, byte in enumerate(shape.mask.to_bytes(len(message), "big")) if byte]
    at = data.draw(st.sampled_from(headers))
    damaged = bytearray(message)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    # What still is recognised is another kind of message (NEW, UPDATE), not a damaged one.
    assert recognise(bytes(damaged)) in (None, *chain.from_iterable(SHAPES.values()))
    if at >= PREFIX:
        assert recognise(bytes(damaged)) is None


@given(flow_messages(connections(plain=True)), st.binary(min_size=1, max_size=12))
def test_longer_and_shorter_messages_are_not_recognised(message: bytes, more: bytes) -> None:
    if recognise(message) is None:
        return
    for cut in (1, 4, 8, 13):
        assert recognise(message[:-cut]) is None
    longer = attribute(uapi.CTA_LABELS, more)
    assert recognise(message + longer) is None
    assert recognise(message[:PREFIX] + more + message) is None


@pytest.mark.parametrize(
    "rich",
    [
        conn(helper=b"ftp"),
        conn(labels=bytes(16)),
        conn(master=TCP4),
        conn(zone=3),
        conn(replace(TCP4, zone=3)),
        conn(reply=replace(inverse(TCP4), zone=3)),
        conn(protoinfo=b""),
        conn(replace(TCP4, protocol=uapi.IPPROTO_GRE), protoinfo=b""),
    ],
)
def test_rich_messages_are_not_recognised(rich: Conn) -> None:
    assert recognise(rich.new()) is None


def test_a_reply_tuple_of_another_protocol_or_family_is_not_recognised() -> None:
    other = replace(inverse(TCP4), protocol=uapi.IPPROTO_UDP)
    assert recognise(conn(reply=other).new()) is None
    six = End("2001:db8::1", "2001:db8::2", 1, 2, uapi.IPPROTO_TCP)
    assert recognise(conn(reply=six).new()) is None


def test_every_shape_is_distinct_and_its_pattern_lies_within_its_mask() -> None:
    assert len(SHAPES) >= 24
    for prefix, shapes in SHAPES.items():
        assert len(prefix) == PREFIX
        assert len({(shape.mask, shape.pattern) for shape in shapes}) == len(shapes)
        assert len({(shape.size, shape.split, shape.kind, shape.dump) for shape in shapes}) == 1
        for shape in shapes:
            assert shape.pattern & ~shape.mask == 0
            assert shape.pattern.to_bytes(shape.size, "big")[:PREFIX] == prefix


def test_the_builder_of_these_tests_writes_what_was_captured() -> None:
    """A real kernel wrote 196 bytes with attributes 1 2 12 3 7 4; 208 with a helper; 248 with a master."""
    each = conn()
    assert len(each.new()) == 196
    assert list(walk(each.new()[20:])) == [1, 2, 12, 3, 7, 4]
    assert len(conn(helper=b"ftp").new()) == 208
    assert list(walk(conn(helper=b"ftp").new()[20:])) == [1, 2, 12, 3, 7, 4, 5]
    assert len(conn(master=TCP4).new()) == 248
    assert nest(uapi.CTA_PROTOINFO, b"")[:2] == b"\x04\0"
    assert tcp_info()[:2] == b"\x30\0"
    assert (be16(1, 1)[4:], be32(1, 1)[4:]) == (b"\0\x01\0\0", b"\0\0\0\x01")
