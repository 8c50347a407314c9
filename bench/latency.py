"""The delay of each event, from the numbers of entries in two tables that are read side by side."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

INTERVAL_S = 0.0005


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Holds both counts at one time (seconds, monotonic); the leading one is read before the following one."""

    at_s: float
    leading: int
    following: int


def delay(samples: Sequence[Sample], quantile: float) -> float:
    """Return an upper bound in seconds of the delay of a share `quantile` of all entries.

    The entry that makes the leading count reach n counts as made at the last sample with a smaller leading count, and
    as held at the first sample whose following count has reached n. Entries that are never held do not count.
    """
    delays: list[tuple[float, int]] = []  # delay in seconds, number of entries
    before = 0  # index of the last sample whose leading count lacks the entry
    entry = samples[0].following + 1
    for sample in samples:
        while entry <= sample.following:
            while samples[before + 1].leading < entry:
                before += 1
            together = min(sample.following, samples[before + 1].leading)
            delays.append((sample.at_s - samples[before].at_s, together - entry + 1))
            entry = together + 1
    return weighted_quantile(delays, quantile)


def weighted_quantile(weighted: Sequence[tuple[float, int]], quantile: float) -> float:
    """Return the least value that a share `quantile` of the weight does not exceed; 0 if there is no value."""
    wanted = quantile * sum(weight for _, weight in weighted)
    reached = 0
    for value, weight in sorted(weighted):
        reached += weight
        if reached >= wanted:
            return value
    return 0.0


class Watch:
    """Reads two counts again and again in a thread during a `with` block, and collects them in `samples`."""

    def __init__(self, leading: Callable[[], int], following: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self._leading = leading
        self._following = following
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            leading = self._leading()
            following = self._following()
            self.samples.append(Sample(at_s=time.monotonic(), leading=leading, following=following))
            time.sleep(INTERVAL_S)
