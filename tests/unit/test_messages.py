import sys
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ftfw import __version__
from ftfw.replication import messages
from ftfw.replication.bucket_digests import Scope
from ftfw.replication.limits import UNPACKED_MAX
from ftfw.replication.messages import Ack, BodyError, Heartbeat, Packer, Resync, Stream, Want
from ftfw.security.freshness_messages import CHALLENGE, RESPONSE

sequences = st.integers(0, (1 << 64) - 1)


@given(st.text(max_size=20), st.sampled_from(("active", "backup")), sequences, sequences)
def test_heartbeats(name: str, role: str, sequence: int, oldest: int) -> None:
    sequence, oldest = max(sequence, oldest), min(sequence, oldest)
    found = messages.unpack(messages.heartbeat(name, role, sequence, oldest))
    assert found == Heartbeat(
        name=name, role=role, byte_order=sys.byteorder, sequence=sequence, oldest=oldest, version=__version__
    )


@given(
    st.text(max_size=20),
    st.binary(max_size=32),
    sequences,
    st.lists(st.tuples(sequences, sequences), max_size=5),
    st.booleans(),
)
def test_what_backups_say(name: str, epoch: bytes, sequence: int, missing: list[tuple[int, int]], synced: bool) -> None:
    found = messages.unpack(messages.ack(name, epoch, sequence, missing, 1400, synced=synced))
    assert found == Ack(name=name, epoch=epoch, sequence=sequence, missing=missing, synced=synced)
    asked = messages.unpack(messages.resync(name, epoch, sequence, compare=synced))
    assert asked == Resync(name=name, epoch=epoch, sequence=sequence, compare=synced)


@pytest.mark.parametrize("compress", [True, False])
@given(batch=st.lists(st.binary(max_size=300) | st.just(b"a" * 196), max_size=120), limit=st.integers(200, 1500))
def test_blobs_lose_nothing_and_fit(compress: bool, batch: list[bytes], limit: int) -> None:
    packer = Packer(limit=limit, compress=compress)
    found: list[bytes] = []
    for codec, blob in packer.blobs([batch]):
        body = messages.stream(messages.EVENTS, (1 << 64) - 1, codec, blob)
        stream = messages.unpack(body)
        assert isinstance(stream, Stream)
        [part] = stream.parts
        assert isinstance(part, list)
        assert len(body) <= limit or len(part) == 1
        assert part
        found += part
    assert found == batch


def test_a_packer_stays_within_its_limit_when_messages_suddenly_compress_worse() -> None:
    packer = Packer(limit=1400, compress=True)
    alike = [b"a" * 196] * 2000
    different = [bytes((i * j * 7919 + j * j) % 251 for j in range(196)) for i in range(500)]
    for batch in (alike, different, alike, different):
        blobs = packer.blobs([batch])
        assert all(len(blob) + messages.FRAMING <= 1400 for _, blob in blobs)
    assert len(packer.blobs([alike])) < 40  # and it learns


def test_no_messages_need_no_frame() -> None:
    assert Packer(limit=1400, compress=True).blobs([]) == []


def test_a_stream_frame_without_messages_has_an_empty_blob() -> None:
    body = messages.stream(messages.SNAPSHOT_BEGIN, 3, messages.STORED, b"")
    assert messages.unpack(body) == Stream(kind=messages.SNAPSHOT_BEGIN, sequence=3, parts=[])


def reason(body: bytes) -> str:
    with pytest.raises(BodyError) as caught:
        messages.unpack(body)
    return caught.value.reason


def stream_of(blob: bytes, codec: int = messages.STORED) -> bytes:
    return messages.stream(messages.EVENTS, 1, codec, blob)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([99, 1], "unknown_type"),
        ([0], "unknown_type"),
        ([CHALLENGE, b"t" * 8, b"n" * 8], "unknown_type"),
        ([RESPONSE, b"n" * 8], "unknown_type"),
        ([], "malformed"),
        ({}, "malformed"),
        (None, "malformed"),
        ([messages.HEARTBEAT, "fw1"], "malformed"),
        ([messages.HEARTBEAT, "fw1", "active", "little", "7", 1, "1"], "malformed"),
        ([messages.HEARTBEAT, "fw1", "active", "little", 7, 9, "1"], "malformed"),  # nothing is kept that is to come
        ([messages.ACK, "fw1", b"epoch", 1, [], 1], "malformed"),
        ([messages.ACK, "fw1", b"epoch", 1, [3], True], "malformed"),
        ([messages.ACK, "fw1", b"epoch", 1, ["a", 3], True], "malformed"),
        ([messages.RESYNC, b"fw1", b"epoch", 1], "malformed"),
        ([messages.EVENTS, 1, 0, "text"], "malformed"),
        ([messages.WANT, "fw1", b"epoch", 1, 8, b"".join(n.to_bytes(4, "big") for n in range(129))], "malformed"),
        ([messages.EVENTS, 1, 7, b"x"], "unknown_codec"),
    ],
)
def test_bodies_that_are_none_of_ours(fields: Any, expected: str) -> None:
    assert reason(msgpack.packb(fields)) == expected


@pytest.mark.parametrize("blob", [msgpack.packb({}), msgpack.packb([1]), msgpack.packb(["a"]), b"\xc1", b"\x91"])
def test_blobs_that_are_no_messages(blob: bytes) -> None:
    assert reason(stream_of(blob)) == "malformed"


def test_more_than_one_body_in_a_frame_is_malformed() -> None:
    assert reason(messages.resync("fw1", b"e", 1, compare=True) * 2) == "malformed"


def test_what_unpacks_to_more_than_any_frame_can_hold_is_refused() -> None:
    compressor = zstandard.ZstdCompressor()
    bomb = compressor.compress(msgpack.packb([bytes(UNPACKED_MAX)]))
    assert reason(stream_of(bomb, messages.ZSTD)) == "too_long"
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(msgpack.packb([bytes(2 << 20)]))
    assert reason(stream_of(silent, messages.ZSTD)) == "malformed"
    fitting = compressor.compress(msgpack.packb([bytes(UNPACKED_MAX - 10)]))
    found = messages.unpack(stream_of(fitting, messages.ZSTD))
    assert isinstance(found, Stream)


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_any_bytes_are_a_message_or_a_body_error(body: bytes) -> None:
    try:
        found = messages.unpack(body)
    except BodyError as error:
        assert error.reason in ("malformed", "unknown_type", "unknown_codec", "too_long")  # noqa: PT017
    else:
        assert isinstance(found, messages.Message)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 9) | st.text(max_size=4) | st.binary(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.lists(anything, max_size=5), st.integers(1, messages.WANT))
def test_any_fields_are_a_message_or_a_body_error(fields: list[Any], kind: int) -> None:
    try:
        found = messages.unpack(msgpack.packb([kind, *fields]))
    except BodyError as error:
        assert error.reason in ("malformed", "unknown_type", "unknown_codec")  # noqa: PT017
    else:
        assert isinstance(found, messages.Message)


@pytest.mark.parametrize("limit", [468, 1400])
def test_requests_respect_the_limit(limit: int) -> None:
    name, epoch, most = "n" * 64, b"e" * 32, (1 << 64) - 1
    missing = [(most - 2 * n - 1, most - 2 * n) for n in range(100)]
    scope = Scope(20, set(range((1 << 20) - 1000, 1 << 20)))
    bodies = [
        messages.ack(name, epoch, most, missing, limit, synced=True),
        *messages.wants(name, epoch, most, scope, limit),
    ]
    bodies += [messages.stream(messages.SCOPE, most, 0, blob) for blob in messages.scopes(scope, limit)]
    assert max(map(len, bodies)) <= limit
    named = [messages.unpack(body) for body in bodies]
    assert sum(len(found.scope.buckets) for found in named if isinstance(found, Want)) == 1000


ranges = st.lists(
    st.tuples(st.integers(-5, 40), st.integers(-5, 40)) | st.just((-(1 << 63), (1 << 64) - 1)), max_size=9
)


@given(ranges, st.integers(0, 20), st.integers(0, 30))
def test_each_missing_frame_is_named_once_however_often_it_is_asked_for(
    missing: list[tuple[int, int]], first: int, last: int
) -> None:
    found = list(
        Ack(name="fw2", epoch=b"e", sequence=0, missing=sorted(missing), synced=False).missing_within(first, last)
    )
    asked = {n for begin, end in missing for n in range(max(begin, first), min(end, last) + 1)}
    assert found == sorted(asked)


def test_ranges_that_do_not_ascend_make_no_more_work() -> None:
    everything = [(-(1 << 63), (1 << 64) - 1)] * 1000 + [(9, 2)] * 1000
    message = Ack(name="fw2", epoch=b"e", sequence=0, missing=everything, synced=False)
    assert list(message.missing_within(3, 6)) == [3, 4, 5, 6]
