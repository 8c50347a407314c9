"""The form in which flows are held: key and value, both netlink attributes as they came.  Pure.

key    CTA_TUPLE_ORIG, followed by CTA_ZONE if the flow has one
value  the other attributes that can be put into a kernel again, in the order of `ORDER`

What an event leaves out is decided here (facts: ctnetlink_conntrack_event; NEW, UPDATE and dumps each carry another
subset): an UPDATE is a delta for everything but STATUS, TIMEOUT, HELP and MARK, which it states in full.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
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

# The first five stand as an event of a plain flow has them, so that its bytes are a value as they are.
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
# Known, and of no use in another kernel.
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
# What an entry that was offloaded to a flowtable lacks even in a dump (ctnetlink_dump_info).
OFFLOAD_LACKS: Final = (uapi.CTA_TIMEOUT, uapi.CTA_PROTOINFO)


HeldFlow = tuple[bytes, bytes]
"""Key and value of a flow."""


class Kind(Enum):
    """What a message says of an entry."""

    NEW = auto()  # begins an entry: replaces whatever was held under its key
    UPDATE = auto()  # a delta
    FULL = auto()  # the answer to a GET or a dump: everything there is
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
    """A message taken apart: attributes by type, each with its header and padding."""

    kind: Kind
    family: int
    attributes: dict[int, bytes]


def parse(message: bytes) -> Parsed:
    """Take a conntrack message apart.  Raises MalformedError for anything that is none."""
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
    """The answer to a GET or a dump with the header under which it travels: sequence and port id mean nothing there."""
    kind = MESSAGE.unpack_from(message)[1]
    return MESSAGE.pack(len(message), kind, uapi.NLM_F_MULTI, 0, 0) + message[MESSAGE_SIZE:]


def key_of(attributes: dict[int, bytes]) -> bytes:
    """The key of the flow with these attributes.  Raises MalformedError without an original tuple."""
    original = attributes.get(uapi.CTA_TUPLE_ORIG)
    if original is None:
        raise MalformedError("a flow without original tuple")
    return original + attributes.get(uapi.CTA_ZONE, b"")


def family_of(key: bytes) -> int:
    """AF_INET or AF_INET6, told by the first address in a key (or in an expectation's)."""
    return uapi.AF_INET if HEADER.unpack_from(key, 8)[1] <= uapi.CTA_IP_V4_DST else uapi.AF_INET6


def source_of(tuple_: bytes) -> bytes:
    """Return the packed source address of a tuple attribute, or of a key or value, which begin with one.

    The kernel writes the addresses of a tuple first, the source before the destination (ctnetlink_dump_tuples).
    """
    size = 4 if HEADER.unpack_from(tuple_, 8)[1] <= uapi.CTA_IP_V4_DST else 16
    return tuple_[12 : 12 + size]


def value_of(attributes: dict[int, bytes], dropped: Counter[str]) -> bytes:
    """The value made of these attributes; those of unknown type are dropped and counted in `dropped`."""
    unknown = attributes.keys() - _KNOWN
    if unknown:
        dropped["unknown_attribute"] += len(unknown)
    if attributes.get(uapi.CTA_SYNPROXY) == _NO_SYNPROXY:
        attributes = {kind: data for kind, data in attributes.items() if kind != uapi.CTA_SYNPROXY}
    return b"".join([attributes[kind] for kind in ORDER if kind in attributes])


# What every entry has that a process created (ctnetlink_create_conntrack adds the extension): it says nothing.
_NO_SYNPROXY: Final = nest(
    uapi.CTA_SYNPROXY,
    [u32(kind, 0) for kind in (uapi.CTA_SYNPROXY_ISN, uapi.CTA_SYNPROXY_ITS, uapi.CTA_SYNPROXY_TSOFF)],
)
_KNOWN: Final = frozenset(ORDER) | DROPPED | KEY


def overlay(old: bytes | None, kind: Kind, attributes: dict[int, bytes], dropped: Counter[str]) -> bytes:
    """The value of an entry after a message of `kind` with these `attributes`, where `old` was held before.

    If `old` is of another entry, told by CTA_ID, nothing of it stays: the message that began the new one was lost.
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
    """The value of a flow of which the kernel has told everything."""
    return value_of({kind: data for kind, data in attributes.items() if kind in ORDER}, Counter())


def unsaid(value: bytes, attributes: dict[int, bytes]) -> frozenset[int]:
    """The attributes of a value that an UPDATE with these `attributes` does not speak of."""
    return frozenset(split(value).keys() - attributes.keys() - FULL_STATE)


def under(snapshot: bytes, live: bytes, doubtful: frozenset[int]) -> bytes:
    """A snapshot's value below what live events have said since: attributes the live ones lack are taken over.

    `doubtful` are the attributes in `live` that were held before; they are the snapshot's.  All this only of the same
    entry, told by CTA_ID; another entry's snapshot is older than the live events and says nothing.
    """
    base, above = split(snapshot), split(live)
    if base.get(uapi.CTA_ID) != above.get(uapi.CTA_ID):
        return live
    for state in FULL_STATE:
        base.pop(state, None)
    merged = base | {kind: data for kind, data in above.items() if kind not in doubtful}
    return b"".join([merged[kind] for kind in ORDER if kind in merged])


def is_plain(key: bytes, value: bytes) -> bool:
    """Whether a plain event of this flow says everything that `value` says: its bytes may replace it."""
    return split(value).keys() <= _PLAIN and not is_gre(key)


def is_gre(key: bytes) -> bool:
    """Whether the flow is GRE, which takes some care to keep alive."""
    return protocol_of(key) == uapi.IPPROTO_GRE


def protocol_of(key: bytes) -> int:
    """The protocol number in a key."""
    protocol = nested(nested(key)[uapi.CTA_TUPLE_PROTO])
    return number(protocol[uapi.CTA_PROTO_NUM])


_PLAIN: Final = frozenset(ORDER[:6])


def same_instance(value: bytes, attributes: dict[int, bytes]) -> bool:
    """Whether a held value and attributes read later are of one entry, and not of two that had one tuple in turn."""
    return split(value).get(uapi.CTA_ID) == attributes.get(uapi.CTA_ID)


def has_helper(value: bytes) -> bool:
    """Whether the flow has a helper, so that expectations may be its."""
    return uapi.CTA_HELP in split(value)


def has_master(value: bytes) -> bool:
    """Whether the flow was expected by another."""
    return uapi.CTA_TUPLE_MASTER in split(value)


def status_of(attributes: Mapping[int, bytes]) -> int:
    """The status bits; none if the entry does not tell them."""
    return number(attributes[uapi.CTA_STATUS]) if uapi.CTA_STATUS in attributes else 0


def is_fixed(attributes: Mapping[int, bytes]) -> bool:
    """Whether the entry's timer is what it is: traffic does not renew it, and it cannot be set."""
    return bool(status_of(attributes) & uapi.IPS_FIXED_TIMEOUT)


def timeout_of(attributes: dict[int, bytes]) -> int:
    """Seconds until the entry runs out; 0 if that is not told."""
    return number(attributes[uapi.CTA_TIMEOUT]) if uapi.CTA_TIMEOUT in attributes else 0


def has_window_tracking(attributes: dict[int, bytes]) -> bool:
    """Tell whether the kernel checks the windows of a TCP flow in one direction at least."""
    protoinfo = attributes.get(uapi.CTA_PROTOINFO)
    tcp = nested(nested(protoinfo).get(uapi.CTA_PROTOINFO_TCP, _NO_TCP)) if protoinfo else {}
    kinds = (uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY)
    return any(not payload(tcp[kind])[0] & uapi.IP_CT_TCP_FLAG_BE_LIBERAL for kind in kinds if kind in tcp)


_NO_TCP: Final = pack(uapi.CTA_PROTOINFO_TCP, b"")


def packets_of(attributes: dict[int, bytes]) -> int:
    """Packets of both directions; 0 if the entry does not count."""
    counters = [attributes[kind] for kind in (uapi.CTA_COUNTERS_ORIG, uapi.CTA_COUNTERS_REPLY) if kind in attributes]
    return sum(number(nested(each)[uapi.CTA_COUNTERS_PACKETS]) for each in counters)


def tuple_of(key: bytes) -> bytes:
    """The original tuple of a key as expectations name their master by: without any zone."""
    original = nested(split(key)[uapi.CTA_TUPLE_ORIG])
    return nest(uapi.CTA_TUPLE_ORIG, [data for kind, data in original.items() if kind != uapi.CTA_TUPLE_ZONE])


def zone_of(key: bytes) -> bytes:
    """The CTA_ZONE attribute of a key, or nothing; a zone in the original direction only counts as the zone."""
    attributes = split(key)
    if uapi.CTA_ZONE in attributes:
        return attributes[uapi.CTA_ZONE]
    zone = nested(attributes[uapi.CTA_TUPLE_ORIG]).get(uapi.CTA_TUPLE_ZONE)
    return b"" if zone is None else pack(uapi.CTA_ZONE, payload(zone))


def master_key(key: bytes, master: bytes) -> bytes:
    """What `found_by` gives for the master that CTA_TUPLE_MASTER names: ctnetlink looks in its child's zone only."""
    return pack(uapi.CTA_TUPLE_ORIG | uapi.NLA_F_NESTED, payload(master)) + zone_of(key)


def found_by_master(key: bytes, value: bytes) -> bytes:
    """Return what `found_by` gives for the master of a flow that has one."""
    return master_key(key, split(value)[uapi.CTA_TUPLE_MASTER])


def found_by(key: bytes) -> bytes:
    """Attributes by which the kernel finds a flow: its key, with a zone in the original direction told as the zone."""
    return tuple_of(key) + zone_of(key)


def helper_of(attributes: dict[int, bytes]) -> str | None:
    """The name of the helper that a value's attributes name."""
    helper = attributes.get(uapi.CTA_HELP)
    if helper is None:
        return None
    name = nested(helper).get(uapi.CTA_HELP_NAME)
    return None if name is None else text(name)
