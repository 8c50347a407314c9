"""Recognise plain event messages by their layout, without walking their attributes.  Pure; on both roles' hot path.

The kernel writes the attributes of an event in one order and mostly the same ones (ctnetlink_conntrack_event and
ctnetlink_fill_info in net/netfilter/nf_conntrack_netlink.c), so that nearly all messages have one of a few shapes.  The
first 32 bytes of a message hold everything up to the first address; they choose the shapes that the message may have.
How the choice between these is made depends on who wrote the message:

- The kernel lays out tuples in one way only, so that the protocol and the types of the attributes behind the tuples
  decide (`Shape.discriminators`).
- A message from elsewhere is compared as a whole, as a number under a mask: every attribute header must be where the
  shape has it (`mask`, `pattern`), and the message must have the shape's length (`size`).

A message that has no shape takes the slow path through `flow_entry`, with the same result.

A recognised event consists of the entry's key, `message[BODY:split]`, and its value, `message[split:value_end]`.
Behind the value, or between the attributes of a DESTROY, stand attributes that no other kernel can use: counters
(nf_conntrack_acct = 1) and timestamps (nf_conntrack_timestamp = 1).  Their payload is neither compared nor sent.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from operator import itemgetter
from struct import Struct
from typing import Final

from ftfw.kernel import uapi
from ftfw.kernel.attributes import BODY, HEADER, MESSAGE

PREFIX: Final = 32

EVENT_NEW: Final = uapi.NLM_F_CREATE | uapi.NLM_F_EXCL  # nlmsg_flags of a NEW event
EVENT_UPDATE: Final = 0

NEW, UPDATE, DESTROY = range(3)  # `Shape.kind`


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Hold the layout of a message that begins with this shape's first 32 bytes; offsets count from its start."""

    size: int  # bytes of a message
    mask: int  # of all bytes that are the same in each message, as one big-endian number
    pattern: int  # these bytes
    variable_offsets: tuple[int, ...]  # of the bytes that may differ between messages and are sent
    discriminators: tuple[
        tuple[int, bytes], ...
    ]  # offset and value of the bytes that tell apart what the kernel writes
    fields: Struct  # unpacks key and value of an event
    split: int  # where the original tuple ends and the value begins
    kind: int  # NEW (also for a dumped entry), UPDATE or DESTROY: the messages of one flow have this order
    reply_end: int  # where the reply tuple ends
    dump: bool  # a dumped entry, whose attributes have another order than a value's: see `dumped_value`
    value_end: int  # where the last attribute of the value ends
    protocol: int
    addresses_of: Callable[[bytes], tuple[bytes, ...]]  # packed: source and destination, original first, then reply
    ports_of: Callable[[bytes], tuple[bytes, ...]]  # likewise, two bytes each in network order; none for ICMP
    source_of: Callable[[bytes], bytes]  # the original source address, packed
    reply_source_of: Callable[[bytes], bytes]
    mark_of: Callable[[bytes], bytes] | None  # four bytes in network order; None: the mark is 0
    tcp_state_of: Callable[[bytes], int] | None  # None: the message tells no TCP state


def recognise(message: bytes) -> Shape | None:
    """Return the shape of a message from elsewhere; None if it has none and must be parsed."""
    shapes = SHAPES.get(message[:PREFIX])
    if shapes is None or len(message) != shapes[0].size:
        return None
    number = int.from_bytes(message, "big")
    for shape in shapes:
        if number & shape.mask == shape.pattern:
            return shape
    return None


def dumped_value(message: bytes, shape: Shape) -> bytes:
    """Return the value of a dumped entry, in the order that an event has."""
    end = shape.reply_end  # from here on: status, mark (0), id, use count, timeout, protocol state
    timeout_last = message[end + 16 : end + 24] + message[end : end + 8] + message[end + 32 : shape.value_end]
    return message[shape.split : end] + timeout_last


class _Builder:
    """Build a message of one shape, byte by byte.

    Fixed bytes are tested, open bytes are not; ignored bytes are open and are not sent either.
    """

    def __init__(self) -> None:
        self.pattern = bytearray()
        self.mask = bytearray()
        self.types: list[int] = []  # offsets of the low bytes of attribute types
        self.zero: list[int] = []  # offsets of payload that has to be zero
        self.ignored: set[int] = set()  # offsets of payload that no other kernel can use

    def fixed(self, data: bytes) -> None:
        self.pattern += data
        self.mask += b"\xff" * len(data)

    def open(self, size: int) -> None:
        self.pattern += bytes(size)
        self.mask += bytes(size)

    def header(self, kind: int, payload_size: int) -> None:
        self.types.append(len(self.pattern) + 2 + _LOW_BYTE)
        self.fixed(HEADER.pack(4 + payload_size, kind))

    def plain(self, kind: int, size: int) -> None:
        self.header(kind, size)
        self.open(size)
        self.fixed(bytes(-size % 4))

    def zeros(self, kind: int, size: int) -> None:
        self.header(kind, size)
        self.zero += range(len(self.pattern), len(self.pattern) + size)
        self.fixed(bytes(size))

    def counts(self, kind: int, *kinds: int) -> None:
        """Add a nested attribute of 64-bit numbers that no other kernel can use."""
        self.header(kind | uapi.NLA_F_NESTED, 12 * len(kinds))
        for each in kinds:
            self.ignored_number(each)

    def ignored_number(self, kind: int) -> None:
        """Add a 64-bit number that no other kernel can use."""
        self.header(kind, 8)
        self.ignored.update(range(len(self.pattern), len(self.pattern) + 8))
        self.open(8)

    def counters(self) -> None:
        """Add the counters of nf_conntrack_acct = 1 (ctnetlink_dump_acct)."""
        self.counts(uapi.CTA_COUNTERS_ORIG, uapi.CTA_COUNTERS_PACKETS, uapi.CTA_COUNTERS_BYTES)
        self.counts(uapi.CTA_COUNTERS_REPLY, uapi.CTA_COUNTERS_PACKETS, uapi.CTA_COUNTERS_BYTES)

    def tuple(self, kind: int, family: int, protocol: int) -> None:
        """Add a tuple of a protocol with ports, or of ICMP."""
        address = 4 if family == uapi.AF_INET else 16
        first = uapi.CTA_IP_V4_SRC if family == uapi.AF_INET else uapi.CTA_IP_V6_SRC
        fields = _PROTOCOL_FIELDS.get(protocol, ((uapi.CTA_PROTO_SRC_PORT, 2), (uapi.CTA_PROTO_DST_PORT, 2)))
        protocol_size = 8 + 8 * len(fields)
        ip_size = 2 * (4 + address)
        self.header(kind | uapi.NLA_F_NESTED, 4 + ip_size + 4 + protocol_size)
        self.header(uapi.CTA_TUPLE_IP | uapi.NLA_F_NESTED, ip_size)
        self.plain(first, address)
        self.plain(first + 1, address)
        self.header(uapi.CTA_TUPLE_PROTO | uapi.NLA_F_NESTED, protocol_size)
        self.header(uapi.CTA_PROTO_NUM, 1)
        self.fixed(bytes((protocol, 0, 0, 0)))
        for field, size in fields:
            self.plain(field, size)

    def tcp_protoinfo(self, *, whole: bool) -> None:
        """Add TCP's protocol state; without `whole`, the state alone, as a DESTROY has it."""
        self.header(uapi.CTA_PROTOINFO | uapi.NLA_F_NESTED, 44 if whole else 12)
        self.header(uapi.CTA_PROTOINFO_TCP | uapi.NLA_F_NESTED, 40 if whole else 8)
        self.plain(uapi.CTA_PROTOINFO_TCP_STATE, 1)
        if not whole:
            return
        self.plain(uapi.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, 1)
        self.plain(uapi.CTA_PROTOINFO_TCP_WSCALE_REPLY, 1)
        self.plain(uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, 2)
        self.plain(uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY, 2)

    def no_synproxy(self) -> None:
        """Add CTA_SYNPROXY, all zero: ctnetlink_create_conntrack gives it to every entry, without a meaning."""
        self.header(uapi.CTA_SYNPROXY | uapi.NLA_F_NESTED, 24)
        for kind in (uapi.CTA_SYNPROXY_ISN, uapi.CTA_SYNPROXY_ITS, uapi.CTA_SYNPROXY_TSOFF):
            self.zeros(kind, 4)


_PROTOCOL_FIELDS: Final = {
    uapi.IPPROTO_ICMP: (
        (uapi.CTA_PROTO_ICMP_ID, 2),
        (uapi.CTA_PROTO_ICMP_TYPE, 1),
        (uapi.CTA_PROTO_ICMP_CODE, 1),
    ),
    uapi.IPPROTO_ICMPV6: (
        (uapi.CTA_PROTO_ICMPV6_ID, 2),
        (uapi.CTA_PROTO_ICMPV6_TYPE, 1),
        (uapi.CTA_PROTO_ICMPV6_CODE, 1),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variant:
    """Describes the attributes that the kernel writes in one kind of message."""

    kind: int  # of nlmsg_type
    flags: int  # nlmsg_flags
    timeout: bool = True
    mark: bool = False
    injected: bool = False  # dumped, and created by a process
    counted: bool = False  # counters: DESTROY and dump, nf_conntrack_acct = 1
    timed: bool = False  # CTA_TIMESTAMP: DESTROY and dump, nf_conntrack_timestamp = 1
    event_time: bool = False  # CTA_TIMESTAMP_EVENT: events, likewise, from Linux 6.14 on


def _build(family: int, protocol: int, variant: _Variant) -> tuple[bytes, Shape]:
    """Return the prefix and the shape of the messages of a protocol that have these attributes."""
    message = _Builder()
    message.fixed(bytes(MESSAGE.size))  # written at the end, when the length is known
    message.fixed(bytes((family, 0, 0, 0)))
    message.tuple(uapi.CTA_TUPLE_ORIG, family, protocol)
    split = len(message.pattern)
    message.tuple(uapi.CTA_TUPLE_REPLY, family, protocol)
    reply_end = len(message.pattern)
    tcp_state, mark, value_end = _build_attributes(message, protocol, variant)
    size = len(message.pattern)
    message.pattern[: MESSAGE.size] = MESSAGE.pack(size, variant.kind, variant.flags, 0, 0)
    address = 4 if family == uapi.AF_INET else 16
    discriminators = (PREFIX + 2 * address + 12, *(at for at in message.types if at > reply_end), *message.zero)
    tuples = (PREFIX, PREFIX + split - BODY)  # where their source addresses stand
    port = 2 * address + 20  # and, behind these, their source ports
    return bytes(message.pattern[:PREFIX]), Shape(
        size=size,
        mask=int.from_bytes(message.mask, "big"),
        pattern=int.from_bytes(message.pattern, "big"),
        variable_offsets=tuple(at for at in range(size) if not message.mask[at] and at not in message.ignored),
        discriminators=tuple((at, bytes((message.pattern[at],))) for at in discriminators),
        fields=Struct(f"={BODY}x{split - BODY}s{value_end - split}s{size - value_end}x"),
        split=split,
        kind=DESTROY if variant.kind == uapi.CT_DELETE else UPDATE if variant.flags == EVENT_UPDATE else NEW,
        reply_end=reply_end,
        dump=variant.flags == uapi.NLM_F_MULTI,
        value_end=value_end,
        protocol=protocol,
        addresses_of=_parts(address, tuples, (0, address + HEADER.size)),
        ports_of=_parts(2, tuples, (port, port + 8)) if protocol not in _PROTOCOL_FIELDS else _nothing,
        source_of=itemgetter(slice(tuples[0], tuples[0] + address)),
        reply_source_of=itemgetter(slice(tuples[1], tuples[1] + address)),
        mark_of=None if mark is None else itemgetter(slice(mark, mark + 4)),
        tcp_state_of=None if tcp_state is None else itemgetter(tcp_state),
    )


def _build_attributes(message: _Builder, protocol: int, variant: _Variant) -> tuple[int | None, int | None, int]:
    """Add the attributes behind the tuples; return the offsets of TCP state and mark, and where the value ends."""
    destroy, dump = variant.kind == uapi.CT_DELETE, variant.flags == uapi.NLM_F_MULTI
    if dump:
        message.plain(uapi.CTA_STATUS, 4)
        message.zeros(uapi.CTA_MARK, 4)
        message.plain(uapi.CTA_ID, 4)
        message.plain(uapi.CTA_USE, 4)
    else:
        message.plain(uapi.CTA_ID, 4)
        message.plain(uapi.CTA_STATUS, 4)
    if variant.timeout:
        message.plain(uapi.CTA_TIMEOUT, 4)
    if destroy:
        _build_use(message, variant, uapi.CTA_TIMESTAMP_START, uapi.CTA_TIMESTAMP_STOP)
    tcp_state = None
    if protocol == uapi.IPPROTO_TCP:
        tcp_state = len(message.pattern) + 3 * HEADER.size
        message.tcp_protoinfo(whole=not destroy)
    mark = None
    if variant.mark:
        mark = len(message.pattern) + HEADER.size
        message.plain(uapi.CTA_MARK, 4)
    value_end = len(message.pattern)
    if dump:
        _build_use(message, variant, uapi.CTA_TIMESTAMP_START)
    if variant.injected:
        message.no_synproxy()
    if variant.event_time:
        message.ignored_number(uapi.CTA_TIMESTAMP_EVENT)
    return tcp_state, mark, value_end


def _build_use(message: _Builder, variant: _Variant, *times: int) -> None:
    """Add the attributes about the use of an entry: counters and timestamps."""
    if variant.counted:
        message.counters()
    if variant.timed:
        message.counts(uapi.CTA_TIMESTAMP, *times)


def _parts(size: int, starts: tuple[int, int], offsets: tuple[int, int]) -> Callable[[bytes], tuple[bytes, ...]]:
    """Return a function that reads `size` bytes behind each of the starts, at each of the offsets."""
    return itemgetter(*(slice(start + offset, start + offset + size) for start in starts for offset in offsets))


def _nothing(_message: bytes) -> tuple[bytes, ...]:
    return ()


def _all_shapes() -> dict[bytes, tuple[Shape, ...]]:
    """Return the shapes by prefix, in the order of `_VARIANTS`.

    Several may begin alike, as a TCP flow's end and a marked UDP flow's do; they have tuples of one length, are of one
    kind and are dumped or not alike.
    """
    shapes: dict[bytes, tuple[Shape, ...]] = {}
    for variant, protocol, family in product(_VARIANTS, _PROTOCOLS, (uapi.AF_INET, uapi.AF_INET6)):
        number = uapi.IPPROTO_ICMPV6 if protocol == uapi.IPPROTO_ICMP and family == uapi.AF_INET6 else protocol
        prefix, shape = _build(family, number, variant)
        shapes[prefix] = (*shapes.get(prefix, ()), shape)
    return shapes


def _all_variants() -> Iterator[_Variant]:
    """Yield the sets of attributes of plain messages: commoner ones first, which are tried first."""
    for event_time, mark, flags in product((False, True), (False, True), (EVENT_NEW, EVENT_UPDATE)):
        yield _Variant(kind=uapi.CT_NEW, flags=flags, mark=mark, event_time=event_time)
    # A dumped entry's mark stands in the middle, and is 0 here.  After a takeover the whole table is injected.
    for timed, counted, injected in product((False, True), repeat=3):
        yield _Variant(kind=uapi.CT_NEW, flags=uapi.NLM_F_MULTI, injected=injected, counted=counted, timed=timed)
    # An entry that ran out has no timeout left to tell.
    for (timed, event_time), counted, mark, timeout in product(_TIMES, (False, True), (False, True), (False, True)):
        yield _Variant(
            kind=uapi.CT_DELETE,
            flags=0,
            timeout=timeout,
            mark=mark,
            counted=counted,
            timed=timed,
            event_time=event_time,
        )


_TIMES: Final = ((False, False), (True, True), (True, False))  # off; from Linux 6.14 on; before
_LOW_BYTE: Final = 0 if sys.byteorder == "little" else 1  # where the low byte of a 16-bit number stands
_PROTOCOLS: Final = (uapi.IPPROTO_TCP, uapi.IPPROTO_UDP, uapi.IPPROTO_ICMP)
_VARIANTS: Final = tuple(_all_variants())

SHAPES: Final = _all_shapes()
"""Maps the first 32 bytes of a message to the shapes that it may have."""
