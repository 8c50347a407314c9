"""Frames that wait, against a plain dictionary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.replication import limits, messages
from ftfw.replication.messages import Stream
from ftfw.replication.waiting_frames import WaitingFrames


def frame(number: int) -> Stream:
    found = messages.unpack(messages.stream(messages.LOST, number, messages.STORED, b""))
    assert isinstance(found, Stream)
    return found


def filled(numbers: set[int]) -> WaitingFrames:
    made = WaitingFrames()
    for number in numbers:
        made.add(frame(number))
    return made


@given(st.sets(st.integers(1, 40)), st.integers(0, 40), st.integers(0, 45))
def test_what_is_missing_is_what_does_not_wait(numbers: set[int], applied: int, known: int) -> None:
    made = filled({number for number in numbers if number > applied})
    ranges = list(made.missing(applied, max(known, applied, *numbers, 0)))
    found = [number for first, last in ranges for number in range(first, last + 1)]
    assert found == [n for n in range(applied + 1, max(known, applied, *numbers, 0) + 1) if n not in made]
    first = made.first_missing(applied)
    assert first not in made
    assert all(number in made for number in range(applied + 1, first))


@given(st.sets(st.integers(1, 40), min_size=1), st.integers(0, 45))
def test_frames_leave_in_the_order_of_their_numbers(numbers: set[int], through: int) -> None:
    made = filled(numbers)
    assert (len(made), made.first) == (len(numbers), min(numbers))
    made.drop_through(through)
    left = sorted(number for number in numbers if number > through)
    if left:
        assert made.get(left[0]) is not None
        assert made.pop(left[0]).sequence == left.pop(0)
    assert [each.sequence for each in made.pop_all()] == left
    assert (len(made), made.memory, made.get(1)) == (0, 0, None)


def test_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled({1, 2, 3})
    bounds = [(3, made.memory), (2, made.memory), (3, made.memory - 1)]
    found = []
    for frames, size in bounds:
        monkeypatch.setattr(limits, "WAITING_FRAMES", frames)
        monkeypatch.setattr(limits, "WAITING_BYTES", size)
        found.append(made.too_many)
    assert found == [False, True, True]
