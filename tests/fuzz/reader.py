"""A fuzzer's bytes as a source of choices, and the way back for seeds."""

from typing import Final

# Where arithmetic on what msgpack can carry goes wrong if it does.
EDGES: Final = (0, 1, -1, 2, 127, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1)
SIGNED: Final = 0x40  # a number's first byte below it: one of EDGES; then, a small one to be added to something known


class Reader:
    """Takes choices off the front of some bytes; what is not there any more reads as zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))

    def byte(self) -> int:
        """A number below 256."""
        return int.from_bytes(self.take(1), "little")

    def piece(self) -> bytes:
        """Bytes behind their length."""
        return self.take(int.from_bytes(self.take(2), "little"))

    def number(self, near: int) -> int:
        """An integer that msgpack can carry: an edge, or one close to `near`."""
        first = self.byte()
        if first < SIGNED:
            return EDGES[first % len(EDGES)]
        return min(max(near + first - (SIGNED + 0x60), EDGES[-2]), EDGES[-1])


def pieces(*parts: bytes) -> bytes:
    """What `Reader.piece` takes apart."""
    return b"".join(len(part).to_bytes(2, "little") + part for part in parts)


def near(offset: int) -> bytes:
    """What `Reader.number` takes for `near` and this much more."""
    return bytes((SIGNED + 0x60 + offset,))


def edge(value: int) -> bytes:
    """What `Reader.number` takes for one of EDGES."""
    return bytes((EDGES.index(value),))
