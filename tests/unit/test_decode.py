from dataclasses import replace

from hypothesis import given

from ftfw.kernel import decode, expectation, flow_entry, uapi
from ftfw.kernel.flow_model import Expectation, Flow
from tests.unit.conntrack import (
    PORTS,
    TCP,
    UDP,
    Conn,
    End,
    Expect,
    be16,
    conn,
    connections,
    expectations,
    inverse,
    nest,
    sctp_info,
    seq_adjust,
    synproxy_info,
    tcp_info,
)


def decoded(each: Conn) -> Flow:
    return decode.flow(each.key, each.held())


def expected(each: Expect, zone: bytes = b"") -> Expectation:
    attributes = flow_entry.parse(each.new()).attributes
    return decode.expectation(expectation.key_of(attributes), expectation.value_of(attributes), zone)


def described(end: End) -> dict[str, str | int]:
    ends: dict[str, str | int] = {"src": end.source, "dst": end.destination}
    if end.protocol == uapi.IPPROTO_GRE:
        return ends | {"src_key": end.source_port, "dst_key": end.destination_port}
    if end.protocol in PORTS:
        return ends | {"sport": end.source_port, "dport": end.destination_port}
    return ends | {"icmp_id": end.source_port, "icmp_type": end.icmp[0], "icmp_code": end.icmp[1]}


@given(connections())
def test_what_a_flow_is_made_of(each: Conn) -> None:
    flow = decoded(each)
    assert flow.family == ("ipv6" if each.family == uapi.AF_INET6 else "ipv4")
    assert flow.protocol == uapi.PROTOCOL_NAMES[each.original.protocol]
    assert (flow.original, flow.reply) == (described(each.original), described(each.reply))
    assert (flow.zone, flow.zone_original, flow.zone_reply) == (each.zone, each.original.zone, each.reply.zone)
    assert flow.timeout == each.timeout
    assert flow.mark == (each.mark or None)
    assert flow.labels == (each.labels.hex() or None)
    assert flow.helper == (each.helper.decode() or None)
    assert flow.master == (described(each.master) if each.master else None)
    assert sum(bit for bit, name in uapi.STATUS_NAMES.items() if name in flow.status) == each.status
    assert None not in flow.as_dict().values()


def test_protocol_state() -> None:
    flow = decoded(conn(protoinfo=tcp_info(3, (7, 9), (0x23, 0x13))))
    assert flow.tcp == {
        "state": "ESTABLISHED",
        "window_scale_original": 7,
        "window_scale_reply": 9,
        "flags_original": 0x23,
        "flags_reply": 0x13,
    }
    assert flow.sctp is None
    assert decoded(conn(protoinfo=tcp_info(77))).tcp == flow.tcp | {"state": "77", "window_scale_reply": 7}
    tags = decoded(conn(replace(TCP, protocol=uapi.IPPROTO_SCTP), protoinfo=sctp_info(4, (5, 6))))
    assert tags.sctp == {"state": "ESTABLISHED", "vtag_original": 5, "vtag_reply": 6}
    assert tags.tcp is None


def test_sequence_adjustment_is_signed() -> None:
    flow = decoded(conn(sequence=seq_adjust(15, position=9, before=-3, after=2), synproxy=synproxy_info(1, 2, 3)))
    assert flow.seq_adjust == {"original": {"position": 9, "before": -3, "after": 2}}
    assert flow.synproxy == {"isn": 1, "its": 2, "tsoff": 3}


def test_a_helpers_own_data_is_shown_in_hexadecimal() -> None:
    info = nest(uapi.CTA_HELP, b"\x08\0\x01\0sip\0", be16(uapi.CTA_HELP_INFO, 0xBEEF))
    flow = decode.flow(conn().key, conn().held() + info)
    assert (flow.helper, flow.helper_info) == ("sip", "beef")


def test_a_protocol_without_a_name_is_its_number() -> None:
    other = replace(UDP, protocol=200)
    value = conn(UDP, reply=inverse(UDP)).held()
    key = other.pack(uapi.CTA_TUPLE_ORIG)
    assert decode.flow(key, value).protocol == "200"


@given(expectations())
def test_what_an_expectation_is_made_of(each: Expect) -> None:
    found = expected(each, be16(uapi.CTA_ZONE, 3))
    assert found.expected == described(each.expected)
    assert found.master == described(each.master)
    assert found.mask["dport"] == 65535
    assert (found.timeout, found.class_, found.zone) == (each.timeout, each.class_, 3)
    assert (found.helper, found.function) == (each.helper.decode(), each.function.decode() or None)
    assert found.nat == (described(each.nat) if each.nat else None)
    names = {1: "permanent", 2: "inactive", 4: "userspace"}
    assert found.flags == tuple(name for bit, name in names.items() if each.flags & bit)
    assert found.as_dict()["class"] == each.class_
    assert found.family == ("ipv6" if ":" in each.expected.source else "ipv4")


def test_an_expectation_without_zone_has_none() -> None:
    assert expected(Expect(TCP, UDP)).zone is None
