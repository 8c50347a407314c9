"""Recognising plain event messages by their layout, without walking them.  Pure; on the hot path of both roles.

The kernel writes the attributes of an event in one order and mostly the same ones (ctnetlink_conntrack_event in
net/netfilter/nf_conntrack_netlink.c), so that nearly all messages have one of a few shapes.  A shape is known by the
first 32 bytes, which hold everything up to the first address.  What is left to prove depends on who made the message:

- The kernel lays out tuples in one way only, so that the protocol and the types of the attributes behind the tuples
  decide (`discriminators`).
- A message from elsewhere is compared as a whole, as a number under a mask: every attribute header has to be where the
  shape has it (`mask`, `pattern`), and none may stand behind, where the mask does not reach (`size`).

A message that fits no shape takes the slow way through `entry`, with the same result.

A recognised event falls into `message[BODY:split]`, the entry's key, and `message[split:]`, its value.
"""

from collections.abc import Callable
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
    """Where things are in a message whose first 32 bytes are those of this shape."""

    size: int  # bytes of a message
    mask: int
    pattern: int
    variable_offsets: tuple[int, ...]  # where messages of this shape may differ
    discriminators: tuple[
        tuple[int, bytes], ...
    ]  # the bytes that tell this shape from others with its prefix: place, byte
    fields: Struct  # of an event: key and value
    split: int  # where the original tuple ends and the value begins
    kind: int  # NEW (also for what a dump tells), UPDATE or DESTROY: what happens to a flow in this order
    reply_end: int  # in a dump's message the value's attributes follow in another order: see `dumped_value`
    dump: bool
    value_end: int  # behind it stands what a dump tells of every injected entry, and says nothing
    protocol: int
    addresses_of: Callable[[bytes], tuple[bytes, ...]]  # in a message: original source and destination, the reply's
    ports_of: Callable[[bytes], tuple[bytes, ...]]  # likewise; of ICMP, none
    source_of: Callable[[bytes], bytes]  # the original source address in a message
    reply_source_of: Callable[[bytes], bytes]
    mark: int | None  # where it stands, behind its header
    tcp_state: int | None  # likewise

    def fits(self, message: bytes) -> bool:
        """Whether a message from elsewhere that begins like this shape has it."""
        return len(message) == self.size and int.from_bytes(message, "big") & self.mask == self.pattern


def dumped_value(message: bytes, shape: Shape) -> bytes:
    """The value of an entry from a dump, in the order that an event has."""
    end = shape.reply_end  # from here on: status, mark (0), id, use count, timeout, protocol state
    timeout_last = message[end + 16 : end + 24] + message[end : end + 8] + message[end + 32 : shape.value_end]
    return message[shape.split : end] + timeout_last


class _Builder:
    """A message under construction: fixed bytes count in the comparison, open ones do not."""

    def __init__(self) -> None:
        self.pattern = bytearray()
        self.mask = bytearray()
        self.zero: list[int] = []  # variable_offsets of payload that has to be zero

    def fixed(self, data: bytes) -> None:
        self.pattern += data
        self.mask += b"\xff" * len(data)

    def open(self, size: int) -> None:
        self.pattern += bytes(size)
        self.mask += bytes(size)

    def header(self, kind: int, payload_size: int) -> None:
        self.fixed(HEADER.pack(4 + payload_size, kind))

    def plain(self, kind: int, size: int) -> None:
        self.header(kind, size)
        self.open(size)
        self.fixed(bytes(-size % 4))

    def zeros(self, kind: int, size: int) -> None:
        self.header(kind, size)
        self.zero += range(len(self.pattern), len(self.pattern) + size)
        self.fixed(bytes(size))

    def tuple(self, kind: int, family: int, protocol: int) -> None:
        """A tuple of a protocol with ports, or of ICMP."""
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

    def tcp_protoinfo(self) -> None:
        self.header(uapi.CTA_PROTOINFO | uapi.NLA_F_NESTED, 44)
        self.header(uapi.CTA_PROTOINFO_TCP | uapi.NLA_F_NESTED, 40)
        self.plain(uapi.CTA_PROTOINFO_TCP_STATE, 1)
        self.plain(uapi.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, 1)
        self.plain(uapi.CTA_PROTOINFO_TCP_WSCALE_REPLY, 1)
        self.plain(uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, 2)
        self.plain(uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY, 2)

    def no_synproxy(self) -> None:
        """What ctnetlink_create_conntrack gives every entry, and says nothing: CTA_SYNPROXY, all zero."""
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


def _build(
    family: int, protocol: int, kind: int, flags: int, *, timeout: bool, injected: bool, mark: bool
) -> tuple[bytes, Shape]:
    message = _Builder()
    message.fixed(bytes(MESSAGE.size))  # written at the end, when the length is known
    message.fixed(bytes((family, 0, 0, 0)))
    message.tuple(uapi.CTA_TUPLE_ORIG, family, protocol)
    split = len(message.pattern)
    message.tuple(uapi.CTA_TUPLE_REPLY, family, protocol)
    reply_end = len(message.pattern)
    dump = flags == uapi.NLM_F_MULTI
    if dump:
        message.plain(uapi.CTA_STATUS, 4)
        message.zeros(uapi.CTA_MARK, 4)
        message.plain(uapi.CTA_ID, 4)
        message.plain(uapi.CTA_USE, 4)
    else:
        message.plain(uapi.CTA_ID, 4)
        message.plain(uapi.CTA_STATUS, 4)
    if timeout:
        message.plain(uapi.CTA_TIMEOUT, 4)
    tcp_state = None
    if protocol == uapi.IPPROTO_TCP:
        tcp_state = len(message.pattern) + 3 * HEADER.size
        if kind == uapi.CT_DELETE:
            message.header(uapi.CTA_PROTOINFO | uapi.NLA_F_NESTED, 12)
            message.header(uapi.CTA_PROTOINFO_TCP | uapi.NLA_F_NESTED, 8)
            message.plain(uapi.CTA_PROTOINFO_TCP_STATE, 1)
        else:
            message.tcp_protoinfo()
    mark_place = None
    if mark:
        mark_place = len(message.pattern) + HEADER.size
        message.plain(uapi.CTA_MARK, 4)
    value_end = len(message.pattern)
    if injected:
        message.no_synproxy()
    message.pattern[: MESSAGE.size] = MESSAGE.pack(len(message.pattern), kind, flags, 0, 0)
    address = 4 if family == uapi.AF_INET else 16
    size = len(message.pattern)
    variable_offsets = tuple(place for place in range(size) if not message.mask[place])
    # The protocol, and the low bytes of the types behind the tuples, whose headers stand eight bytes apart.
    types = (place for place in range(reply_end + 2, size, 8) if message.mask[place])
    discriminators = (PREFIX + 2 * address + 12, *types, *message.zero)
    tuples = (PREFIX, PREFIX + split - BODY)  # where their source addresses stand
    port = 2 * address + 20  # and, behind these, their source ports
    return bytes(message.pattern[:PREFIX]), Shape(
        size=size,
        mask=int.from_bytes(message.mask, "big"),
        pattern=int.from_bytes(message.pattern, "big"),
        variable_offsets=variable_offsets,
        discriminators=tuple((place, bytes((message.pattern[place],))) for place in discriminators),
        fields=Struct(f"{BODY}x{split - BODY}s{size - split}s"),
        split=split,
        kind=DESTROY if kind == uapi.CT_DELETE else UPDATE if flags == EVENT_UPDATE else NEW,
        reply_end=reply_end,
        dump=dump,
        value_end=value_end,
        protocol=protocol,
        addresses_of=_parts(address, tuples, (0, address + HEADER.size)),
        ports_of=_parts(2, tuples, (port, port + 8)) if protocol not in _PROTOCOL_FIELDS else _nothing,
        source_of=itemgetter(slice(tuples[0], tuples[0] + address)),
        reply_source_of=itemgetter(slice(tuples[1], tuples[1] + address)),
        mark=mark_place,
        tcp_state=tcp_state,
    )


def _parts(size: int, starts: tuple[int, int], offsets: tuple[int, int]) -> Callable[[bytes], tuple[bytes, ...]]:
    """What takes so many bytes behind each of the starts, at each of the offsets."""
    return itemgetter(*(slice(start + offset, start + offset + size) for start in starts for offset in offsets))


def _nothing(_message: bytes) -> tuple[bytes, ...]:
    return ()


def _all_shapes() -> dict[bytes, Shape]:
    """Shapes by prefix.

    Two may begin alike, as a TCP flow's end and a marked UDP flow's do: the first one stays, the commoner by the order
    here, and a message of the other takes the slow way.
    """
    shapes: dict[bytes, Shape] = {}
    for mark, protocol, (kind, flags, timeout, injected) in product((False, True), _PROTOCOLS, _MESSAGES):
        if mark and flags == uapi.NLM_F_MULTI:
            continue  # it has its mark in the middle, and 0 there
        for family in (uapi.AF_INET, uapi.AF_INET6):
            number = uapi.IPPROTO_ICMPV6 if protocol == uapi.IPPROTO_ICMP and family == uapi.AF_INET6 else protocol
            prefix, shape = _build(family, number, kind, flags, timeout=timeout, injected=injected, mark=mark)
            shapes.setdefault(prefix, shape)
    return shapes


_PROTOCOLS: Final = (uapi.IPPROTO_TCP, uapi.IPPROTO_UDP, uapi.IPPROTO_ICMP)
_MESSAGES: Final = (
    (uapi.CT_NEW, EVENT_NEW, True, False),
    (uapi.CT_NEW, EVENT_UPDATE, True, False),
    (uapi.CT_NEW, uapi.NLM_F_MULTI, True, False),
    (uapi.CT_NEW, uapi.NLM_F_MULTI, True, True),  # after a takeover the whole table is injected
    (uapi.CT_DELETE, 0, False, False),  # an entry that ran out has no time left to tell
    (uapi.CT_DELETE, 0, True, False),
)

SHAPES: Final = _all_shapes()
