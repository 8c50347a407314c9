"""Entries by buckets, so that two tables can be compared without being sent.  Pure.

The bucket of an entry is the end of its key's CRC-32.  Each bucket has one number: the digests of its entries, XORed,
which makes it independent of their order.  A table of 2^n buckets folds into one of half the size: the last bit of the
bucket's number counts no more.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from struct import Struct
from typing import Final
from zlib import crc32

from ftfw.replication import limits

_NUMBER: Final = Struct(">I")


def bucket_of(key: bytes, bits: int) -> int:
    """Which of 2^bits buckets the entry with this key is in."""
    return crc32(key) & ((1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class Scope:
    """Some buckets of 2^bits."""

    bits: int
    buckets: Set[int]

    def __contains__(self, key: bytes) -> bool:
        """Whether the entry with this key is in one of them."""
        return bucket_of(key, self.bits) in self.buckets

    def meets(self, other: "Scope | None") -> bool:
        """Whether some buckets are in both."""
        return other is not None and other.bits == self.bits and not self.buckets.isdisjoint(other.buckets)

    def joined(self, other: "Scope | None") -> "Scope":
        """The buckets of both, if they are of as many."""
        return self if other is None or other.bits != self.bits else Scope(self.bits, self.buckets | other.buckets)

    def without(self, other: "Scope") -> "Scope | None":
        """Those that are not in the other; None if there are none."""
        left = self.buckets - other.buckets if other.bits == self.bits else self.buckets
        return Scope(self.bits, left) if left else None

    def pack(self, most: int) -> Iterator[bytes]:
        """The buckets' numbers, in pieces of at most `most` of them, 32 bits each in network order."""
        numbers = sorted(self.buckets)
        for start in range(0, len(numbers), most):
            yield b"".join(map(_NUMBER.pack, numbers[start : start + most]))


def unpack(bits: int, packed: bytes) -> Scope:
    """The buckets in a piece.  Raises ValueError if there are none of that number."""
    buckets = {number for (number,) in _NUMBER.iter_unpack(packed)} if len(packed) % _NUMBER.size == 0 else set()
    if not 0 <= bits <= limits.BUCKET_BITS_MAX or not buckets or max(buckets) >> bits:
        raise ValueError(f"{len(packed)} bytes of buckets of 2^{bits}")
    return Scope(bits, buckets)


def bits_for(entries: int) -> int:
    """How many buckets so many entries need, as a power of two."""
    return min((max(entries, 1) // limits.BUCKET_ENTRIES).bit_length(), limits.BUCKET_BITS_MAX)


class Digests:
    """One 32-bit number for each of 2^bits buckets."""

    def __init__(self, bits: int = limits.BUCKET_BITS_MAX) -> None:
        self.bits = bits
        self.count = 0  # of entries
        self.numbers = array("I", bytes(4 << bits))

    def add(self, digests: Iterable[tuple[bytes, int]]) -> None:
        """Entries, as pairs of key and digest."""
        numbers, mask = self.numbers, (1 << self.bits) - 1
        for key, digest in digests:
            numbers[crc32(key) & mask] ^= digest
            self.count += 1

    def folded(self, bits: int) -> "Digests":
        """The same entries in fewer buckets."""
        folded = Digests(bits)
        numbers = int.from_bytes(self.numbers.tobytes(), "little")
        for left in range(self.bits, bits, -1):
            half = 32 << (left - 1)
            numbers = (numbers >> half) ^ (numbers & ((1 << half) - 1))
        folded.numbers = array("I", numbers.to_bytes(4 << bits, "little"))
        folded.count = self.count
        return folded

    def differing(self, other: Sequence[int]) -> Iterator[set[int]]:
        """The buckets in which another table of this size has another number, a slice of the buckets at a time."""
        step = limits.STEP_BUCKETS
        for first in range(0, len(self.numbers), step):
            pairs = zip(self.numbers[first : first + step], other[first : first + step], strict=True)
            yield {bucket for bucket, (one, two) in enumerate(pairs, first) if one != two}
