"""Keeps the frames of a stream that cannot be applied yet, by number.  Pure."""

from collections.abc import Iterator
from itertools import pairwise

from ftfw.replication import limits
from ftfw.replication.messages import Stream


class WaitingFrames:
    """Holds the frames that wait for missing frames before them, or for unfinished work on the store."""

    def __init__(self) -> None:
        self._frames: dict[int, Stream] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Return how many frames wait."""
        return len(self._frames)

    def __contains__(self, number: int) -> bool:
        """Return True if the frame of this number waits."""
        return number in self._frames

    @property
    def memory(self) -> int:
        """Return about how many bytes of memory the frames need."""
        return self._bytes

    @property
    def too_many(self) -> bool:
        """Return True if the frames exceed WAITING_FRAMES or WAITING_BYTES."""
        return len(self._frames) > limits.WAITING_FRAMES or self._bytes > limits.WAITING_BYTES

    @property
    def first(self) -> int:
        """Return the lowest number.  Raises ValueError if no frame waits."""
        return min(self._frames)

    def add(self, frame: Stream) -> None:
        """Add a frame; no frame of its number may wait already."""
        self._frames[frame.sequence] = frame
        self._bytes += frame.memory

    def get(self, number: int) -> Stream | None:
        """Return the frame of this number, and keep it; None if there is none."""
        return self._frames.get(number)

    def pop(self, number: int) -> Stream:
        """Remove and return the frame of this number.  Raises KeyError if there is none."""
        frame = self._frames.pop(number)
        self._bytes -= frame.memory
        return frame

    def pop_all(self) -> list[Stream]:
        """Remove and return all frames in the order of their numbers."""
        return [self.pop(number) for number in sorted(self._frames)]

    def drop_through(self, number: int) -> None:
        """Remove all frames up to and including this number."""
        for waiting in [waiting for waiting in self._frames if waiting <= number]:
            self.pop(waiting)

    def first_missing(self, applied: int) -> int:
        """Return the lowest number above `applied` whose frame does not wait."""
        number = applied + 1
        while number in self._frames:
            number += 1
        return number

    def missing(self, applied: int, known: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges (first and last number) that are missing above `applied`, up to and including `known`."""
        if known > applied:
            for before, behind in pairwise([applied, *sorted(self._frames), known + 1]):
                if behind > before + 1:
                    yield before + 1, behind - 1
