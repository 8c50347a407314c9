"""Decode held entries and kernel messages into typed objects for people.  Pure."""

from ipaddress import ip_address

from ftfw.kernel import uapi
from ftfw.kernel.attributes import nested, number, payload, split, text
from ftfw.kernel.flow_entry import family_of, helper_of, status_of
from ftfw.kernel.flow_model import Expectation, Flow, Tuple

_FLAG_NAMES = {
    uapi.NF_CT_EXPECT_PERMANENT: "permanent",
    uapi.NF_CT_EXPECT_INACTIVE: "inactive",
    uapi.NF_CT_EXPECT_USERSPACE: "userspace",
}
_PROTOCOL_FIELDS = {
    uapi.CTA_PROTO_SRC_PORT: "sport",
    uapi.CTA_PROTO_DST_PORT: "dport",
    uapi.CTA_PROTO_ICMP_ID: "icmp_id",
    uapi.CTA_PROTO_ICMP_TYPE: "icmp_type",
    uapi.CTA_PROTO_ICMP_CODE: "icmp_code",
    uapi.CTA_PROTO_ICMPV6_ID: "icmp_id",
    uapi.CTA_PROTO_ICMPV6_TYPE: "icmp_type",
    uapi.CTA_PROTO_ICMPV6_CODE: "icmp_code",
}


def flow(key: bytes, value: bytes) -> Flow:
    """Return a held flow, decoded; `key` and `value` must have passed `validate`."""
    attributes = split(key) | split(value)
    original = nested(attributes[uapi.CTA_TUPLE_ORIG])
    reply = nested(attributes[uapi.CTA_TUPLE_REPLY])
    status = status_of(attributes)
    protocol = _protocol(original)
    return Flow(
        family="ipv4" if family_of(key) == uapi.AF_INET else "ipv6",
        protocol=_name(protocol),
        original=_tuple(original),
        reply=_tuple(reply),
        zone=_optional(attributes, uapi.CTA_ZONE),
        zone_original=_optional(original, uapi.CTA_TUPLE_ZONE),
        zone_reply=_optional(reply, uapi.CTA_TUPLE_ZONE),
        status=tuple(name for bit, name in uapi.STATUS_NAMES.items() if status & bit),
        timeout=_optional(attributes, uapi.CTA_TIMEOUT),
        tcp=_tcp(attributes.get(uapi.CTA_PROTOINFO)),
        sctp=_sctp(attributes.get(uapi.CTA_PROTOINFO)),
        mark=_optional(attributes, uapi.CTA_MARK) or None,
        labels=payload(attributes[uapi.CTA_LABELS]).hex() if uapi.CTA_LABELS in attributes else None,
        helper=helper_of(attributes),
        helper_info=_helper_info(attributes),
        master=_tuple(nested(attributes[uapi.CTA_TUPLE_MASTER])) if uapi.CTA_TUPLE_MASTER in attributes else None,
        seq_adjust=_seq_adjust(attributes),
        synproxy=_synproxy(attributes),
    )


def expectation(key: bytes, value: bytes, zone: bytes = b"") -> Expectation:
    """Return a held expectation, decoded like a flow; `zone` is the CTA_ZONE attribute of its master, or nothing."""
    attributes = split(key) | split(value)
    expected = nested(attributes[uapi.CTA_EXPECT_TUPLE])
    flags = _optional(attributes, uapi.CTA_EXPECT_FLAGS) or 0
    nat = nested(attributes[uapi.CTA_EXPECT_NAT]) if uapi.CTA_EXPECT_NAT in attributes else {}
    described = _tuple(expected)
    return Expectation(
        family="ipv6" if ":" in str(described.get("src", "")) else "ipv4",
        protocol=_name(_protocol(expected)),
        expected=described,
        mask=_tuple(nested(attributes[uapi.CTA_EXPECT_MASK])),
        master=_tuple(nested(attributes[uapi.CTA_EXPECT_MASTER])),
        timeout=_optional(attributes, uapi.CTA_EXPECT_TIMEOUT),
        flags=tuple(name for bit, name in _FLAG_NAMES.items() if flags & bit),
        class_=_optional(attributes, uapi.CTA_EXPECT_CLASS) or 0,
        helper=text(attributes[uapi.CTA_EXPECT_HELP_NAME]) if uapi.CTA_EXPECT_HELP_NAME in attributes else None,
        function=text(attributes[uapi.CTA_EXPECT_FN]) if uapi.CTA_EXPECT_FN in attributes else None,
        nat=_tuple(nested(nat[uapi.CTA_EXPECT_NAT_TUPLE])) if uapi.CTA_EXPECT_NAT_TUPLE in nat else None,
        zone=number(zone) if zone else None,
    )


def _optional(attributes: dict[int, bytes], kind: int) -> int | None:
    return number(attributes[kind]) if kind in attributes else None


def _protocol(tuple_: dict[int, bytes]) -> int:
    fields = nested(tuple_[uapi.CTA_TUPLE_PROTO])
    return number(fields[uapi.CTA_PROTO_NUM])


def _name(protocol: int) -> str:
    return uapi.PROTOCOL_NAMES.get(protocol, str(protocol))


def _tuple(tuple_: dict[int, bytes]) -> Tuple:
    described: Tuple = {}
    if uapi.CTA_TUPLE_IP in tuple_:
        for kind, attribute in nested(tuple_[uapi.CTA_TUPLE_IP]).items():
            side = "src" if kind in (uapi.CTA_IP_V4_SRC, uapi.CTA_IP_V6_SRC) else "dst"
            described[side] = str(ip_address(payload(attribute)))
    if uapi.CTA_TUPLE_PROTO in tuple_:
        fields = nested(tuple_[uapi.CTA_TUPLE_PROTO])
        gre = _optional(fields, uapi.CTA_PROTO_NUM) == uapi.IPPROTO_GRE
        for kind, attribute in fields.items():
            if name := _PROTOCOL_FIELDS.get(kind):
                described[{"sport": "src_key", "dport": "dst_key"}.get(name, name) if gre else name] = number(attribute)
    return described


def _state(names: tuple[str, ...], attribute: bytes | None) -> str | None:
    if attribute is None:
        return None
    state = number(attribute)
    return names[state] if state < len(names) else str(state)


def _tcp(protoinfo: bytes | None) -> dict[str, object] | None:
    if protoinfo is None or uapi.CTA_PROTOINFO_TCP not in nested(protoinfo):
        return None
    fields = nested(nested(protoinfo)[uapi.CTA_PROTOINFO_TCP])
    described: dict[str, object] = {"state": _state(uapi.TCP_STATES, fields.get(uapi.CTA_PROTOINFO_TCP_STATE))}
    for name, kind in (
        ("window_scale_original", uapi.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL),
        ("window_scale_reply", uapi.CTA_PROTOINFO_TCP_WSCALE_REPLY),
    ):
        if kind in fields:
            described[name] = number(fields[kind])
    for name, kind in (
        ("flags_original", uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL),
        ("flags_reply", uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY),
    ):
        if kind in fields:
            described[name] = payload(fields[kind])[0]
    return described


def _sctp(protoinfo: bytes | None) -> dict[str, object] | None:
    if protoinfo is None or uapi.CTA_PROTOINFO_SCTP not in nested(protoinfo):
        return None
    fields = nested(nested(protoinfo)[uapi.CTA_PROTOINFO_SCTP])
    return {
        "state": _state(uapi.SCTP_STATES, fields.get(uapi.CTA_PROTOINFO_SCTP_STATE)),
        "vtag_original": _optional(fields, uapi.CTA_PROTOINFO_SCTP_VTAG_ORIGINAL),
        "vtag_reply": _optional(fields, uapi.CTA_PROTOINFO_SCTP_VTAG_REPLY),
    }


def _helper_info(attributes: dict[int, bytes]) -> str | None:
    info = nested(attributes[uapi.CTA_HELP]).get(uapi.CTA_HELP_INFO) if uapi.CTA_HELP in attributes else None
    return payload(info).hex() if info else None


def _seq_adjust(attributes: dict[int, bytes]) -> dict[str, dict[str, int]] | None:
    described = {}
    for direction, kind in (("original", uapi.CTA_SEQ_ADJ_ORIG), ("reply", uapi.CTA_SEQ_ADJ_REPLY)):
        if kind in attributes:
            fields = nested(attributes[kind])
            described[direction] = {
                "position": number(fields[uapi.CTA_SEQADJ_CORRECTION_POS]),
                "before": _signed(fields[uapi.CTA_SEQADJ_OFFSET_BEFORE]),
                "after": _signed(fields[uapi.CTA_SEQADJ_OFFSET_AFTER]),
            }
    return described or None


def _signed(attribute: bytes) -> int:
    return int.from_bytes(payload(attribute), "big", signed=True)


def _synproxy(attributes: dict[int, bytes]) -> dict[str, int] | None:
    if uapi.CTA_SYNPROXY not in attributes:
        return None
    fields = nested(attributes[uapi.CTA_SYNPROXY])
    names = {"isn": uapi.CTA_SYNPROXY_ISN, "its": uapi.CTA_SYNPROXY_ITS, "tsoff": uapi.CTA_SYNPROXY_TSOFF}
    return {name: number(fields[kind]) for name, kind in names.items() if kind in fields}
