"""Messages of one shape, taken by columns instead of one by one.  Pure; on the hot path of both roles.

On the wire a run is its first message, and the bytes in which the others differ from it, sorted by their place in the
message: first all first bytes, then all second ones.  What repeats down a column is left to a compressor.  The backup
looks at the first message only: nothing but what is open in its shape differs in the others.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from ftfw.kernel.attributes import BODY, MalformedError
from ftfw.kernel.message_shapes import PREFIX, SHAPES, Shape

prefix_of: Callable[[bytes], bytes] = itemgetter(slice(PREFIX))


@dataclass(frozen=True, slots=True)
class Run:
    """`messages`: any number of messages, each of `shape.size` bytes, one behind the other."""

    shape: Shape
    messages: bytes

    def __len__(self) -> int:
        return len(self.messages) // self.shape.size

    def split(self) -> list[bytes]:
        """The messages one by one."""
        size, messages = self.shape.size, self.messages
        return [messages[start : start + size] for start in range(0, len(messages), size)]

    def cut(self, count: int) -> tuple["Run", "Run"]:
        """The first `count` messages, and the rest."""
        end = count * self.shape.size
        return Run(self.shape, self.messages[:end]), Run(self.shape, self.messages[end:])

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each entry, for shapes of events."""
        return self.shape.fields.iter_unpack(self.messages)

    def keys(self) -> list[bytes]:
        """The key of each entry."""
        size, split, messages = self.shape.size, self.shape.split, self.messages
        return [messages[start + BODY : start + split] for start in range(0, len(messages), size)]

    def pack_columns(self) -> tuple[bytes, bytes, int, bytes]:
        """As it stands on the wire: see `unpack_columns`."""
        messages, size, count = self.messages, self.shape.size, len(self)
        places, columns = [], []
        for place in self.shape.variable_offsets:
            column = messages[place::size]
            if column != column[:1] * count:
                places.append(place)
                columns.append(column)
        return messages[:size], struct.pack(f">{len(places)}H", *places), count, b"".join(columns)


Part = Run | list[bytes]
"""A stretch of a stream of messages."""


def of_kernel(shape: Shape, messages: list[bytes]) -> Run | None:
    """A run of messages that the kernel made and that begin like `shape`, if all of them have it."""
    joined, size, count = b"".join(messages), shape.size, len(messages)
    if len(joined) != size * count:
        return None
    for place, byte in shape.discriminators:
        if joined[place::size] != byte * count:
            return None
    return Run(shape, joined)


def unpack_columns(template: bytes, places: bytes, count: int, columns: bytes, *, most: int) -> Part:
    """The messages, at most `most` bytes of them, of a run as it stands on the wire.  Raises MalformedError.

    `template` is the first message, `places` (16 bits each, in network order) are those of its bytes in which the
    others differ, `columns` has `count` bytes for each of them.
    """
    shape = SHAPES.get(template[:PREFIX])
    if shape is None or len(places) > 2 * len(shape.variable_offsets):
        where, open_ = _unpack(places), False
    else:
        where, open_ = _places(template[:PREFIX], places)
    size = len(template)
    if not 0 < count * size <= most or len(columns) != count * len(where) or max(where, default=-1) >= size:
        raise MalformedError(f"a run of {count} messages of {size} bytes, {len(columns)} in {len(where)} columns")
    messages, source = bytearray(template * count), bytearray(columns)
    start = 0
    for place in where:
        messages[place::size] = source[start : start + count]
        start += count
    if open_ and shape is not None and shape.fits(template):
        return Run(shape, bytes(messages))
    return [bytes(messages[start : start + size]) for start in range(0, len(messages), size)]


@lru_cache(maxsize=1024)
def _places(prefix: bytes, packed: bytes) -> tuple[tuple[int, ...], bool]:
    """The places, and whether the shape leaves them open.  Kept, so only for as many as a shape has."""
    places = _unpack(packed)
    return places, set(places) <= set(SHAPES[prefix].variable_offsets)


def _unpack(packed: bytes) -> tuple[int, ...]:
    if len(packed) % 2:
        raise MalformedError(f"{len(packed)} bytes of places")
    return struct.unpack(f">{len(packed) // 2}H", packed)
