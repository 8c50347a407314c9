import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.link.framing import FRAME_MAX_BYTES, FramingError, Splitter, framed
from ftfw.security.frames import OVERHEAD

FRAMES = st.lists(st.binary(min_size=OVERHEAD, max_size=OVERHEAD + 60), max_size=8)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [stream[first:last] for first, last in pairwise(ends)]


@given(FRAMES, st.lists(st.integers(0, 1200), max_size=40))
def test_frames_come_out_however_the_stream_is_cut(frames: list[bytes], cuts: list[int]) -> None:
    splitter = Splitter()
    fed = [frame for piece in pieces(b"".join(map(framed, frames)), cuts) for frame in splitter.feed(piece)]
    assert fed == frames


@given(FRAMES)
def test_frames_come_out_byte_by_byte(frames: list[bytes]) -> None:
    splitter = Splitter()
    assert [f for byte in b"".join(map(framed, frames)) for f in splitter.feed(bytes([byte]))] == frames


def test_the_longest_frame_fits() -> None:
    longest = bytes(FRAME_MAX_BYTES)
    assert Splitter().feed(framed(longest)) == [longest]


@pytest.mark.parametrize("length", [0, OVERHEAD - 1, FRAME_MAX_BYTES + 1, 0xFFFFFFFF])
def test_a_length_that_no_frame_has_ends_the_stream_at_once(length: int) -> None:
    with pytest.raises(FramingError, match=str(length)):
        Splitter().feed(struct.pack(">I", length))


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_stream_gives_frames_or_ends(stream: list[bytes]) -> None:
    splitter = Splitter()
    try:
        fed = [frame for piece in stream for frame in splitter.feed(piece)]
    except FramingError:
        return
    assert all(OVERHEAD <= len(frame) <= FRAME_MAX_BYTES for frame in fed)
