"""Split, find and pack netlink attributes as bytes.  Pure.

An attribute is u16 length (header included), u16 type (NLA_F_NESTED may be set), payload, padding to four bytes.
Length and type are in host byte order, conntrack's payloads in network byte order.
"""

from collections.abc import Iterable
from struct import Struct

from ftfw.kernel import uapi

HEADER = Struct("=HH")
MESSAGE = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
MESSAGE_SIZE = 16
FAMILY_SIZE = 4  # nfgenmsg: family, version, resource id
BODY = MESSAGE_SIZE + FAMILY_SIZE  # where the attributes of a conntrack message begin


class MalformedError(ValueError):
    """Raised if bytes are not valid netlink attributes: a length is too small or leaves its container."""


def split(data: bytes, start: int = 0) -> dict[int, bytes]:
    """Return the attributes in `data` from `start` on: type without flags → the whole attribute, padded to four bytes.

    Of a type that occurs twice, the last occurrence counts, as in the kernel (nla_parse).  Raises MalformedError if a
    length is too small or leaves `data`.
    """
    found: dict[int, bytes] = {}
    end, kind = len(data), 0
    while start + 4 <= end:
        length, kind = HEADER.unpack_from(data, start)
        step = (length + 3) & ~3
        if length < 4 or start + length > end:
            raise MalformedError(f"attribute {kind & uapi.NLA_TYPE_MASK} says {length} of {end - start} bytes")
        found[kind & uapi.NLA_TYPE_MASK] = data[start : start + step]
        start += step
    if start < end:
        raise MalformedError(f"{end - start} stray bytes where an attribute should begin")
    if start > end and found:  # the last one lacks its padding
        found[kind & uapi.NLA_TYPE_MASK] += bytes(start - end)
    return found


def payload(attribute: bytes) -> bytes:
    """Return the payload of an attribute, without header and padding."""
    length: int = HEADER.unpack_from(attribute)[0]
    return attribute[4:length]


def nested(attribute: bytes) -> dict[int, bytes]:
    """Return the attributes inside a nested attribute, as `split` does.  Raises MalformedError."""
    return split(payload(attribute))


def number(attribute: bytes) -> int:
    """Return the unsigned number in network byte order that an attribute carries, of any width."""
    return int.from_bytes(payload(attribute), "big")


def pack(kind: int, data: bytes) -> bytes:
    """Return one attribute with its header and padding."""
    length = 4 + len(data)
    return HEADER.pack(length, kind) + data + b"\0" * (-length % 4)


def nest(kind: int, attributes: Iterable[bytes]) -> bytes:
    """Return a nested attribute around attributes that are padded already."""
    return pack(kind | uapi.NLA_F_NESTED, b"".join(attributes))


def u8(kind: int, value: int) -> bytes:
    """Return an attribute that carries one byte."""
    return pack(kind, value.to_bytes(1, "big"))


def u16(kind: int, value: int) -> bytes:
    """Return an attribute that carries a 16-bit number in network byte order."""
    return pack(kind, value.to_bytes(2, "big"))


def u32(kind: int, value: int) -> bytes:
    """Return an attribute that carries a 32-bit number in network byte order."""
    return pack(kind, value.to_bytes(4, "big"))


def text(attribute: bytes) -> str:
    """Return the text of a NUL-terminated string attribute; bytes that are not ASCII are escaped."""
    return payload(attribute).rstrip(b"\0").decode("ascii", "backslashreplace")


def message(kind: int, flags: int, family: int, attributes: bytes, sequence: int = 0) -> bytes:
    """Return a conntrack message: nlmsghdr with port id 0, nfgenmsg with version 0, attributes."""
    header = MESSAGE.pack(BODY + len(attributes), kind, flags, sequence, 0)
    return header + bytes((family, 0, 0, 0)) + attributes
