"""Conntrack messages as the kernel writes them (ctnetlink_conntrack_event, ctnetlink_fill_info), for tests.

Written apart from the code under test: only numbers are shared with it, no packing and no order.
"""

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address

from hypothesis import strategies as st

from ftfw.kernel import uapi

NEW, UPDATE, DESTROY, FULL = "new", "update", "destroy", "full"
NAT_DONE = uapi.IPS_SRC_NAT_DONE | uapi.IPS_DST_NAT_DONE
MEASURED = (uapi.CTA_COUNTERS_ORIG, uapi.CTA_COUNTERS_REPLY, uapi.CTA_TIMESTAMP, uapi.CTA_TIMESTAMP_EVENT)
PORTS = frozenset({uapi.IPPROTO_TCP, uapi.IPPROTO_UDP, uapi.IPPROTO_SCTP, uapi.IPPROTO_GRE})


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | uapi.NLA_F_NESTED, b"".join(parts))


def be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def be16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">H", value))


def be64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">Q", value))


def walk(data: bytes) -> dict[int, bytes]:
    """Attributes one after the other: type → payload."""
    found = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        assert 4 <= length <= len(data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def netlink(kind: int, flags: int, family: int, attributes: bytes) -> bytes:
    return struct.pack("=IHHII", 20 + len(attributes), kind, flags, 0, 0) + bytes((family, 0, 0, 0)) + attributes


@dataclass(frozen=True)
class End:
    """One tuple.  `source_port` stands for ICMP's id; `icmp` is type and code."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: int
    icmp: tuple[int, int] = (8, 0)
    zone: int | None = None

    @lru_cache(maxsize=4096)  # noqa: B019  frozen, and small
    def pack(self, kind: int) -> bytes:
        v4 = ip_address(self.source).version == 4
        addresses = nest(
            uapi.CTA_TUPLE_IP,
            attribute(uapi.CTA_IP_V4_SRC if v4 else uapi.CTA_IP_V6_SRC, ip_address(self.source).packed),
            attribute(uapi.CTA_IP_V4_DST if v4 else uapi.CTA_IP_V6_DST, ip_address(self.destination).packed),
        )
        number = attribute(uapi.CTA_PROTO_NUM, bytes((self.protocol,)))
        if self.protocol in PORTS:
            fields = [
                be16(uapi.CTA_PROTO_SRC_PORT, self.source_port),
                be16(uapi.CTA_PROTO_DST_PORT, self.destination_port),
            ]
        else:
            first = uapi.CTA_PROTO_ICMP_ID if self.protocol == uapi.IPPROTO_ICMP else uapi.CTA_PROTO_ICMPV6_ID
            fields = [be16(first, self.source_port)]
            fields += [attribute(first + 1 + i, bytes((value,))) for i, value in enumerate(self.icmp)]
        zone = b"" if self.zone is None else be16(uapi.CTA_TUPLE_ZONE, self.zone)
        return nest(kind, addresses, nest(uapi.CTA_TUPLE_PROTO, number, *fields), zone)


_REPLY_TYPES = {8: 0, 13: 14, 128: 129}


def inverse(end: End) -> End:
    """The reply tuple of an untranslated flow."""
    return replace(
        end,
        source=end.destination,
        destination=end.source,
        source_port=end.destination_port if end.protocol in PORTS else end.source_port,
        destination_port=end.source_port,
        icmp=(_REPLY_TYPES.get(end.icmp[0], end.icmp[0]), end.icmp[1]),
        zone=None,
    )


@dataclass(frozen=True)
class Conn:
    """A conntrack entry in a kernel."""

    original: End
    reply: End
    ident: int = 1
    status: int = uapi.IPS_CONFIRMED
    timeout: int = 120
    protoinfo: bytes = b""
    mark: int = 0
    helper: bytes = b""
    labels: bytes = b""
    master: End | None = None
    sequence: bytes = b""  # CTA_SEQ_ADJ_ORIG and _REPLY
    synproxy: bytes = b""
    zone: int | None = None
    offloaded: bool = False
    counters: tuple[int, int] | None = None  # packets in both directions (nf_conntrack_acct = 1)
    began: int | None = None  # nanoseconds (nf_conntrack_timestamp = 1)
    event_time: int | None = None  # likewise, from Linux 6.14 on

    @property
    def family(self) -> int:
        return uapi.AF_INET if ip_address(self.original.source).version == 4 else uapi.AF_INET6

    @property
    def key(self) -> bytes:
        return self.original.pack(uapi.CTA_TUPLE_ORIG) + self._zone

    @property
    def _zone(self) -> bytes:
        return b"" if self.zone is None else be16(uapi.CTA_ZONE, self.zone)

    @property
    def _tuples(self) -> bytes:
        return self.original.pack(uapi.CTA_TUPLE_ORIG) + self.reply.pack(uapi.CTA_TUPLE_REPLY) + self._zone

    @property
    def _helper(self) -> bytes:
        return nest(uapi.CTA_HELP, attribute(uapi.CTA_HELP_NAME, self.helper + b"\0")) if self.helper else b""

    @property
    def _master(self) -> bytes:
        return self.master.pack(uapi.CTA_TUPLE_MASTER) if self.master else b""

    @property
    def _labels(self) -> bytes:
        return attribute(uapi.CTA_LABELS, self.labels) if self.labels else b""

    @property
    def _counters(self) -> bytes:
        both = zip((uapi.CTA_COUNTERS_ORIG, uapi.CTA_COUNTERS_REPLY), self.counters or (), strict=False)
        return b"".join(nest(kind, be64(1, packets), be64(2, 60 * packets)) for kind, packets in both)

    def _times(self, *more: bytes) -> bytes:
        return b"" if self.began is None else nest(uapi.CTA_TIMESTAMP, be64(1, self.began), *more)

    @property
    def _event_time(self) -> bytes:
        return b"" if self.event_time is None else be64(uapi.CTA_TIMESTAMP_EVENT, self.event_time)

    def _event(self, flags: int, *middle: bytes, marked: bool = False) -> bytes:
        body = self._tuples + be32(uapi.CTA_ID, self.ident) + be32(uapi.CTA_STATUS, self.status)
        body += b"".join(middle)
        if self.mark or marked:
            body += be32(uapi.CTA_MARK, self.mark)
        return netlink(uapi.CT_NEW, flags, self.family, body + self._event_time)

    def new(self) -> bytes:
        timeout = be32(uapi.CTA_TIMEOUT, self.timeout)
        return self._event(0x600, timeout, self.protoinfo, self._helper, self._labels, self._master)

    def update(self, *told: str) -> bytes:
        """An UPDATE: what every one says, and of protoinfo, labels, sequence, synproxy and mark what is `told`."""
        return self._event(
            0,
            be32(uapi.CTA_TIMEOUT, self.timeout),
            self.protoinfo if "protoinfo" in told else b"",
            self._helper,
            self._labels if "labels" in told else b"",
            self.sequence if "sequence" in told else b"",
            self.synproxy if "synproxy" in told else b"",
            marked="mark" in told,
        )

    def destroy(self, *, timeout: bool = False) -> bytes:
        body = self._tuples + be32(uapi.CTA_ID, self.ident) + be32(uapi.CTA_STATUS, self.status)
        if timeout:
            body += be32(uapi.CTA_TIMEOUT, self.timeout)
        body += self._counters + self._times(be64(2, 1 << 60))
        if self.original.protocol == uapi.IPPROTO_TCP and self.protoinfo:
            body += nest(uapi.CTA_PROTOINFO, nest(uapi.CTA_PROTOINFO_TCP, attribute(1, b"\x07")))
        if self.mark:
            body += be32(uapi.CTA_MARK, self.mark)
        return netlink(uapi.CT_DELETE, 0, self.family, body + self._event_time)

    def full(self) -> bytes:
        """Return the entry as a dump tells it."""
        timed = b"" if self.offloaded else be32(uapi.CTA_TIMEOUT, self.timeout)
        body = [
            self._tuples,
            be32(uapi.CTA_STATUS, self.status),
            be32(uapi.CTA_MARK, self.mark),
            be32(uapi.CTA_ID, self.ident),
            be32(uapi.CTA_USE, 1),
            self._master,
            timed,
            b"" if self.offloaded else self.protoinfo,
            self._counters,
            self._times(),
            self._helper,
            self._labels,
            self.sequence,
            self.synproxy,
        ]
        return netlink(uapi.CT_NEW, 0x002, self.family, b"".join(body))

    def table_row(self) -> dict[int, bytes]:
        """Return what a backup should hold of this entry: type → payload; no mark is a mark of 0."""
        row = walk(self.full()[20:])
        for kind in (uapi.CTA_TUPLE_ORIG, uapi.CTA_ZONE, uapi.CTA_USE, *MEASURED):
            row.pop(kind, None)
        if not self.mark:
            del row[uapi.CTA_MARK]
        return row

    def held(self) -> bytes:
        """The value of this entry after its NEW event and the attributes that events leave out."""
        row = self.table_row()
        order = (2, 12, 3, 7, 4, 8, 5, 22, 14, 15, 16, 24)
        nested = {2, 4, 5, 14, 15, 16, 24}
        kinds = [kind for kind in order if kind in row]
        return b"".join(attribute(kind | (uapi.NLA_F_NESTED if kind in nested else 0), row[kind]) for kind in kinds)


def tcp_info(state: int = 3, scales: tuple[int, int] = (7, 7), flags: tuple[int, int] = (0x23, 0x13)) -> bytes:
    fields = [attribute(1, bytes((state,))), attribute(2, bytes((scales[0],))), attribute(3, bytes((scales[1],)))]
    fields += [attribute(4 + i, bytes((value, 0))) for i, value in enumerate(flags)]
    return nest(uapi.CTA_PROTOINFO, nest(uapi.CTA_PROTOINFO_TCP, *fields))


def sctp_info(state: int = 4, tags: tuple[int, int] = (1, 2)) -> bytes:
    fields = [attribute(1, bytes((state,))), be32(2, tags[0]), be32(3, tags[1])]
    return nest(uapi.CTA_PROTOINFO, nest(uapi.CTA_PROTOINFO_SCTP, *fields))


def seq_adjust(*kinds: int, position: int = 1000, before: int = -3, after: int = 5) -> bytes:
    values = [struct.pack(">I", position), struct.pack(">i", before), struct.pack(">i", after)]
    return b"".join(nest(kind, *(attribute(1 + i, value) for i, value in enumerate(values))) for kind in kinds)


def synproxy_info(isn: int = 1, its: int = 2, offset: int = 3) -> bytes:
    return nest(uapi.CTA_SYNPROXY, be32(1, isn), be32(2, its), be32(3, offset))


V4 = [f"192.0.2.{n}" for n in range(1, 9)]
V6 = [f"2001:db8::{n:x}" for n in range(1, 9)]
ports = st.integers(1, 65535)
small = st.integers(0, 255)


@st.composite
def ends(draw: st.DrawFn, *, protocols: Iterable[int] = (6, 17, 132, 47, 1)) -> End:
    v6 = draw(st.booleans())
    protocol = draw(st.sampled_from(sorted(protocols)))
    if protocol == uapi.IPPROTO_ICMP and v6:
        protocol = uapi.IPPROTO_ICMPV6
    addresses = st.sampled_from(V6 if v6 else V4)
    icmp = (draw(st.sampled_from((8, 13))), 0) if not v6 else (128, 0)
    return End(draw(addresses), draw(addresses), draw(ports), draw(ports), protocol, icmp)


@st.composite
def connections(draw: st.DrawFn, *, protocols: Iterable[int] = (6, 17, 132, 47, 1), plain: bool = False) -> Conn:
    """Any entry; `plain`: without what makes a message rich."""
    original = draw(ends(protocols=protocols))
    v6 = ":" in original.source
    reply, status = inverse(original), uapi.IPS_CONFIRMED | draw(st.sampled_from((0, 2, 6)))
    addresses = st.sampled_from(V6 if v6 else V4)
    if draw(st.booleans()):  # source NAT
        port = draw(st.sampled_from((reply.destination_port, 40000)))
        if original.protocol in PORTS:
            translated = replace(reply, destination=draw(addresses), destination_port=port)
        else:
            translated = replace(reply, destination=draw(addresses), source_port=port)
        status |= uapi.IPS_SRC_NAT if translated != reply else 0
        reply = translated
    if draw(st.booleans()):  # destination NAT
        translated = replace(reply, source=draw(addresses))
        if original.protocol in PORTS:
            translated = replace(translated, source_port=draw(st.sampled_from((reply.source_port, 8080))))
        status |= uapi.IPS_DST_NAT if translated != reply else 0
        reply = translated
    status |= draw(st.sampled_from((0, NAT_DONE)))
    conn = Conn(
        original,
        reply,
        ident=draw(st.integers(1, 1 << 32) | st.just(7)) & 0xFFFFFFFF,
        status=status,
        timeout=draw(st.sampled_from((0, 1, 30, 432000, 0xFFFFFFFF))),
        protoinfo=draw(_protoinfo(original.protocol)),
        mark=draw(st.sampled_from((0, 0, 1, 0xDEADBEEF))),
    )
    return draw(_measured(conn if plain else draw(_enriched(conn))))


@st.composite
def _measured(draw: st.DrawFn, conn: Conn) -> Conn:
    """Add what a kernel tells where accounting or timestamps are turned on, an old kernel or a new one."""
    how = draw(st.sampled_from(("", "", "counters", "old times", "times", "counters, times")))
    if "counters" in how:
        conn = replace(conn, counters=(draw(st.integers(0, 1 << 32)), draw(st.integers(0, 1 << 32))))
    if "times" in how:
        event_time = None if "old" in how else draw(st.integers(0, (1 << 64) - 1))
        conn = replace(conn, began=draw(st.integers(0, (1 << 64) - 1)), event_time=event_time)
    return conn


def _protoinfo(protocol: int) -> st.SearchStrategy[bytes]:
    if protocol == uapi.IPPROTO_TCP:
        pairs = st.tuples(small, small)
        return st.builds(tcp_info, st.integers(0, 9), st.tuples(st.integers(0, 14), st.integers(0, 14)), pairs)
    if protocol == uapi.IPPROTO_SCTP:
        tags = st.integers(0, 0xFFFFFFFF)
        return st.builds(sctp_info, st.integers(1, 9), st.tuples(tags, tags))
    return st.just(b"")


@st.composite
def _enriched(draw: st.DrawFn, conn: Conn) -> Conn:
    zone = draw(st.sampled_from((None, None, "both", "original", "reply")))
    number = draw(st.sampled_from((1, 2, 65535)))
    tcp = conn.original.protocol == uapi.IPPROTO_TCP
    master = replace(draw(ends(protocols=(6, 17))), icmp=(8, 0)) if draw(st.booleans()) else None
    return replace(
        conn,
        zone=number if zone == "both" else None,
        original=replace(conn.original, zone=number if zone == "original" else None),
        reply=replace(conn.reply, zone=number if zone == "reply" else None),
        helper=draw(st.sampled_from((b"", b"", b"ftp", b"sip", b"pptp"))),
        labels=draw(st.sampled_from((b"", b"", bytes(15) + b"\x01"))),
        master=master,
        status=conn.status | (uapi.IPS_EXPECTED if master else 0),
        sequence=draw(st.sampled_from((b"", b"", seq_adjust(15), seq_adjust(15, 16)))) if tcp else b"",
        synproxy=draw(st.sampled_from((b"", b"", synproxy_info()))) if tcp else b"",
    )


TOLD = ("protoinfo", "labels", "sequence", "synproxy", "mark")


@st.composite
def flow_messages(draw: st.DrawFn, conns: st.SearchStrategy[Conn] | None = None) -> bytes:
    """Any message about a flow."""
    conn = draw(connections() if conns is None else conns)
    kind = draw(st.sampled_from((NEW, UPDATE, DESTROY, FULL)))
    if kind == NEW:
        return conn.new()
    if kind == UPDATE:
        return conn.update(*draw(st.sets(st.sampled_from(TOLD))))
    if kind == DESTROY:
        return conn.destroy(timeout=draw(st.booleans()))
    return conn.full()


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Messages about a few flows, so that they meet the same entries again and again."""
    pool = draw(st.lists(connections(), min_size=1, max_size=4))
    pool += draw(st.lists(connections(plain=True), min_size=1, max_size=3))
    known = st.sampled_from(pool)
    changed = st.builds(
        lambda conn, ident, mark, helper: replace(conn, ident=ident, mark=mark, helper=helper),
        known,
        st.sampled_from((7, 8)),
        st.sampled_from((0, 5)),
        st.sampled_from((b"", b"ftp")),
    )
    return draw(st.lists(flow_messages(known | changed), max_size=25))


@dataclass(frozen=True)
class Expect:
    """An expectation in a kernel."""

    master: End
    expected: End
    timeout: int = 300
    flags: int = 0
    class_: int = 0
    helper: bytes = b"ftp"
    function: bytes = b""
    nat: End | None = None
    ident: int = 1

    @property
    def key(self) -> bytes:
        return self.expected.pack(2) + self._mask + self.master.pack(1)

    @property
    def _mask(self) -> bytes:
        v6 = ":" in self.expected.source
        ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" if v6 else "255.255.255.255"
        return replace(self.expected, source=ones, destination=ones, source_port=0, destination_port=65535).pack(3)

    def _body(self) -> bytes:
        nat = nest(10, be32(1, 1), self.nat.pack(2)) if self.nat else b""
        function = attribute(11, self.function + b"\0") if self.function else b""
        body = self.key + nat + be32(4, self.timeout) + be32(5, self.ident)
        return body + attribute(6, self.helper + b"\0") + be32(8, self.flags) + be32(9, self.class_) + function

    def _message(self, kind: int, flags: int) -> bytes:
        family = uapi.AF_INET6 if ":" in self.expected.source else uapi.AF_INET
        return netlink(kind, flags, family, self._body())

    def new(self) -> bytes:
        return self._message(uapi.EXP_NEW, 0x600)

    def full(self) -> bytes:
        return self._message(uapi.EXP_NEW, 0x002)

    def destroy(self) -> bytes:
        return self._message(uapi.EXP_DELETE, 0)


@st.composite
def expectations(draw: st.DrawFn) -> Expect:
    expected = replace(draw(ends(protocols=(6, 17))), source_port=0)
    v6 = ":" in expected.source
    addresses = st.sampled_from(V6 if v6 else V4)
    master = End(draw(addresses), draw(addresses), draw(ports), 21, uapi.IPPROTO_TCP)
    natted = draw(st.booleans())
    return Expect(
        master,
        expected,
        timeout=draw(st.integers(0, 1000)),
        flags=draw(st.integers(0, 7)),
        class_=draw(st.integers(0, 3)),
        helper=draw(st.sampled_from((b"ftp", b"sip", b"tftp"))),
        function=draw(st.sampled_from((b"", b"nat-follow-master"))) if natted else b"",
        nat=expected if natted else None,
    )


TCP = End("192.0.2.1", "198.51.100.2", 40001, 21, uapi.IPPROTO_TCP)
UDP = End("192.0.2.1", "198.51.100.2", 40001, 53, uapi.IPPROTO_UDP)


def conn(end: End = TCP, **changes: object) -> Conn:
    """An established TCP flow, or another, with these attributes."""
    protoinfo = tcp_info() if end.protocol == uapi.IPPROTO_TCP else b""
    made = Conn(end, inverse(end), status=uapi.IPS_CONFIRMED | 6, protoinfo=protoinfo)
    return replace(made, **changes)  # type: ignore[arg-type]


def is_expectation(message: bytes) -> bool:
    """Return whether a message is about an expectation, and not about a flow."""
    return int.from_bytes(message[4:6], sys.byteorder) in (uapi.EXP_NEW, uapi.EXP_DELETE)
