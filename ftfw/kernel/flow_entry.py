"""Define the form in which flows are held: key and value, both netlink attributes as they came.  Pure.

key    CTA_TUPLE_ORIG, followed by CTA_ZONE if the flow has one
value  the other attributes that can be put into a kernel again, in the order of `ORDER`

`overlay` decides about the attributes that a message leaves out (ctnetlink_conntrack_event; NEW, UPDATE and
dumps each carry another subset): an UPDATE replaces only the attributes that it has, apart from STATUS, TIMEOUT, HELP
and MARK, which it states in full.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from operator import itemgetter
from typing import Final

from ftfw.kernel import uapi
from ftfw.kernel.attributes import (
    BODY,
    HEADER,
    MESSAGE,
    MESSAGE_SIZE,
    MalformedError,
    nest,
    nested,
    number,
    pack,
    payload,
    split,
    text,
    u32,
)
from ftfw.kernel.message_shapes import EVENT_NEW

# The first six are in the order of a plain flow's event, so that the bytes of the event are a value.
ORDER: Final = (
    uapi.CTA_TUPLE_REPLY,
    uapi.CTA_ID,
    uapi.CTA_STATUS,
    uapi.CTA_TIMEOUT,
    uapi.CTA_PROTOINFO,
    uapi.CTA_MARK,
    uapi.CTA_HELP,
    uapi.CTA_LABELS,
    uapi.CTA_TUPLE_MASTER,
    uapi.CTA_SEQ_ADJ_ORIG,
    uapi.CTA_SEQ_ADJ_REPLY,
    uapi.CTA_SYNPROXY,
)
# Known attributes that no other kernel can use.
DROPPED: Final = frozenset(
    {
        uapi.CTA_USE,
        uapi.CTA_COUNTERS_ORIG,
        uapi.CTA_COUNTERS_REPLY,
        uapi.CTA_TIMESTAMP,
        uapi.CTA_TIMESTAMP_EVENT,
        uapi.CTA_SECCTX,
    }
)
KEY: Final = frozenset({uapi.CTA_TUPLE_ORIG, uapi.CTA_ZONE})
FULL_STATE: Final = frozenset({uapi.CTA_STATUS, uapi.CTA_TIMEOUT, uapi.CTA_HELP, uapi.CTA_MARK})
# Attributes that an entry offloaded to a flowtable lacks even in a dump (ctnetlink_dump_info).
OFFLOAD_LACKS: Final = (uapi.CTA_TIMEOUT, uapi.CTA_PROTOINFO)


HeldFlow = tuple[bytes, bytes]
"""Key and value of a flow."""


class Kind(Enum):
    """Name the effect of a message on an entry."""

    NEW = auto()  # begins an entry: replaces the value held under its key
    UPDATE = auto()  # changes some attributes of an entry
    FULL = auto()  # answers a GET or a dump: has all attributes of an entry
    DESTROY = auto()
    EXPECT_NEW = auto()
    EXPECT_DESTROY = auto()


_KINDS: Final = {
    (uapi.CT_NEW, EVENT_NEW): Kind.NEW,
    (uapi.CT_NEW, 0): Kind.UPDATE,
    (uapi.CT_NEW, uapi.NLM_F_MULTI): Kind.FULL,
    (uapi.CT_DELETE, 0): Kind.DESTROY,
    (uapi.EXP_NEW, EVENT_NEW): Kind.EXPECT_NEW,
    (uapi.EXP_NEW, 0): Kind.EXPECT_NEW,
    (uapi.EXP_NEW, uapi.NLM_F_MULTI): Kind.EXPECT_NEW,
    (uapi.EXP_DELETE, 0): Kind.EXPECT_DESTROY,
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """Hold a parsed message: attributes by type, each with its header and padding."""

    kind: Kind
    family: int
    attributes: dict[int, bytes]


def parse(message: bytes) -> Parsed:
    """Parse a conntrack message.  Raises MalformedError if it is none."""
    if len(message) < BODY:
        raise MalformedError(f"a message of {len(message)} bytes")
    length, kind, flags, _, _ = MESSAGE.unpack_from(message)
    if length != len(message):
        raise MalformedError(f"a message of {len(message)} bytes says {length}")
    known = _KINDS.get((kind, flags))
    if known is None:
        raise MalformedError(f"message type {kind:#x} with flags {flags:#x}")
    return Parsed(known, message[MESSAGE_SIZE], split(message, BODY))


def as_full(message: bytes) -> bytes:
    """Return the answer to a GET or a dump with the header with which it is streamed: without sequence and port id."""
    kind = MESSAGE.unpack_from(message)[1]
    return MESSAGE.pack(len(message), kind, uapi.NLM_F_MULTI, 0, 0) + message[MESSAGE_SIZE:]


def key_of(attributes: dict[int, bytes]) -> bytes:
    """Return the key of the flow with these attributes.  Raises MalformedError without an original tuple."""
    original = attributes.get(uapi.CTA_TUPLE_ORIG)
    if original is None:
        raise MalformedError("a flow without original tuple")
    return original + attributes.get(uapi.CTA_ZONE, b"")


def family_of(key: bytes) -> int:
    """Return AF_INET or AF_INET6, by the type of the first address in a key (or in an expectation's)."""
    return uapi.AF_INET if HEADER.unpack_from(key, 8)[1] <= uapi.CTA_IP_V4_DST else uapi.AF_INET6


source_start: Callable[[bytes], bytes] = itemgetter(slice(12, 16))
"""Return the first four bytes of the source in a tuple, key or value: all of an IPv4 address (see `source_of`)."""


def source_of(tuple_: bytes) -> bytes:
    """Return the packed source address of a tuple attribute, or of a key or value, which begin with one.

    The kernel writes the addresses of a tuple first, the source before the destination (ctnetlink_dump_tuples).
    """
    size = 4 if HEADER.unpack_from(tuple_, 8)[1] <= uapi.CTA_IP_V4_DST else 16
    return tuple_[12 : 12 + size]


def value_of(attributes: dict[int, bytes], dropped: Counter[str]) -> bytes:
    """Return the value made of these attributes; those of unknown type are dropped and counted in `dropped`."""
    unknown = attributes.keys() - _KNOWN
    if unknown:
        dropped["unknown_attribute"] += len(unknown)
    if attributes.get(uapi.CTA_SYNPROXY) == _NO_SYNPROXY:
        attributes = {kind: data for kind, data in attributes.items() if kind != uapi.CTA_SYNPROXY}
    return b"".join([attributes[kind] for kind in ORDER if kind in attributes])


# Every entry that a process created has this (ctnetlink_create_conntrack adds the extension); it says nothing.
_NO_SYNPROXY: Final = nest(
    uapi.CTA_SYNPROXY,
    [u32(kind, 0) for kind in (uapi.CTA_SYNPROXY_ISN, uapi.CTA_SYNPROXY_ITS, uapi.CTA_SYNPROXY_TSOFF)],
)
_KNOWN: Final = frozenset(ORDER) | DROPPED | KEY


def overlay(old: bytes | None, kind: Kind, attributes: dict[int, bytes], dropped: Counter[str]) -> bytes:
    """Return the value of an entry after a message of `kind` with these `attributes`, where `old` was held before.

    If `old` is of another entry, as CTA_ID shows, it is dropped: the message that began the new entry was lost.
    """
    merged = {} if old is None or kind is Kind.NEW else split(old)
    if merged.get(uapi.CTA_ID) != attributes.get(uapi.CTA_ID):
        merged = {}
    if kind is Kind.UPDATE:
        for state in FULL_STATE:
            merged.pop(state, None)
    elif kind is Kind.FULL:
        merged = {lacking: merged[lacking] for lacking in OFFLOAD_LACKS if lacking in merged}
    merged.update((k, v) for k, v in attributes.items() if k not in KEY)
    return value_of(merged, dropped)


def full_value(attributes: dict[int, bytes]) -> bytes:
    """Return the value of a flow from the complete attributes of a dump or a GET."""
    return value_of({kind: data for kind, data in attributes.items() if kind in ORDER}, Counter())


def unsaid(value: bytes, attributes: dict[int, bytes]) -> frozenset[int]:
    """Return the types of a value's attributes that an UPDATE with these `attributes` leaves unchanged."""
    return frozenset(split(value).keys() - attributes.keys() - FULL_STATE)


def under(snapshot: bytes, live: bytes, doubtful: frozenset[int]) -> bytes:
    """Return a snapshot's value with the attributes of later live events laid over it.

    `doubtful` are the types of attributes in `live` that were held before the snapshot; for these the snapshot counts.
    If CTA_ID shows that the snapshot's entry is another one, it is older than the live events, and `live` is returned.
    """
    base, above = split(snapshot), split(live)
    if base.get(uapi.CTA_ID) != above.get(uapi.CTA_ID):
        return live
    for state in FULL_STATE:
        base.pop(state, None)
    merged = base | {kind: data for kind, data in above.items() if kind not in doubtful}
    return b"".join([merged[kind] for kind in ORDER if kind in merged])


def is_plain(key: bytes, value: bytes) -> bool:
    """Return whether a plain event of this flow has all attributes of `value`, so that its bytes may replace it."""
    return split(value).keys() <= _PLAIN and not is_gre(key)


def is_gre(key: bytes) -> bool:
    """Return whether the flow is GRE, whose entries need to be kept alive after an injection."""
    return protocol_of(key) == uapi.IPPROTO_GRE


def protocol_of(key: bytes) -> int:
    """Return the protocol number in a key, or in a tuple attribute, that has passed `validate`.

    It follows the headers of the tuple, its addresses and its protocol part (ctnetlink_dump_tuples).
    """
    address_size: int = HEADER.unpack_from(key, 8)[0]  # of the attribute
    return key[16 + 2 * address_size]


_PLAIN: Final = frozenset(ORDER[:6])


def same_instance(value: bytes, attributes: dict[int, bytes]) -> bool:
    """Return whether a held value and attributes read later are of one entry, not of two with one tuple in turn."""
    return split(value).get(uapi.CTA_ID) == attributes.get(uapi.CTA_ID)


def has_helper(value: bytes) -> bool:
    """Return whether the flow has a helper, so that it may have expectations."""
    return uapi.CTA_HELP in split(value)


def has_master(value: bytes) -> bool:
    """Return whether the flow was expected by another."""
    return uapi.CTA_TUPLE_MASTER in split(value)


def status_of(attributes: Mapping[int, bytes]) -> int:
    """Return the status bits; 0 if the attribute is missing."""
    return number(attributes[uapi.CTA_STATUS]) if uapi.CTA_STATUS in attributes else 0


def is_fixed(attributes: Mapping[int, bytes]) -> bool:
    """Return whether the entry's timer is fixed (IPS_FIXED_TIMEOUT): neither traffic nor a request can set it."""
    return bool(status_of(attributes) & uapi.IPS_FIXED_TIMEOUT)


def timeout_of(attributes: dict[int, bytes]) -> int:
    """Return the seconds until the entry expires; 0 if the attribute is missing."""
    return number(attributes[uapi.CTA_TIMEOUT]) if uapi.CTA_TIMEOUT in attributes else 0


def has_window_tracking(attributes: dict[int, bytes]) -> bool:
    """Return whether the kernel checks the windows of a TCP flow in at least one direction."""
    protoinfo = attributes.get(uapi.CTA_PROTOINFO)
    tcp = nested(nested(protoinfo).get(uapi.CTA_PROTOINFO_TCP, _NO_TCP)) if protoinfo else {}
    kinds = (uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY)
    return any(not payload(tcp[kind])[0] & uapi.IP_CT_TCP_FLAG_BE_LIBERAL for kind in kinds if kind in tcp)


_NO_TCP: Final = pack(uapi.CTA_PROTOINFO_TCP, b"")


def packets_of(attributes: dict[int, bytes]) -> int:
    """Return the number of packets of both directions; 0 if the entry does not count."""
    counters = [attributes[kind] for kind in (uapi.CTA_COUNTERS_ORIG, uapi.CTA_COUNTERS_REPLY) if kind in attributes]
    return sum(number(nested(each)[uapi.CTA_COUNTERS_PACKETS]) for each in counters)


def tuple_of(key: bytes) -> bytes:
    """Return the original tuple of a key without any zone: expectations name their master by it."""
    original = nested(split(key)[uapi.CTA_TUPLE_ORIG])
    return nest(uapi.CTA_TUPLE_ORIG, [data for kind, data in original.items() if kind != uapi.CTA_TUPLE_ZONE])


def zone_of(key: bytes) -> bytes:
    """Return the CTA_ZONE attribute of a key, or nothing; a zone of the original direction counts as the zone."""
    attributes = split(key)
    if uapi.CTA_ZONE in attributes:
        return attributes[uapi.CTA_ZONE]
    zone = nested(attributes[uapi.CTA_TUPLE_ORIG]).get(uapi.CTA_TUPLE_ZONE)
    return b"" if zone is None else pack(uapi.CTA_ZONE, payload(zone))


def master_key(key: bytes, master: bytes) -> bytes:
    """Return the `found_by` of the master in CTA_TUPLE_MASTER: ctnetlink looks for it in the child's zone only."""
    return pack(uapi.CTA_TUPLE_ORIG | uapi.NLA_F_NESTED, payload(master)) + zone_of(key)


def found_by_master(key: bytes, value: bytes) -> bytes:
    """Return the `found_by` of the master of a flow that has one."""
    return master_key(key, split(value)[uapi.CTA_TUPLE_MASTER])


def found_by(key: bytes) -> bytes:
    """Return the attributes by which the kernel finds a flow: its tuple without a zone, and its zone as CTA_ZONE."""
    return tuple_of(key) + zone_of(key)


def reply_name(key: bytes, value: bytes) -> bytes:
    """Return the attributes by which the kernel finds a flow from its other end: its reply tuple, and its CTA_ZONE."""
    return split(value)[uapi.CTA_TUPLE_REPLY] + split(key).get(uapi.CTA_ZONE, b"")


def helper_kind(flow: HeldFlow) -> tuple[str | None, int, int]:
    """Return name (None without one), family and protocol, by which the kernel looks up a flow's helper."""
    key, value = flow
    return helper_of(split(value)), family_of(key), protocol_of(key)


def helper_of(attributes: dict[int, bytes]) -> str | None:
    """Return the name of the helper in a value's attributes; None without one."""
    helper = attributes.get(uapi.CTA_HELP)
    if helper is None:
        return None
    name = nested(helper).get(uapi.CTA_HELP_NAME)
    return None if name is None else text(name)
