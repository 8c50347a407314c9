import struct
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.kernel import create, uapi
from ftfw.kernel.attributes import nested, split
from ftfw.kernel.create import DOUBTED_S, FALLBACK_TIMEOUT_S, PINNED_S, Timeouts
from tests.unit.conntrack import (
    PORTS,
    TCP,
    UDP,
    Conn,
    End,
    conn,
    connections,
    inverse,
    sctp_info,
    seq_adjust,
    synproxy_info,
    tcp_info,
    walk,
)

TIMEOUTS = Timeouts(
    tcp_established=1000, udp=31, udp_stream=121, icmp=32, icmpv6=33, gre=34, gre_stream=181, sctp_established=211
)
GRE = replace(TCP, protocol=uapi.IPPROTO_GRE)
SCTP = replace(TCP, protocol=uapi.IPPROTO_SCTP)
ICMP = replace(TCP, protocol=uapi.IPPROTO_ICMP)
SIX = End("2001:db8::1", "2001:db8::2", 7, 8, uapi.IPPROTO_TCP)


def created(each: Conn, *, pinned: bool = False) -> dict[int, bytes]:
    return walk(create.create(each.key, each.held(), timeouts=TIMEOUTS, pinned=pinned))


def updated(each: Conn, found: Conn | None = None) -> dict[int, bytes]:
    """Return the update of the entry `found` to `each`; without one, of an entry that is equal already."""
    there = split((found or each).full()[20:])
    return walk(create.update(each.key, each.held(), there, timeouts=TIMEOUTS))


def status(attributes: dict[int, bytes]) -> int:
    return int.from_bytes(attributes[uapi.CTA_STATUS], "big")


def timeout(attributes: dict[int, bytes]) -> int:
    return int.from_bytes(attributes[uapi.CTA_TIMEOUT], "big")


def translations(each: Conn) -> dict[str, tuple[str, int | None]]:
    """Return what the body says about NAT: direction → address and port; minimum and maximum must agree."""
    found = {}
    for name, kind in (("source", uapi.CTA_NAT_SRC), ("destination", uapi.CTA_NAT_DST)):
        if (range_ := created(each).get(kind)) is None:
            continue
        fields = walk(range_)
        ports = walk(fields.pop(uapi.CTA_NAT_PROTO, b""))
        assert len(fields) == 2
        assert len(set(fields.values())) == 1
        assert len(set(ports.values())) <= 1
        assert set(ports) in (set(), {uapi.CTA_PROTONAT_PORT_MIN, uapi.CTA_PROTONAT_PORT_MAX})
        port = struct.unpack(">H", ports[uapi.CTA_PROTONAT_PORT_MIN])[0] if ports else None
        found[name] = str(ip_address(next(iter(fields.values())))), port
    return found


# NAT


@given(connections())
def test_the_reply_tuple_is_the_plain_inverse_in_its_zone(each: Conn) -> None:
    attributes = created(each)
    end = inverse(each.original)
    plain = replace(end, zone=each.reply.zone, icmp=each.reply.icmp)
    assert attributes[uapi.CTA_TUPLE_REPLY] == walk(plain.pack(uapi.CTA_TUPLE_REPLY))[uapi.CTA_TUPLE_REPLY]
    assert attributes[uapi.CTA_TUPLE_ORIG] == walk(each.key)[uapi.CTA_TUPLE_ORIG]
    assert attributes.get(uapi.CTA_ZONE) == walk(each.key).get(uapi.CTA_ZONE)


@given(connections())
def test_the_translation_is_the_difference_of_the_tuples(each: Conn) -> None:
    o, r = each.original, each.reply
    expected: dict[str, tuple[str, int | None]] = {}
    ported, gre = o.protocol in PORTS, o.protocol == uapi.IPPROTO_GRE
    back_to = r.destination_port if ported else r.source_port  # ICMP: the id stands for the source port
    if (r.destination, back_to) != (o.source, o.source_port):
        expected["source"] = r.destination, None if gre else back_to
    if r.source != o.destination or (ported and r.source_port != o.destination_port):
        expected["destination"] = r.source, r.source_port if ported and not gre else None
    assert translations(each) == expected


def test_translations_in_plain_words() -> None:
    assert translations(conn()) == {}
    snat = replace(inverse(TCP), destination="203.0.113.1", destination_port=5000)
    assert translations(conn(reply=snat)) == {"source": ("203.0.113.1", 5000)}
    dnat = replace(inverse(TCP), source="192.0.2.80", source_port=8080)
    assert translations(conn(reply=dnat)) == {"destination": ("192.0.2.80", 8080)}
    both = replace(dnat, destination="203.0.113.1")
    assert translations(conn(reply=both)) == {"source": ("203.0.113.1", 40001), "destination": ("192.0.2.80", 8080)}
    port_only = replace(inverse(TCP), destination_port=5000)
    assert translations(conn(reply=port_only)) == {"source": (TCP.source, 5000)}
    six = replace(inverse(SIX), destination="2001:db8::9")
    assert translations(conn(SIX, reply=six)) == {"source": ("2001:db8::9", 7)}
    ping = replace(inverse(ICMP), destination="203.0.113.1", source_port=9)
    assert translations(conn(ICMP, protoinfo=b"", reply=ping)) == {"source": ("203.0.113.1", 9)}
    gre = replace(inverse(GRE), destination="203.0.113.1", destination_port=9)
    assert translations(conn(GRE, protoinfo=b"", reply=gre)) == {"source": ("203.0.113.1", None)}


# Status


@given(connections(), st.integers(0, 0xFFFF))
def test_the_status_of_a_created_entry(each: Conn, bits: int) -> None:
    got = status(created(replace(each, status=bits)))
    assert got & uapi.IPS_CONFIRMED
    assert not got & (uapi.IPS_EXPECTED | uapi.IPS_DYING | uapi.IPS_OFFLOAD | uapi.IPS_HW_OFFLOAD)
    assert got & uapi.IPS_SEEN_REPLY == bits & uapi.IPS_SEEN_REPLY
    assert got & uapi.IPS_ASSURED == bits & uapi.IPS_ASSURED
    fixed = bool(bits & uapi.IPS_FIXED_TIMEOUT) or each.original.protocol == uapi.IPPROTO_GRE
    assert bool(got & uapi.IPS_FIXED_TIMEOUT) == fixed


def test_an_update_sends_expected_as_the_kernel_has_it() -> None:
    child = conn(master=UDP, status=uapi.IPS_EXPECTED | uapi.IPS_CONFIRMED)
    assert status(updated(child)) & uapi.IPS_EXPECTED
    assert not status(updated(child, replace(child, status=uapi.IPS_CONFIRMED))) & uapi.IPS_EXPECTED
    assert not status(updated(replace(child, status=uapi.IPS_DYING))) & uapi.IPS_DYING


@given(connections())
def test_an_update_has_nothing_that_the_kernel_refuses(each: Conn) -> None:
    attributes = updated(each)
    refused = {uapi.CTA_NAT_SRC, uapi.CTA_NAT_DST, uapi.CTA_TUPLE_MASTER, uapi.CTA_TUPLE_REPLY}
    assert not attributes.keys() & refused
    assert (uapi.CTA_TIMEOUT in attributes) == (each.original.protocol != uapi.IPPROTO_GRE)
    for kind in (uapi.CTA_HELP, uapi.CTA_LABELS, uapi.CTA_SEQ_ADJ_ORIG, uapi.CTA_SYNPROXY):
        assert attributes.get(kind) == each.table_row().get(kind)


def test_an_update_takes_a_mark_back() -> None:
    assert updated(conn(mark=5))[uapi.CTA_MARK] == bytes((0, 0, 0, 5))
    assert updated(conn(), conn(mark=5))[uapi.CTA_MARK] == bytes(4)


# Protocol state


@given(st.integers(0, 9), st.tuples(st.integers(0, 255), st.integers(0, 255)))
def test_tcp_flags_are_believed_liberal_and_vouch_for_nothing_that_is_not_restored(
    state: int, flags: tuple[int, int]
) -> None:
    each = conn(protoinfo=tcp_info(state, (3, 14), flags))
    for attributes in (created(each), updated(each)):
        tcp = walk(walk(attributes[uapi.CTA_PROTOINFO])[uapi.CTA_PROTOINFO_TCP])
        assert tcp[uapi.CTA_PROTOINFO_TCP_STATE] == bytes((state,))
        assert tcp[uapi.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL] == b"\x03"
        assert tcp[uapi.CTA_PROTOINFO_TCP_WSCALE_REPLY] == b"\x0e"
        for kind, held in zip((4, 5), flags, strict=True):
            got, mask = tcp[kind]
            assert mask == 0xFF
            assert got == held & ~0x30 | 0x08


def test_a_tcp_entry_that_tells_no_state_is_established() -> None:
    tcp = walk(walk(created(conn(protoinfo=b""))[uapi.CTA_PROTOINFO])[uapi.CTA_PROTOINFO_TCP])
    assert tcp[uapi.CTA_PROTOINFO_TCP_STATE] == bytes((uapi.TCP_ESTABLISHED,))
    assert tcp[uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL] == tcp[uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY] == b"\x08\xff"
    assert timeout(created(conn(protoinfo=b"", timeout=1))) == TIMEOUTS.tcp_established


def test_sctp_state_and_tags_go_as_they_are() -> None:
    each = conn(SCTP, protoinfo=sctp_info(4, (1, 0xFFFFFFFF)))
    assert created(each)[uapi.CTA_PROTOINFO] == each.table_row()[uapi.CTA_PROTOINFO]


# Helpers, masters and the rest


def test_a_helper_goes_along_but_for_pptp_when_translated() -> None:
    assert uapi.CTA_HELP in created(conn(helper=b"ftp", status=8 | uapi.IPS_SRC_NAT))
    assert uapi.CTA_HELP in created(conn(helper=b"pptp"))
    for nat in (uapi.IPS_SRC_NAT, uapi.IPS_DST_NAT):
        assert uapi.CTA_HELP not in created(conn(helper=b"pptp", status=8 | nat))


def test_what_is_restored_goes_along_and_ids_and_counters_do_not() -> None:
    rich = conn(
        mark=5, labels=bytes(15) + b"\x01", master=UDP, sequence=seq_adjust(15, 16), synproxy=synproxy_info(), zone=3
    )
    attributes, row = created(rich), rich.table_row()
    for kind in (uapi.CTA_MARK, uapi.CTA_LABELS, uapi.CTA_TUPLE_MASTER, 15, 16, uapi.CTA_SYNPROXY):
        assert attributes[kind] == row[kind]
    assert uapi.CTA_ID not in attributes
    assert not attributes.keys() & {uapi.CTA_USE, uapi.CTA_COUNTERS_ORIG}


def test_a_body_without_what_a_kernel_lacks() -> None:
    rich = conn(helper=b"ftp", master=UDP)
    body = create.create(rich.key, rich.held(), timeouts=TIMEOUTS)
    for lacking in (uapi.CTA_HELP, uapi.CTA_TUPLE_MASTER):
        left = walk(create.without(body, lacking))
        assert left == {kind: data for kind, data in walk(body).items() if kind != lacking}
        assert lacking in walk(body)


# Timeouts


@pytest.mark.parametrize(
    ("each", "least"),
    [
        (conn(), 1000),
        (conn(protoinfo=tcp_info(1)), 1),
        (conn(protoinfo=tcp_info(7)), 1),
        (conn(UDP, status=8), 31),
        (conn(UDP, status=8 | uapi.IPS_SEEN_REPLY), 121),
        (conn(replace(UDP, protocol=uapi.IPPROTO_UDPLITE)), 121),
        (conn(GRE, protoinfo=b"", status=8), 34),
        (conn(GRE, protoinfo=b""), 181),
        (conn(SCTP, protoinfo=sctp_info(4)), 211),
        (conn(SCTP, protoinfo=sctp_info(5)), 1),
        (conn(ICMP, protoinfo=b""), 32),
        (conn(End("2001:db8::1", "2001:db8::2", 7, 0, uapi.IPPROTO_ICMPV6, (128, 0)), protoinfo=b""), 33),
    ],
)
def test_an_entry_gets_at_least_what_a_packet_would_give_it(each: Conn, least: int) -> None:
    assert timeout(created(replace(each, timeout=0))) == least
    assert timeout(created(replace(each, timeout=least - 1))) == least
    assert timeout(created(replace(each, timeout=5000))) == 5000
    only = walk(create.set_timeout(each.key, replace(each, timeout=0).held(), TIMEOUTS, pinned=False))
    assert timeout(only) == least
    assert only.keys() <= {uapi.CTA_TUPLE_ORIG, uapi.CTA_ZONE, uapi.CTA_TIMEOUT}


@pytest.mark.parametrize(
    ("each", "instead"),
    [
        (conn(), 1000),
        (conn(UDP, status=8), 31),
        (conn(protoinfo=tcp_info(7)), create.ENDING_S),
        (conn(SCTP, protoinfo=sctp_info(5)), create.ENDING_S),
    ],
)
def test_a_hot_backups_pinned_timer_is_not_believed(each: Conn, instead: int) -> None:
    """An active that was one streams what is left of two weeks until its timers are settled."""
    for left in (PINNED_S, PINNED_S - 86400, DOUBTED_S):
        assert timeout(created(replace(each, timeout=left))) == instead
        only = create.set_timeout(each.key, replace(each, timeout=left).held(), TIMEOUTS, pinned=False)
        assert timeout(walk(only)) == instead
    assert timeout(created(replace(each, timeout=DOUBTED_S - 1))) == DOUBTED_S - 1


@given(connections())
def test_a_pinned_entry_does_not_run_out(each: Conn) -> None:
    assert timeout(created(each, pinned=True)) == PINNED_S
    assert timeout(walk(create.set_timeout(each.key, each.held(), TIMEOUTS, pinned=True))) == PINNED_S


def test_pinned_timers_fit_the_kernels_clock() -> None:
    assert PINNED_S * 1000 < (1 << 31)  # jiffies at HZ=1000


def test_an_entry_that_tells_no_timeout_gets_one() -> None:
    value = b"".join(data for kind, data in split(conn(protoinfo=tcp_info(7)).held()).items() if kind != 7)
    assert timeout(walk(create.create(conn().key, value, timeouts=TIMEOUTS))) == FALLBACK_TIMEOUT_S


# Entries that are there already


def updatable(held: Conn, found: Conn) -> bool:
    return create.updatable(held.held(), split(found.full()[20:]))


def test_an_update_can_do_it_when_translation_and_helper_are_the_same() -> None:
    held = conn(helper=b"ftp")
    assert updatable(held, held)
    assert not updatable(held, conn())
    assert not updatable(held, conn(helper=b"sip"))
    translated = replace(inverse(TCP), destination="203.0.113.1")
    assert not updatable(held, conn(helper=b"ftp", reply=translated))


def test_the_helper_that_pptp_goes_without_is_not_missed_and_may_stay() -> None:
    held = conn(helper=b"pptp", status=8 | uapi.IPS_SRC_NAT)
    injected = replace(held, helper=b"")
    for found in (held, injected):
        assert updatable(held, found)
        assert (uapi.CTA_HELP in updated(held, found)) == (found is held)
    assert not updatable(conn(helper=b"pptp"), injected)


@pytest.mark.parametrize(
    "left",
    [{"labels": bytes(15) + b"\x01"}, {"sequence": seq_adjust(15, 16)}, {"synproxy": synproxy_info()}, {"master": UDP}],
    ids=["labels", "sequence adjustment", "synproxy", "master"],
)
def test_an_update_takes_away_nothing_but_a_mark(left: dict[str, Any]) -> None:
    assert not updatable(conn(), conn(**left))
    assert updatable(conn(**left), conn(**left))
    assert updatable(conn(**left), conn())
    assert updatable(conn(), conn(mark=5))


def test_another_master_is_no_update() -> None:
    assert not updatable(conn(master=UDP), conn(master=replace(UDP, source_port=9)))


def test_an_extension_that_says_nothing_need_not_go() -> None:
    """Every entry that a process created has empty extensions; sequence adjustment in one direction is another case."""
    nothing = split(conn(sequence=seq_adjust(15, 16), labels=bytes(16), synproxy=synproxy_info()).full()[20:])
    for kind, told in nothing.items():
        if kind == uapi.CTA_LABELS:
            nothing[kind] = told[:4] + bytes(16)
        elif kind in create.LASTING:
            inner = (data[:4] + bytes(len(data) - 4) for data in nested(told).values())
            nothing[kind] = told[:4] + b"".join(inner)
    assert nothing.keys() >= {uapi.CTA_LABELS, uapi.CTA_SEQ_ADJ_ORIG, uapi.CTA_SYNPROXY}
    assert create.updatable(conn().held(), nothing)
