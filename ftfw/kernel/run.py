"""Messages of one shape, taken by columns instead of one by one.  Pure; on the hot path of both roles.

On the wire a run is what its messages have in common, once, and the bytes in which they may differ, sorted by their
place in the message: first all first bytes, then all second ones.  Addresses, ports and states repeat down a column, so
that a compressor finds little left to do; and the backup needs not check what it has filled in by itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from .attributes import BODY, MalformedError
from .layout import PREFIX, SHAPES, Shape

UNKNOWN_SHAPES = 64  # templates of another version's shapes whose columns are remembered

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

    def columns(self) -> bytes:
        """All that the messages do not have in common, column by column."""
        messages, size = self.messages, self.shape.size
        return b"".join([messages[place::size] for place in self.shape.places])


Part = Run | list[bytes]
"""A stretch of a stream of messages."""


def of_kernel(shape: Shape, messages: list[bytes]) -> Run | None:
    """A run of messages that the kernel made and that begin like `shape`, if all of them have it."""
    joined, size, count = b"".join(messages), shape.size, len(messages)
    if len(joined) != size * count:
        return None
    for place, byte in shape.telling:
        if joined[place::size] != byte * count:
            return None
    return Run(shape, joined)


def unfold(template: bytes, differing: bytes, columns: bytes, *, most: int) -> Part:
    """The messages, at most `most` bytes of them, of a run as it stands on the wire.  Raises MalformedError.

    `template` is a message with zeros where messages differ, `differing` a bit for each of its bytes, the lowest bit of
    the first byte first.
    """
    shape = SHAPES.get(template[:PREFIX])
    known = shape is not None and template == shape.template and differing == shape.differing
    places = shape.places if shape is not None and known else _places(differing)
    size = len(template)
    if not places or places[-1] >= size or len(columns) % len(places):
        raise MalformedError(f"a run of {len(columns)} bytes in {len(places)} columns")
    count = len(columns) // len(places)
    if count * size > most:
        raise MalformedError(f"a run of {count} messages of {size} bytes")
    messages = bytearray(template * count)
    start = 0
    for place in places:
        messages[place::size] = columns[start : start + count]
        start += count
    if shape is not None and known:
        return Run(shape, bytes(messages))
    return [bytes(messages[start : start + size]) for start in range(0, len(messages), size)]


@lru_cache(maxsize=UNKNOWN_SHAPES)
def _places(differing: bytes) -> tuple[int, ...]:
    return tuple(place for place in range(8 * len(differing)) if differing[place >> 3] >> (place & 7) & 1)
