import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.pacing import Pace

PACE = Pace(rate=30_000, slice_s=0.0001, burst_slices=8)


def test_a_sender_that_keeps_up_sends_what_the_clock_says() -> None:
    sent = 0
    for slice_number in range(1, 1001):
        sent += PACE.due(slice_number * 0.0001, sent, 10_000)
    assert sent == pytest.approx(3000, abs=1)


def test_a_sender_that_was_held_up_catches_up_in_bounded_bursts() -> None:
    assert PACE.burst == 24
    assert PACE.due(1.0, 0, 100_000) == 24


def test_nothing_is_due_twice_and_nothing_beyond_the_total() -> None:
    assert PACE.due(0.0, 0, 10) == 0
    assert PACE.due(0.001, 30, 1000) == 0
    assert PACE.due(0.001, 5, 6) == 1


def test_a_slow_pace_still_sends() -> None:
    slow = Pace(rate=1, slice_s=0.0001)
    assert slow.burst == 1
    assert slow.due(1.0, 0, 5) == 1


@given(elapsed=st.floats(0, 1000))
def test_a_pause_ends_with_the_slice(elapsed: float) -> None:
    assert 0 < PACE.pause(elapsed) <= PACE.slice_s


@given(elapsed=st.floats(0, 1000), sent=st.integers(0, 10_000), total=st.integers(0, 10_000))
def test_what_is_due_is_never_negative_and_never_more_than_is_left(elapsed: float, sent: int, total: int) -> None:
    due = PACE.due(elapsed, sent, total)
    assert 0 <= due <= max(0, total - sent)
