"""Frames of a stream that came too early, by number.  Pure."""

from collections.abc import Iterator
from itertools import pairwise

from ftfw.replication import limits
from ftfw.replication.messages import Stream


class WaitingFrames:
    """Holds the frames that wait behind a gap, or for work that they build on."""

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
        """Bytes that the frames take, about."""
        return self._bytes

    @property
    def too_many(self) -> bool:
        """True if more frames wait, or larger ones, than `limits` allows."""
        return len(self._frames) > limits.WAITING_FRAMES or self._bytes > limits.WAITING_BYTES

    @property
    def first(self) -> int:
        """The lowest number.  Raises ValueError if no frame waits."""
        return min(self._frames)

    def add(self, frame: Stream) -> None:
        """Let a frame wait whose number does not wait yet."""
        self._frames[frame.sequence] = frame
        self._bytes += frame.memory

    def get(self, number: int) -> Stream | None:
        """Return the frame of this number, which goes on waiting; None if it does not wait."""
        return self._frames.get(number)

    def pop(self, number: int) -> Stream:
        """Return the frame of this number, which waits no more."""
        frame = self._frames.pop(number)
        self._bytes -= frame.memory
        return frame

    def pop_all(self) -> list[Stream]:
        """Return all frames in the order of their numbers; none of them waits any more."""
        return [self.pop(number) for number in sorted(self._frames)]

    def drop_through(self, number: int) -> None:
        """Forget all frames up to this number."""
        for waiting in [waiting for waiting in self._frames if waiting <= number]:
            self.pop(waiting)

    def first_missing(self, applied: int) -> int:
        """Return the lowest number behind `applied` of which the frame does not wait."""
        number = applied + 1
        while number in self._frames:
            number += 1
        return number

    def missing(self, applied: int, known: int) -> Iterator[tuple[int, int]]:
        """Generate the ranges, first and last number, that are missing behind `applied` up to and with `known`."""
        if known > applied:
            for before, behind in pairwise([applied, *sorted(self._frames), known + 1]):
                if behind > before + 1:
                    yield before + 1, behind - 1
