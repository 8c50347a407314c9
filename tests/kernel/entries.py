"""Prepared conntrack messages, written down attribute by attribute: by the tests, not by ftfw.kernel.create."""

from ipaddress import ip_address

from ftfw.kernel import uapi
from ftfw.kernel.attributes import nest, pack, u8, u16, u32

CLIENT, SERVER, OUTSIDE, INNER = "192.0.2.1", "198.51.100.1", "203.0.113.9", "198.51.100.77"
CLIENT6, SERVER6, OUTSIDE6, INNER6 = "2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::9", "2001:db8:2::77"
ADDRESSES = (CLIENT, SERVER, OUTSIDE, INNER, CLIENT6, SERVER6, OUTSIDE6, INNER6)

CONFIRMED, SEEN_REPLY, ASSURED, EXPECTED = 0x8, 0x2, 0x4, 0x1
LIVE = CONFIRMED | SEEN_REPLY | ASSURED


def ports(source: int, destination: int) -> list[bytes]:
    return [u16(uapi.CTA_PROTO_SRC_PORT, source), u16(uapi.CTA_PROTO_DST_PORT, destination)]


def icmp(id_: int, kind: int, code: int = 0) -> list[bytes]:
    return [
        u16(uapi.CTA_PROTO_ICMP_ID, id_),
        u8(uapi.CTA_PROTO_ICMP_TYPE, kind),
        u8(uapi.CTA_PROTO_ICMP_CODE, code),
    ]


def icmpv6(id_: int, kind: int, code: int = 0) -> list[bytes]:
    return [
        u16(uapi.CTA_PROTO_ICMPV6_ID, id_),
        u8(uapi.CTA_PROTO_ICMPV6_TYPE, kind),
        u8(uapi.CTA_PROTO_ICMPV6_CODE, code),
    ]


def tuple_of(
    kind: int, source: str, destination: str, protocol: int, fields: list[bytes], *, zone: int | None = None
) -> bytes:
    first = uapi.CTA_IP_V4_SRC if ip_address(source).version == 4 else uapi.CTA_IP_V6_SRC
    addresses = [pack(first + i, ip_address(each).packed) for i, each in enumerate((source, destination))]
    parts = [
        nest(uapi.CTA_TUPLE_IP, addresses),
        nest(uapi.CTA_TUPLE_PROTO, [u8(uapi.CTA_PROTO_NUM, protocol), *fields]),
    ]
    if zone is not None:
        parts.append(u16(uapi.CTA_TUPLE_ZONE, zone))
    return nest(kind, parts)


def original(source: str, destination: str, protocol: int, fields: list[bytes], zone: int | None = None) -> bytes:
    return tuple_of(uapi.CTA_TUPLE_ORIG, source, destination, protocol, fields, zone=zone)


def reply(source: str, destination: str, protocol: int, fields: list[bytes], zone: int | None = None) -> bytes:
    return tuple_of(uapi.CTA_TUPLE_REPLY, source, destination, protocol, fields, zone=zone)


def both(protocol: int, sport: int, dport: int, *, v6: bool = False) -> bytes:
    """Both tuples of an untranslated flow from the client to the server."""
    client, server = (CLIENT6, SERVER6) if v6 else (CLIENT, SERVER)
    return original(client, server, protocol, ports(sport, dport)) + reply(
        server, client, protocol, ports(dport, sport)
    )


def alive(status: int = LIVE, timeout: int = 100) -> bytes:
    return u32(uapi.CTA_STATUS, status) + u32(uapi.CTA_TIMEOUT, timeout)


def tcp(state: str = "ESTABLISHED", flags: tuple[int, int] = (0x03, 0x03), scales: tuple[int, int] = (7, 9)) -> bytes:
    fields = [
        u8(uapi.CTA_PROTOINFO_TCP_STATE, uapi.TCP_STATES.index(state)),
        u8(uapi.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, scales[0]),
        u8(uapi.CTA_PROTOINFO_TCP_WSCALE_REPLY, scales[1]),
        pack(uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, bytes((flags[0], 0xFF))),
        pack(uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY, bytes((flags[1], 0xFF))),
    ]
    return nest(uapi.CTA_PROTOINFO, [nest(uapi.CTA_PROTOINFO_TCP, fields)])


def sctp(state: str, vtag_original: int, vtag_reply: int) -> bytes:
    fields = [
        u8(uapi.CTA_PROTOINFO_SCTP_STATE, uapi.SCTP_STATES.index(state)),
        u32(uapi.CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, vtag_original),
        u32(uapi.CTA_PROTOINFO_SCTP_VTAG_REPLY, vtag_reply),
    ]
    return nest(uapi.CTA_PROTOINFO, [nest(uapi.CTA_PROTOINFO_SCTP, fields)])


def nat(kind: int, address: str, port: int | None = None) -> bytes:
    first = uapi.CTA_NAT_V4_MINIP if ip_address(address).version == 4 else uapi.CTA_NAT_V6_MINIP
    parts = [pack(first + i, ip_address(address).packed) for i in (0, 1)]
    if port is not None:
        limits = (uapi.CTA_PROTONAT_PORT_MIN, uapi.CTA_PROTONAT_PORT_MAX)
        parts.append(nest(uapi.CTA_NAT_PROTO, [u16(limit, port) for limit in limits]))
    return nest(kind, parts)


def snat(address: str, port: int | None = None) -> bytes:
    return nat(uapi.CTA_NAT_SRC, address, port)


def dnat(address: str, port: int | None = None) -> bytes:
    return nat(uapi.CTA_NAT_DST, address, port)


def helper(name: str) -> bytes:
    return nest(uapi.CTA_HELP, [pack(uapi.CTA_HELP_NAME, name.encode() + b"\0")])


def mark(value: int) -> bytes:
    return u32(uapi.CTA_MARK, value)


def zone(value: int) -> bytes:
    return u16(uapi.CTA_ZONE, value)


def udp(port: int, rest: bytes = b"") -> bytes:
    """A living UDP flow from this port."""
    return both(17, port, 53) + alive() + rest


def labels(data: bytes) -> bytes:
    return pack(uapi.CTA_LABELS, data)


def seq_adjust(kind: int, position: int, before: int, after: int) -> bytes:
    def signed(attribute: int, value: int) -> bytes:
        return pack(attribute, value.to_bytes(4, "big", signed=True))

    fields = [
        u32(uapi.CTA_SEQADJ_CORRECTION_POS, position),
        signed(uapi.CTA_SEQADJ_OFFSET_BEFORE, before),
        signed(uapi.CTA_SEQADJ_OFFSET_AFTER, after),
    ]
    return nest(kind, fields)


def synproxy(isn: int, its: int, tsoff: int) -> bytes:
    kinds = (uapi.CTA_SYNPROXY_ISN, uapi.CTA_SYNPROXY_ITS, uapi.CTA_SYNPROXY_TSOFF)
    return nest(uapi.CTA_SYNPROXY, [u32(kind, value) for kind, value in zip(kinds, (isn, its, tsoff), strict=True)])


def master(source: str, destination: str, protocol: int, fields: list[bytes]) -> bytes:
    return tuple_of(uapi.CTA_TUPLE_MASTER, source, destination, protocol, fields)


def expectation(
    *,
    master: bytes,
    source: str = SERVER,
    destination: str = CLIENT,
    protocol: int = 6,
    mask: tuple[str, str, int, int] = ("0.0.0.0", "255.255.255.255", 0, 0xFFFF),
    sport: int = 0,
    dport: int = 20000,
    rest: bytes = b"",
) -> bytes:
    """A message's attributes; `mask`: source, destination, source port, destination port."""
    from_, to, from_port, to_port = mask
    parts = [
        tuple_of(uapi.CTA_EXPECT_TUPLE, source, destination, protocol, ports(sport, dport)),
        tuple_of(uapi.CTA_EXPECT_MASK, from_, to, protocol, ports(from_port, to_port)),
        master,
        rest,
    ]
    return b"".join(parts)


def expect_master(source: str, destination: str, protocol: int, fields: list[bytes]) -> bytes:
    return tuple_of(uapi.CTA_EXPECT_MASTER, source, destination, protocol, fields)


def expect_nat(direction: int, source: str, destination: str, protocol: int, fields: list[bytes]) -> bytes:
    tuple_ = tuple_of(uapi.CTA_EXPECT_NAT_TUPLE, source, destination, protocol, fields)
    return nest(uapi.CTA_EXPECT_NAT, [u32(uapi.CTA_EXPECT_NAT_DIR, direction), tuple_])


def expect_function(name: str) -> bytes:
    return pack(uapi.CTA_EXPECT_FN, name.encode() + b"\0")
