"""Packs and unpacks the bodies of frames: msgpack arrays whose first element is the type.  Pure."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgpack
import zstandard

from ftfw import __version__
from ftfw.kernel import message_run
from ftfw.kernel.entry_digest import SALT_SIZE, SIZE
from ftfw.kernel.message_run import Part, Run
from ftfw.replication import bucket_digests, limits
from ftfw.replication.bucket_digests import Digests, Scope
from ftfw.replication.host_facts import Fact, are_facts

HEARTBEAT: Final = 1
EVENTS: Final = 2
SNAPSHOT_BEGIN: Final = 3
SNAPSHOT_PART: Final = 4
SNAPSHOT_END: Final = 5
ACK: Final = 6
RESYNC: Final = 7
LOST: Final = 8
# 9 and 10 are CHALLENGE and RESPONSE, see ftfw.security.freshness_messages
COMPARE: Final = 11
DIGESTS: Final = 12
SCOPE: Final = 13
WANT: Final = 14
RESYNC_ALL: Final = 15
FACTS: Final = 16
KINDS: Final = frozenset({*range(HEARTBEAT, LOST + 1), *range(COMPARE, FACTS + 1)})

STORED: Final = 0
ZSTD: Final = 1
OBJECT: Final = 64  # bytes of memory that Python needs for a message beside its contents
FRAMING: Final = 24  # bytes of type, sequence, codec and length around a blob, at most
SLICE_FRAMING: Final = 40  # bytes of number of bits, first bucket and salt around digests, at most
REQUEST_FRAMING: Final = 128  # bytes of ACK and WANT without their numbers, at most, with a name of 64 bytes
RANGE: Final = 18  # bytes of a range of missing frames, at most


class BodyError(ValueError):
    """Tells that an authentic body is not a valid message; it is counted under `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Reports a node's name, its role, and the range of its stream that it can send again."""

    name: str
    role: str
    byte_order: str
    sequence: int  # of the last stream frame sent; 0 on a backup
    oldest: int  # of the stream frames that can be sent again; 0 on a backup
    version: str  # of the program


class Slice(NamedTuple):
    """Holds the digests of consecutive buckets, of 2^bits, from number `first` on: SIZE bytes each."""

    salt: bytes
    bits: int
    first: int
    digests: bytes


class Piece(NamedTuple):
    """Names buckets of a snapshot; `left` more SCOPE frames follow, and the snapshot after the last of them."""

    scope: Scope
    left: int


class Stream(NamedTuple):
    """Holds a numbered frame of an active's stream."""

    kind: int  # EVENTS, SNAPSHOT_BEGIN, _PART, _END, COMPARE, DIGESTS, SCOPE, LOST, RESYNC_ALL
    sequence: int
    parts: list[Part]
    buckets: Slice | Piece | None = None  # of DIGESTS, of SCOPE

    @property
    def memory(self) -> int:
        """Return about how many bytes of memory the frame needs while it waits."""
        held = sum(
            len(part.messages) if isinstance(part, Run) else sum(map(len, part)) + OBJECT * len(part)
            for part in self.parts
        )
        return held + (len(self.buckets.digests) if isinstance(self.buckets, Slice) else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Tells that a backup has applied the stream of `epoch` up to `sequence`, and lacks the frames in `missing`."""

    name: str
    epoch: bytes
    sequence: int
    missing: list[tuple[int, int]]  # first and last number of each range, ascending
    synced: bool

    def missing_within(self, first: int, last: int) -> Iterator[int]:
        """Yield the missing numbers from `first` to `last`, each at most once, even if ranges overlap."""
        for begin, end in self.missing:
            for number in range(max(begin, first), min(end, last) + 1):
                first = number + 1
                yield number


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """Asks for a snapshot, or for a compare if `compare`; the stream of `epoch` is applied up to `sequence`."""

    name: str
    epoch: bytes
    sequence: int
    compare: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """Asks for a snapshot of the buckets in `scope`; the stream of `epoch` is applied up to `sequence`."""

    name: str
    epoch: bytes
    sequence: int
    scope: Scope


class Facts(NamedTuple):
    """Holds the facts that the node `name` reports about its host."""

    name: str
    told: dict[str, Fact]


Message = Heartbeat | Stream | Ack | Resync | Want | Facts


def heartbeat(name: str, role: str, sequence: int, oldest: int) -> bytes:
    """Pack a heartbeat."""
    return _pack([HEARTBEAT, name, role, sys.byteorder, sequence, oldest, __version__])


def stream(kind: int, sequence: int, codec: int, blob: bytes) -> bytes:
    """Pack a stream frame around a blob from a `Packer`."""
    return _pack([kind, sequence, codec, blob])


def ack(
    name: str, epoch: bytes, sequence: int, missing: Sequence[tuple[int, int]], limit: int, *, synced: bool
) -> bytes:
    """Pack an acknowledgement; it names as many ranges of missing frames as fit a body of `limit` bytes."""
    most = min(limits.MISSING_MAX, (limit - REQUEST_FRAMING) // RANGE)
    return _pack([ACK, name, epoch, sequence, [number for span in missing[:most] for number in span], synced])


def resync(name: str, epoch: bytes, sequence: int, *, compare: bool) -> bytes:
    """Pack a request for a snapshot, or for a compare."""
    return _pack([RESYNC, name, epoch, sequence, compare])


def wants(name: str, epoch: bytes, sequence: int, scope: Scope, limit: int) -> Iterator[bytes]:
    """Pack requests for a snapshot of these buckets, in bodies of at most `limit` bytes."""
    for packed in scope.pack(_buckets_of(limit)):
        yield _pack([WANT, name, epoch, sequence, scope.bits, packed])


def _buckets_of(limit: int) -> int:
    return min(limits.BUCKETS_MAX, (limit - REQUEST_FRAMING) // 4)


def slices(digests: Digests, salt: bytes, limit: int) -> Iterator[bytes]:
    """Yield blobs of DIGESTS that fit a frame whose body has `limit` bytes."""
    step = (limit - FRAMING - SLICE_FRAMING) // digests.numbers.itemsize
    for first in range(0, len(digests.numbers), step):
        yield _pack([salt, digests.bits, first, digests.numbers[first : first + step].tobytes()])


def scopes(scope: Scope, limit: int) -> Iterator[bytes]:
    """Yield blobs of SCOPE that fit a frame whose body has `limit` bytes."""
    pieces = list(scope.pack(_buckets_of(limit)))
    for number, packed in enumerate(pieces, 1):
        yield _pack([scope.bits, len(pieces) - number, packed])


def facts(name: str, told: dict[str, Fact], limit: int) -> bytes:
    """Pack facts into a body padded to `limit` bytes: a path that drops long frames then loses them, which shows."""
    bare = _pack([FACTS, name, told, b""])
    return _pack([FACTS, name, told, bytes(max(0, limit - len(bare) - 1))])


def _pack(fields: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


LEVEL: Final = -1  # of zstd: half the time of its default level, for the same size
MARGIN: Final = 1.04  # frames compress differently well; a blob that does not fit is made twice
# Messages.  A smaller batch compresses worse than a large one, so it teaches nothing, unless it filled a frame.
LEARN_FROM: Final = 8
LEARN_RATE: Final = 0.1


class Packer:
    """Packs kernel messages into blobs that fit a frame, and learns how well they compress."""

    def __init__(self, *, limit: int, compress: bool) -> None:
        self._limit = limit - FRAMING
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False) if compress else None
        self._each = 20.0 if compress else 80.0  # bytes per message, as learnt so far

    def blobs(self, parts: Sequence[Part]) -> list[tuple[int, bytes]]:
        """Return codec and blob of each frame; the messages are spread evenly over the frames."""
        packed: list[tuple[int, bytes]] = []
        left = sum(map(len, parts))
        while left:
            count = -(-left // max(1, math.ceil(left * self._each / self._limit)))
            first, rest = _cut(parts, count)
            codec, blob = self._blob(first)
            each = len(blob) / count
            if len(blob) > self._limit and count > 1:
                self._each = max(self._each * MARGIN, each * MARGIN)
                continue
            if count >= LEARN_FROM or count < left:
                self._each += (each * MARGIN - self._each) * LEARN_RATE
            packed.append((codec, blob))
            parts, left = rest, left - count
        return packed

    def _blob(self, parts: Sequence[Part]) -> tuple[int, bytes]:
        items: list[Any] = []
        for part in parts:
            if isinstance(part, Run):
                items.append(part.pack_columns())
            else:
                items += part
        plain: bytes = msgpack.packb(items)
        if self._compressor is None:
            return STORED, plain
        compressed = self._compressor.compress(plain)
        return (ZSTD, compressed) if len(compressed) < len(plain) else (STORED, plain)


def _cut(parts: Sequence[Part], count: int) -> tuple[list[Part], list[Part]]:
    """Return the first `count` messages, and the rest."""
    first: list[Part] = []
    for number, part in enumerate(parts):
        if count < len(part):
            if not count:
                return first, list(parts[number:])
            one, other = part.cut(count) if isinstance(part, Run) else (part[:count], part[count:])
            return [*first, one], [other, *parts[number + 1 :]]
        first.append(part)
        count -= len(part)
    return first, []


_DECOMPRESSOR: Final = zstandard.ZstdDecompressor()


def unpack(body: bytes) -> Message:
    """Return the message in an authentic body.  Raises BodyError if the body is no valid message."""
    try:
        return _parse(msgpack.unpackb(body))
    except BodyError:
        raise
    except Exception as error:  # msgpack and zstandard raise many types of exceptions
        raise BodyError("malformed") from error


def _parse(fields: Any) -> Message:
    match fields:
        case [2, int(sequence), int(codec), bytes(blob)]:  # the most frequent kind is tried first
            return Stream(EVENTS, sequence, _parts(codec, blob))
        case [3 | 4 | 5 | 8 | 11 | 12 | 13 | 15 as kind, int(sequence), int(codec), bytes(blob)]:
            return _parse_stream(kind, sequence, codec, blob)
        case [1, str(name), str(role), str(byte_order), int(sequence), int(oldest), str(version)]:
            if oldest <= sequence + 1:
                return Heartbeat(
                    name=name, role=role, byte_order=byte_order, sequence=sequence, oldest=oldest, version=version
                )
        case [6 | 7 | 14, str(), bytes(), int(), *_]:
            return _parse_request(fields)
        case [16, str(name), dict(told), bytes()] if are_facts(told):
            return Facts(name, told)
        case [int(kind), *_] if kind not in KINDS:
            raise BodyError("unknown_type")
    raise BodyError("malformed")


def _parse_stream(kind: int, sequence: int, codec: int, blob: bytes) -> Stream:
    if kind not in (DIGESTS, SCOPE):
        return Stream(kind, sequence, _parts(codec, blob))
    if codec != STORED:
        raise BodyError("unknown_codec")
    return Stream(kind, sequence, [], _slice(blob) if kind == DIGESTS else _piece(blob))


def _piece(blob: bytes) -> Piece:
    match msgpack.unpackb(blob):
        case [int(bits), int(left), bytes(packed)]:
            return Piece(_scope(bits, packed), left)
    raise BodyError("malformed")


def _parse_request(fields: list[Any]) -> Ack | Resync | Want:
    kind, name, epoch, sequence, *rest = fields
    match kind, rest:
        case 6, [list(missing), bool(synced)]:
            return Ack(name=name, epoch=epoch, sequence=sequence, missing=_ranges(missing), synced=synced)
        case 7, [bool(compare)]:
            return Resync(name=name, epoch=epoch, sequence=sequence, compare=compare)
        case 14, [int(bits), bytes(packed)]:
            return Want(name=name, epoch=epoch, sequence=sequence, scope=_scope(bits, packed))
    raise BodyError("malformed")


def _scope(bits: int, packed: bytes) -> Scope:
    scope = bucket_digests.unpack(bits, packed)
    if len(scope.buckets) > limits.BUCKETS_MAX:
        raise BodyError("malformed")
    return scope


def _slice(blob: bytes) -> Slice:
    match msgpack.unpackb(blob):
        case [bytes(salt), int(bits), int(first), bytes(digests)] if (
            len(salt) == SALT_SIZE
            and 0 <= bits <= limits.BUCKET_BITS_MAX
            and digests
            and len(digests) % SIZE == 0
            and 0 <= first <= (1 << bits) - len(digests) // SIZE
        ):
            return Slice(salt, bits, first, digests)
    raise BodyError("malformed")


def _ranges(numbers: list[Any]) -> list[tuple[int, int]]:
    if len(numbers) % 2 or not all(isinstance(number, int) for number in numbers):
        raise BodyError("malformed")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _parts(codec: int, blob: bytes) -> list[Part]:
    if codec == ZSTD:
        # `decompress` obeys the size in the blob rather than its own limit.
        if zstandard.frame_content_size(blob) > limits.UNPACKED_MAX:
            raise BodyError("too_long")
        blob = _DECOMPRESSOR.decompress(blob, max_output_size=limits.UNPACKED_MAX, allow_extra_data=False)
    elif codec != STORED:
        raise BodyError("unknown_codec")
    parts: list[Part] = []
    single: list[bytes] = []  # the list at the end of `parts`, if there is one
    room = limits.UNPACKED_MAX
    items = msgpack.unpackb(blob) if blob else []
    if not isinstance(items, list):
        raise BodyError("malformed")
    for item in items:
        if isinstance(item, bytes):
            if not single:
                parts.append(single)
            single.append(item)
            continue
        template, places, count, columns = item
        part = message_run.unpack_columns(template, places, count, columns, most=room)
        room -= len(template) * len(part)
        parts.append(part)
        single = []
    return parts
