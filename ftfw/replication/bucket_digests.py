"""Sums up entries in digests of buckets, so that nodes compare tables without sending them.  Pure.

The low bits of the CRC-32 of an entry's key are the number of its bucket.  Each bucket has one number of 32 bits: the
XOR of its entries' digests, which does not depend on their order.  A table of 2^n buckets folds into one of 2^(n-1):
the most significant bit of the bucket's number is dropped.
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
    """Return the number, from 0 to 2^bits - 1, of the bucket that holds the entry with this key."""
    return crc32(key) & ((1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class Scope:
    """Names some of 2^bits buckets."""

    bits: int
    buckets: Set[int]

    def __contains__(self, key: bytes) -> bool:
        """Return True if the entry with this key is in one of the buckets."""
        return bucket_of(key, self.bits) in self.buckets

    def meets(self, other: "Scope | None") -> bool:
        """Return True if both scopes have the same number of bits and at least one bucket in common."""
        return other is not None and other.bits == self.bits and not self.buckets.isdisjoint(other.buckets)

    def joined(self, other: "Scope | None") -> "Scope":
        """Return the buckets of both scopes; this one alone if the other one has another number of bits."""
        return self if other is None or other.bits != self.bits else Scope(self.bits, self.buckets | other.buckets)

    def without(self, other: "Scope") -> "Scope | None":
        """Return the buckets that are not in the other scope; None if none is left.

        All buckets are left if the other scope has another number of bits.
        """
        left = self.buckets - other.buckets if other.bits == self.bits else self.buckets
        return Scope(self.bits, left) if left else None

    def pack(self, most: int) -> Iterator[bytes]:
        """Yield pieces of at most `most` bucket numbers, 32 bits each in network order."""
        numbers = sorted(self.buckets)
        for start in range(0, len(numbers), most):
            yield b"".join(map(_NUMBER.pack, numbers[start : start + most]))


def unpack(bits: int, packed: bytes) -> Scope:
    """Return the buckets in a piece that `Scope.pack` made.

    Raises ValueError if `packed` has no numbers, or numbers that need more than `bits` bits, or if `bits` is above
    BUCKET_BITS_MAX.
    """
    buckets = {number for (number,) in _NUMBER.iter_unpack(packed)} if len(packed) % _NUMBER.size == 0 else set()
    if not 0 <= bits <= limits.BUCKET_BITS_MAX or not buckets or max(buckets) >> bits:
        raise ValueError(f"{len(packed)} bytes of buckets of 2^{bits}")
    return Scope(bits, buckets)


def bits_for(entries: int) -> int:
    """Return the exponent n for which 2^n buckets suit so many entries; at most BUCKET_BITS_MAX."""
    return min((max(entries, 1) // limits.BUCKET_ENTRIES).bit_length(), limits.BUCKET_BITS_MAX)


class Digests:
    """Holds a number of 32 bits for each of 2^bits buckets."""

    def __init__(self, bits: int = limits.BUCKET_BITS_MAX) -> None:
        self.bits = bits
        self.count = 0  # of entries
        self.numbers = array("I", bytes(4 << bits))

    def add(self, digests: Iterable[tuple[bytes, int]]) -> None:
        """Add entries, given as pairs of key and digest."""
        numbers, mask = self.numbers, (1 << self.bits) - 1
        for key, digest in digests:
            numbers[crc32(key) & mask] ^= digest
            self.count += 1

    def folded(self, bits: int) -> "Digests":
        """Return the digests of the same entries in 2^bits buckets; `bits` must not exceed `self.bits`."""
        folded = Digests(bits)
        numbers = int.from_bytes(self.numbers.tobytes(), "little")
        for left in range(self.bits, bits, -1):
            half = 32 << (left - 1)
            numbers = (numbers >> half) ^ (numbers & ((1 << half) - 1))
        folded.numbers = array("I", numbers.to_bytes(4 << bits, "little"))
        folded.count = self.count
        return folded

    def differing(self, other: Sequence[int]) -> Iterator[set[int]]:
        """Yield, in steps, the buckets whose number differs in `other`.  Raises ValueError if the lengths differ."""
        step = limits.STEP_BUCKETS
        for first in range(0, len(self.numbers), step):
            pairs = zip(self.numbers[first : first + step], other[first : first + step], strict=True)
            yield {bucket for bucket, (one, two) in enumerate(pairs, first) if one != two}
