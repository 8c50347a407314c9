"""Handle messages of one shape by columns instead of one by one.  Pure; on the hot path of both roles.

On the wire a run is its first message, and the bytes in which the others differ from it, sorted by their offset in the
message: first all first bytes, then all second ones.  The compressor removes repetitions within a column.  The backup
checks the first message only: the others differ from it only in bytes that their shape leaves open.  Bytes that no
other kernel can use (counters, timestamps) are not sent: all messages that are unpacked have those of the first one.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from ftfw.kernel.attributes import BODY, MalformedError
from ftfw.kernel.message_shapes import PREFIX, SHAPES, Shape, recognise

prefix_of: Callable[[bytes], bytes] = itemgetter(slice(PREFIX))


@dataclass(frozen=True, slots=True)
class Run:
    """Hold any number of messages, each of `shape.size` bytes, one behind the other in `messages`."""

    shape: Shape
    messages: bytes

    def __len__(self) -> int:
        return len(self.messages) // self.shape.size

    def split(self) -> list[bytes]:
        """Return the messages one by one."""
        size, messages = self.shape.size, self.messages
        return [messages[start : start + size] for start in range(0, len(messages), size)]

    def cut(self, count: int) -> tuple["Run", "Run"]:
        """Return the first `count` messages, and the rest."""
        end = count * self.shape.size
        return Run(self.shape, self.messages[:end]), Run(self.shape, self.messages[end:])

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of each entry; for shapes of events that are not DESTROY."""
        return self.shape.fields.iter_unpack(self.messages)

    def keys(self) -> list[bytes]:
        """Return the key of each entry."""
        size, split, messages = self.shape.size, self.shape.split, self.messages
        return [messages[start + BODY : start + split] for start in range(0, len(messages), size)]

    def pack_columns(self) -> tuple[bytes, bytes, int, bytes]:
        """Return the run as it is streamed: the first four arguments of `unpack_columns`."""
        messages, size, count = self.messages, self.shape.size, len(self)
        offsets, columns = [], []
        for offset in self.shape.variable_offsets:
            column = messages[offset::size]
            if column != column[:1] * count:
                offsets.append(offset)
                columns.append(column)
        return messages[:size], struct.pack(f">{len(offsets)}H", *offsets), count, b"".join(columns)


Part = Run | list[bytes]
"""Consecutive messages of a stream: a run, or a list of single messages."""


def of_kernel(shapes: tuple[Shape, ...], messages: list[bytes]) -> Run | None:
    """Return a run of messages that the kernel wrote and that begin like `shapes`, if all of them have one of these."""
    joined, size, count = b"".join(messages), shapes[0].size, len(messages)
    if len(joined) != size * count:
        return None
    for shape in shapes:
        for offset, byte in shape.discriminators:
            if joined[offset::size] != byte * count:
                break
        else:
            return Run(shape, joined)
    return None


def unpack_columns(template: bytes, offsets: bytes, count: int, columns: bytes, *, most: int) -> Part:
    """Return the messages of a run as it was sent, as a run if they have a shape.

    `template` is the first message, `offsets` (16 bits each, in network order) are those of its bytes in which the
    others differ, `columns` has `count` bytes for each of them.  Raises MalformedError if they do not match, or if the
    messages together have more than `most` bytes.
    """
    shape = recognise(template)
    if shape is None or len(offsets) > 2 * len(shape.variable_offsets):
        where, open_ = _unpack_offsets(offsets), False
    else:
        where, open_ = known_offsets(template[:PREFIX], SHAPES[template[:PREFIX]].index(shape), offsets)
    size = len(template)
    if not 0 < count * size <= most or len(columns) != count * len(where) or max(where, default=-1) >= size:
        raise MalformedError(f"a run of {count} messages of {size} bytes, {len(columns)} in {len(where)} columns")
    messages, source = bytearray(template * count), bytearray(columns)
    start = 0
    for offset in where:
        messages[offset::size] = source[start : start + count]
        start += count
    if open_ and shape is not None:
        return Run(shape, bytes(messages))
    return [bytes(messages[start : start + size]) for start in range(0, len(messages), size)]


@lru_cache(maxsize=1024)
def known_offsets(prefix: bytes, number: int, packed: bytes) -> tuple[tuple[int, ...], bool]:
    """Return the offsets, and whether the shape of this number among those with `prefix` leaves all of them open.

    Results are kept, so this is called only with as many offsets as the shape has.
    """
    offsets = _unpack_offsets(packed)
    return offsets, set(offsets) <= set(SHAPES[prefix][number].variable_offsets)


def _unpack_offsets(packed: bytes) -> tuple[int, ...]:
    if len(packed) % 2:
        raise MalformedError(f"{len(packed)} bytes of offsets, two for each")
    return struct.unpack(f">{len(packed) // 2}H", packed)
