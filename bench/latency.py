"""How far one count runs behind another: the delay of each event, from two tables watched side by side."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

INTERVAL_S = 0.0005


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Both counts at one time (monotonic seconds); the leading one is read before the following one."""

    at_s: float
    leading: int
    following: int


def delay(samples: Sequence[Sample], quantile: float) -> float:
    """Bound from above the delay in seconds that a share `quantile` of all entries stays within.

    The entry that made the leading count reach n is taken to have come at the last sample that saw less
    than n, and to be held from the first that saw n on the following side. Entries never held do not count.
    """
    delays: list[tuple[float, int]] = []  # delay, how many entries
    before = 0  # the last sample without the entry in question on the leading side
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
    """Return the least value that a share `quantile` of the weight does not exceed; 0 for nothing."""
    wanted = quantile * sum(weight for _, weight in weighted)
    reached = 0
    for value, weight in sorted(weighted):
        reached += weight
        if reached >= wanted:
            return value
    return 0.0


class Watch:
    """Reads two counts all the time, in a thread, within a `with` block; `samples` has them then."""

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
