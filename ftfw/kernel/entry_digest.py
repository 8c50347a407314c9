"""Make digests by which nodes compare entries.  Pure.

A digest leaves out the parts that change without an event: timeouts, the flag bits of TCP that change with each packet,
and the protocol state of a flow that a flowtable handles.  A mark of 0 counts as none: dumps contain it, events do not.
"""

import sys
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, Protocol

from ftfw.kernel import expectation, flow_entry, uapi
from ftfw.kernel.attributes import BODY, HEADER, nested, payload, split, u32
from ftfw.kernel.flow_entry import Kind
from ftfw.kernel.message_run import Part, Run
from ftfw.kernel.message_shapes import dumped_value

SALT_SIZE: Final = 16
SIZE: Final = 4  # bytes of a digest

Entry = tuple[bytes, bytes]
"""Key and value of a flow or an expectation, as a store holds them."""


class Keys(Protocol):
    """Defines a set of keys by a test, for example the keys in some buckets of a table."""

    def __contains__(self, key: bytes, /) -> bool:
        """Return whether the set has this key."""


def digests(found: Iterable[Entry], salt: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield key and digest (32 bits) of each entry.

    `salt` has SALT_SIZE bytes.  Entries whose digests are equal by chance differ under another salt.
    """
    for key, value in found:
        digest = blake2b(key + compared(value), digest_size=SIZE, salt=salt).digest()
        yield key, int.from_bytes(digest, sys.byteorder)


def dumped(parts: Iterable[Part]) -> Iterator[Entry]:
    """Yield the entries in parts of a dump."""
    for part in parts:
        if isinstance(part, Run):
            shape = part.shape
            for message in part.split():
                yield message[BODY : shape.split], dumped_value(message, shape)
            continue
        for message in part:
            parsed = flow_entry.parse(message)
            if parsed.kind is Kind.EXPECT_NEW:
                yield expectation.key_of(parsed.attributes), expectation.value_of(parsed.attributes)
            else:
                yield flow_entry.key_of(parsed.attributes), flow_entry.full_value(parsed.attributes)


def within(keys: Keys, messages: Iterable[bytes], parts: Iterable[Part]) -> list[bytes]:
    """Return the messages of a dump that are about entries whose key is in `keys`; `parts` has the same messages."""
    return [found for found, (key, _) in zip(messages, dumped(parts), strict=True) if key in keys]


def compared(value: bytes) -> bytes:
    """Return the part of a value that must be equal on both nodes."""
    length, kind = HEADER.unpack_from(value) if value else (0, 0)
    if kind != uapi.CTA_TUPLE_REPLY | uapi.NLA_F_NESTED:
        return b"".join([data for kind, data in split(value).items() if kind != uapi.CTA_EXPECT_TIMEOUT])
    start = length + 16  # behind the reply tuple, the id and the status
    if value[start : start + 4] == _TIMEOUT:
        end = start + 8
        if len(value) == end:
            return value[:start]
        if len(value) == end + 48 and value[end : end + 8] == _TCP:
            return value[:start] + value[end + 8 : end + 32] + bytes((value[end + 36] & _TOLD, value[end + 44] & _TOLD))
    return _compared_slowly(split(value))


def alike(one: bytes, other: bytes) -> bool:
    """Return whether two values of an entry are equal, apart from the differences that a flowtable makes.

    A flow gets into a flowtable, and out of it, without an event; while it is there, it has no protocol state.
    """
    first, second = split(one), split(other)
    if not (_is_offloaded(first) or _is_offloaded(second)):
        return compared(one) == compared(other)
    return _outside_flowtable(first) == _outside_flowtable(second)


def _outside_flowtable(attributes: dict[int, bytes]) -> bytes:
    told = {kind: data for kind, data in attributes.items() if kind != uapi.CTA_PROTOINFO}
    if uapi.CTA_STATUS in told:
        told[uapi.CTA_STATUS] = u32(uapi.CTA_STATUS, flow_entry.status_of(told) & ~_OFFLOADED)
    return _compared_slowly(told)


def _is_offloaded(attributes: dict[int, bytes]) -> bool:
    return bool(flow_entry.status_of(attributes) & _OFFLOADED)


def _compared_slowly(attributes: dict[int, bytes]) -> bytes:
    info = attributes.pop(uapi.CTA_PROTOINFO, b"")
    attributes.pop(uapi.CTA_TIMEOUT, None)
    if attributes.get(uapi.CTA_MARK) == _NO_MARK:
        del attributes[uapi.CTA_MARK]
    return b"".join(attributes.values()) + (b"" if _is_offloaded(attributes) else _state(info))


def _state(info: bytes) -> bytes:
    tcp = nested(info).get(uapi.CTA_PROTOINFO_TCP) if info else None
    if tcp is None:
        return info
    fields = nested(tcp)
    flags = [fields.pop(kind) for kind in _FLAGS if kind in fields]
    return b"".join(fields.values()) + bytes(payload(each)[0] & _TOLD for each in flags)


_TIMEOUT: Final = HEADER.pack(8, uapi.CTA_TIMEOUT)
_TCP: Final = HEADER.pack(48, uapi.CTA_PROTOINFO | uapi.NLA_F_NESTED) + HEADER.pack(
    44, uapi.CTA_PROTOINFO_TCP | uapi.NLA_F_NESTED
)
_FLAGS: Final = (uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY)
_TOLD: Final = ~uapi.TCP_FLAGS_SILENT & 0xFF
_OFFLOADED: Final = uapi.IPS_OFFLOAD | uapi.IPS_HW_OFFLOAD
_NO_MARK: Final = u32(uapi.CTA_MARK, 0)
