"""The arithmetic of an even rate: how many packets are due at a time, without a clock of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Releases `rate` events per second in slices of `slice_s` seconds, at most `burst` in one slice.

    A sender that could not run for a while catches up in bursts of at most that size, so that a pause of the machine
    does not become a load far above the rate. The reported rate shows what it could not catch up.
    """

    rate: float
    slice_s: float = 0.002
    burst_slices: int = 8

    @property
    def burst(self) -> int:
        """Return the greatest number of events in one slice, at least 1."""
        return max(1, round(self.rate * self.slice_s * self.burst_slices))

    def due(self, elapsed_s: float, sent: int, total: int) -> int:
        """Return how many events are due `elapsed_s` seconds after the start, when `sent` of `total` have been sent."""
        owed = int(self.rate * elapsed_s) - sent
        return max(0, min(owed, self.burst, total - sent))

    def pause(self, elapsed_s: float) -> float:
        """Return the seconds until the end of the current slice; always more than 0."""
        return self.slice_s - elapsed_s % self.slice_s
