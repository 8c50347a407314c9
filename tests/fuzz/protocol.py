"""Targets: what comes over the links."""

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count

import msgpack
import zstandard

from ftfw.kernel import message_run
from ftfw.kernel.attributes import MalformedError
from ftfw.kernel.entry_digest import SALT_SIZE
from ftfw.kernel.message_run import Run
from ftfw.kernel.message_shapes import recognise
from ftfw.link.framing import FRAME_MAX_BYTES, FramingError, Splitter, framed
from ftfw.replication import limits, messages
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.bucket_digests import Digests, Scope
from ftfw.replication.member import Member
from ftfw.replication.messages import BodyError, Message, Packer, Stream
from ftfw.replication.state_tables import Reading
from ftfw.replication.store import Store
from ftfw.security import frames
from ftfw.security.frames import OVERHEAD, Opener, RefusedError, Sealer
from ftfw.security.freshness import Freshness
from ftfw.security.freshness_messages import Challenge, Response, challenge, response, unpack_proof
from tests.fuzz.reader import Reader, edge, near, pieces
from tests.unit.conntrack import TCP, UDP, Expect, conn, seq_adjust
from tests.unit.usable import use_everything

__all__ = ["BodyError", "FramingError", "MalformedError", "RefusedError"]

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
LIMIT = 1400  # bytes of a body
OWN, PEER = b"n" * frames.EPOCH_SIZE, b"p" * frames.EPOCH_SIZE
SALT = bytes(SALT_SIZE)
COMPRESS = zstandard.ZstdCompressor(level=-1).compress
RICH = conn(helper=b"ftp", labels=bytes(16), master=UDP, sequence=seq_adjust(15, 16), zone=2, mark=1)


# Frames


def open_frame(data: bytes) -> None:
    """Any bytes as a frame; and as what follows an authentic frame's header."""
    opener = Opener([KEY, OTHER_KEY])
    sealed = Sealer(KEY, name="fw2", epoch=PEER).seal(data)
    assert opener.open(sealed).body == data
    with contextlib.suppress(RefusedError):
        opener.open(sealed[: frames.HEADER_SIZE] + data)
    opener.open(data)


def sealed_frames() -> Iterator[bytes]:
    frame = Sealer(KEY, name="fw2", epoch=PEER).seal(b"body")
    yield from (b"", frame, frame[:-1], frame[4:], frame + b"\0", Sealer(b"x" * 32, name="fw2", epoch=PEER).seal(b""))


def split_stream(data: bytes) -> None:
    """Any bytes as a stream, at once and cut where its first byte says: the same frames, or the same end."""
    reader = Reader(data)
    cut, stream = reader.byte(), reader.rest()
    once, bit_by_bit = Splitter(), Splitter()
    found = []
    try:
        found = once.feed(stream)
    finally:
        fed: list[bytes] = []
        try:
            for start in range(0, len(stream), cut + 1):
                fed += bit_by_bit.feed(stream[start : start + cut + 1])
                held_back = min(start + cut + 1, len(stream)) - sum(len(framed(frame)) for frame in fed)
                assert held_back < FRAME_MAX_BYTES + 4, "a whole frame is held back"
        except FramingError:
            assert not found or fed[: len(found)] == found
        else:
            assert fed == found


def streams() -> Iterator[bytes]:
    frame = Sealer(KEY, name="fw2", epoch=PEER).seal(bytes(100))
    for stream in (framed(frame) * 3, framed(frame)[:50], framed(bytes(OVERHEAD)), framed(b""), framed(bytes(70000))):
        yield b"\x07" + stream


# Bodies


def unpack(data: bytes) -> None:
    """Any bytes as the body of an authentic frame."""
    message = messages.unpack(data)
    if isinstance(message, Stream):
        assert sum(_size(part) for part in message.parts) <= 2 * limits.UNPACKED_MAX
    assert unpack_proof(data) is None


def _size(part: Run | list[bytes]) -> int:
    return len(part.messages) if isinstance(part, Run) else sum(map(len, part))


def bodies() -> Iterator[bytes]:
    yield messages.heartbeat("fw1", "active", 7, 3)
    yield messages.ack("fw1", PEER, 7, [(8, 9), (11, 20)], LIMIT, synced=True)
    yield messages.resync("fw1", PEER, 7, compare=True)
    scope = Scope(7, {3, 77})
    yield from messages.wants("fw1", PEER, 7, scope, LIMIT)
    yield from (messages.stream(messages.SCOPE, 3, messages.STORED, blob) for blob in messages.scopes(scope, LIMIT))
    yield from (
        messages.stream(messages.DIGESTS, 3, messages.STORED, b) for b in messages.slices(Digests(3), SALT, 200)
    )
    yield messages.facts("fw1", {"mode": "warm", "buckets": 7, "helpers": ["ftp", "sip"]}, LIMIT)
    yield messages.stream(messages.SNAPSHOT_BEGIN, 3, messages.STORED, b"")
    for compress in (False, True):
        for codec, blob in Packer(limit=4000, compress=compress).blobs(_parts()):
            yield messages.stream(messages.EVENTS, 3, codec, blob)


def _parts() -> list[Run | list[bytes]]:
    some = [conn(ident=number, mark=1) for number in range(20)]
    shape = recognise(conn().new())
    assert shape is not None
    plain = Run(shape, b"".join(conn(ident=number).new() for number in range(20)))
    return [plain, [each.update() for each in some[:3]], [RICH.new(), RICH.full()]]


def unpack_blob(data: bytes) -> None:
    """Any bytes as what a stream frame carries, compressed; what comes of it goes into a store."""
    for codec, blob in ((messages.STORED, data), (messages.ZSTD, COMPRESS(data))):
        message = messages.unpack(messages.stream(messages.EVENTS, 1, codec, blob))
        assert isinstance(message, Stream)
        store = Store(journal=codec == messages.ZSTD)
        for part in message.parts:
            store.apply(part)
        store.begin_snapshot()
        for part in message.parts:
            store.add_snapshot(part)
        use_everything(store)
        store.end_snapshot()
        use_everything(store)


def blobs() -> Iterator[bytes]:
    yield b""
    yield msgpack.packb([])
    for each in (RICH, conn(), conn(UDP)):
        yield msgpack.packb([each.new(), each.full(), each.update(), each.destroy()])
    yield msgpack.packb([Expect(TCP, UDP).new()])
    for _, blob in Packer(limit=8000, compress=False).blobs(_parts()):
        yield blob


def unfold(data: bytes) -> None:
    """Any bytes as a run's columns; what is taken for a run of a shape has that shape in each message."""
    reader = Reader(data)
    count, places, template = reader.number(3), reader.piece(), reader.piece()
    part = message_run.unpack_columns(template, places, count, reader.rest(), most=limits.UNPACKED_MAX)
    assert len(part) == count
    split = part.split() if isinstance(part, Run) else part
    assert {len(message) for message in split} == {len(template)}
    if isinstance(part, Run):
        for message in split:
            assert recognise(message) is part.shape


def runs() -> Iterator[bytes]:
    for each in (conn(), conn(UDP), RICH):
        for message in (each.new(), each.update(), each.full(), each.destroy()):
            places, columns = b"\0\x23\0\x28", bytes((message[35], 5, 3, message[40], 9, 8))
            yield near(0) + pieces(places, message) + columns


# Conversations


def hear(data: bytes) -> None:
    """Bodies of any bytes in authentic frames of several senders and epochs, and other bytes between them.

    Only what is refused or no body is an error; answers are no longer than what asked for them.
    """
    reader, now = Reader(data), 100.0
    numbers, drawn = count(1), set[bytes]()

    def draw(size: int) -> bytes:
        drawn.add(number := next(numbers).to_bytes(size, "big"))
        return number

    hearing = Freshness([KEY], name="fw1", links=2, random=draw)
    senders = [
        Sealer(KEY, name=name, epoch=bytes((number,)) * 32) for number, name in enumerate(("fw2", "fw2", "fw3", "fw1"))
    ]
    member = _backup(now)
    frame = last = b""
    while reader:
        how = reader.byte()
        body = _proof(reader, last) if how & 0x10 else reader.piece()
        frame = body if how & 0x20 else frame if how & 0x40 else senders[how & 3].seal(body)
        now += (how >> 3 & 1) * 0.3
        proofs = hearing.counts["proofs"]
        try:
            heard = hearing.receive(frame, how >> 2 & 1, now)
        except RefusedError:
            heard = None
        answers = hearing.bodies_to_send()
        assert sum(len(each) + OVERHEAD for each in answers) <= 2 * len(frame)
        last = answers[-1] if answers else last
        if hearing.counts["proofs"] > proofs:
            answer = unpack_proof(Opener([KEY]).open(frame).body)
            assert isinstance(answer, Response)
            assert answer.nonce in drawn
            drawn.discard(answer.nonce)  # once each
        if heard is not None:
            with contextlib.suppress(BodyError):
                member.receive(heard.epoch, messages.unpack(heard.body), now)


def _proof(reader: Reader, last: bytes) -> bytes:
    """A challenge, or a response to the last one, if that is what was said last."""
    if reader.byte() & 1:
        return challenge(frames.sender_id("fw1"), reader.piece())
    asked = unpack_proof(last)
    return response(asked.nonce if isinstance(asked, Challenge) else b"")


def conversations() -> Iterator[bytes]:
    beats = [messages.heartbeat("fw2", "active", number, 1) for number in (4, 5)]
    proved = b"\x00" + pieces(beats[0]) + b"\x10\x00" + b"\x00" + pieces(beats[1])
    for body in bodies():
        yield proved + b"\x00" + pieces(body) + b"\x44" + pieces(b"") + b"\x08" + pieces(body)
    yield proved + b"\x01" + pieces(response(b"")) + b"\x01" + pieces(beats[0])
    yield proved + b"\x01" + pieces(beats[0]) + b"\x18\x00" + b"\x13\x01" + pieces(bytes(8)) + b"\x20" + pieces(b"FW")


# Members


class ScopedStore(Store):
    """Looks at the scope of each snapshot: a backup gathers no more buckets than it may ask for."""

    def begin_snapshot(self, scope: Scope | None = None, *, repair: bool = False) -> None:
        assert scope is None or len(scope.buckets) <= limits.WANTED_MAX
        super().begin_snapshot(scope, repair=repair)


def _backup(now: float) -> Member:
    member = Member("fw1")
    member.begin_role(Backup(name="fw1", store=ScopedStore(), limit=LIMIT, now=now))
    return member


def _active(now: float) -> Member:
    member = Member("fw1")
    active = Active(name="fw1", epoch=OWN, limit=200, compress=False, compare_s=0.5, now=now)
    member.begin_role(active)
    for _ in range(40):
        active.offer([[conn().new()]], now)
    active.bodies_to_send()
    return member


def receive(data: bytes) -> None:
    """Any messages that can be packed, in any order, heard by an active and a backup.

    What they keep and how much they do for one message is bounded; what they say can be unpacked, and a backup's store
    can be used.
    """
    reader, now = Reader(data), 100.0
    backup, active = _backup(now), _active(now)
    assert active.active is not None
    assert backup.backup is not None
    while reader:
        epoch = (PEER, OWN, b"q" * 32)[reader.byte() % 3]
        message = _message(reader, active.active, backup.backup)
        for member in (active, backup):
            member.receive(epoch, message, now)
            assert len(member.peers.known) <= limits.PEERS_MAX
        assert len(active.bodies_to_send()) <= limits.RESEND_FRAMES
        assert len(active.active.backups) <= limits.PEERS_MAX
        now += reader.byte() / 100
        for member in (active, backup):
            _live(member, now)
    backup.backup.unfollow()
    while backup.backup.work(now):
        pass
    use_everything(backup.backup.store)


def _live(member: Member, now: float) -> None:
    """What the daemon does between two messages."""
    member.peers.conflict(member.role, now)
    role = member.active or member.backup
    assert role is not None
    if role.get_timer() <= now:
        role.handle_timer(now)
    assert role.get_timer() > now
    for body in role.bodies_to_send():
        messages.unpack(body)
    role.why_not(now)
    if member.active is not None:
        assert all(member.active.lag_s(each, now) >= 0 for each in member.active.backups.values())
        assert member.active.kept_bytes <= limits.KEPT_BYTES
        member.active.may_snapshot(now)
        _read(member.active, now)
    if member.backup is not None:
        assert member.backup.behind >= 0
        assert member.backup.waiting <= limits.WAITING_FRAMES
        assert member.backup.waiting_bytes <= limits.WAITING_BYTES
        member.backup.work(now)


def _read(active: Active, now: float) -> None:
    """What the daemon does for a backup that wants something."""
    wanted = active.wanted(now)
    if wanted is Reading.SNAPSHOT:
        scope = active.begin_snapshot(now)
        assert scope is None or len(scope.buckets) <= limits.WANTED_MAX
        active.add_snapshot([[conn().full()]], now)
        active.end_snapshot(now)
    elif wanted is Reading.COMPARE:
        active.begin_compare(now)
        assert list(active.end_compare(Digests(3), SALT, now))


def _message(reader: Reader, active: Active, backup: Backup) -> Message:
    choice = reader.byte()
    name = f"fw{reader.byte()}"
    epoch = (active.epoch, PEER)[choice >> 3 & 1]
    number, following = partial(reader.number, active.sequence), partial(reader.number, backup.applied + 1)
    match choice & 7:
        case 0:
            body = messages.heartbeat(name, ("active", "backup", "spare")[reader.byte() % 3], following(), following())
        case 1:
            missing = [(number(), number()) for _ in range(reader.byte() % 8)]
            body = messages.ack(name, epoch, number(), missing, LIMIT, synced=bool(choice & 16))
        case 2:
            body = messages.resync(name, epoch, number(), compare=bool(choice & 16))
        case 3 | 4 | 5:
            kind = KINDS[(choice >> 4) % len(KINDS)]
            body = messages.stream(kind, following(), messages.STORED, _blob(reader, kind, choice, backup))
        case 6:
            (body,) = messages.wants(name, epoch, number(), Scope(3, {reader.byte() & 7}), LIMIT)
        case _:
            body = reader.piece()
    try:
        found = messages.unpack(body)
    except BodyError:
        found = None
    fallback = messages.Heartbeat(name=name, role="active", byte_order=sys.byteorder, sequence=0, oldest=0, version="")
    return found or fallback


KINDS = (
    *(messages.EVENTS, messages.SNAPSHOT_BEGIN, messages.SNAPSHOT_PART, messages.SNAPSHOT_END, messages.LOST),
    *(messages.COMPARE, messages.DIGESTS, messages.SCOPE),
)


def _blob(reader: Reader, kind: int, choice: int, backup: Backup) -> bytes:
    """What a frame of this kind carries."""
    packed: bytes = b""
    if kind == messages.DIGESTS:
        bits = reader.byte() & 7
        digests, first = Digests(bits), reader.byte() % (1 << bits)
        for slice_ in backup.store.digests(SALT):
            digests.add(slice_)
        digests.numbers[choice % (1 << bits)] ^= reader.byte()
        packed = msgpack.packb([SALT, bits, first, digests.numbers[first:].tobytes()])
    elif kind == messages.SCOPE:
        bits = reader.byte() & 15
        numbers = range(0, 1 << bits, reader.byte() + 1)
        packed = msgpack.packb(
            [bits, reader.byte() & 3, b"".join(n.to_bytes(4, "big") for n in numbers[: limits.BUCKETS_MAX])]
        )
    elif kind in (messages.EVENTS, messages.SNAPSHOT_PART):
        each = conn(ident=choice)
        packed = msgpack.packb([each.new(), each.full(), RICH.full()])
    return packed


def exchanges() -> Iterator[bytes]:
    beat = _said(0, b"\0", near(4), near(0))
    plain = {kind: _said(number << 4 | 3, near(0)) for number, kind in enumerate(KINDS)}
    equal, different = (_said(KINDS.index(messages.DIGESTS) << 4 | 3, near(0), b"\3\0" + odd) for odd in (b"\0", b"\1"))
    scope = _said(KINDS.index(messages.SCOPE) << 4 | 3, near(0), b"\3\0\0")
    whole = b"".join(plain[kind] for kind in KINDS[1:4])
    compared = plain[messages.COMPARE] + different + plain[messages.EVENTS]
    alike = plain[messages.COMPARE] + equal
    repaired = scope + plain[messages.SNAPSHOT_PART] + plain[messages.SNAPSHOT_END]
    early = _said(3, near(5))
    yield (
        beat + whole + plain[messages.EVENTS] + compared + repaired + plain[messages.LOST] + compared + repaired + whole
    )
    yield beat + whole + alike + compared + alike + plain[messages.LOST] + alike + compared + repaired
    yield beat + early + plain[messages.EVENTS] * 3 + early + beat + whole
    yield beat + plain[messages.COMPARE] + _said(KINDS.index(messages.DIGESTS) << 4 | 3, near(0), b"\3\1\0") * 9
    yield beat + _said(KINDS.index(messages.SCOPE) << 4 | 3, near(0), b"\x0f\0\1") * 20
    yield beat + _said(0, b"\0", edge((1 << 64) - 1), edge((1 << 64) - 1)) + whole
    yield b"".join(_said(6, near(0), bytes((number,))) for number in range(8)) + _said(18, near(0)) + _said(2, near(0))
    yield _said(1, near(-30), near(0), edge(-1), edge((1 << 64) - 1), near(-31), count=2)
    yield _said(1, *7 * (edge(0), edge(1 << 32)), near(-31), count=7)
    yield b"".join(_said(0, b"\1", edge(0), edge(0), name=number) for number in range(100))
    yield b"".join(_said(7, pieces(body)) for body in bodies())


def _said(choice: int, *rest: bytes, name: int = 0, count: int | None = None) -> bytes:
    """A message as `receive` takes it: whose epoch, what, which name, what it says; how long until the next."""
    counted = b"" if count is None else bytes((count,))
    return bytes((0, choice, name)) + counted + b"".join(rest) + b"\x01"
