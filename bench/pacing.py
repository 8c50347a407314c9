"""When to send how much: the arithmetic of an even pace, without a clock of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """`rate` events per second, released in slices of `slice_s`, never more than `burst` in one of them.

    A sender that was kept from running catches up in bursts of that size at most, so that a hiccup of the
    machine does not become a load that nobody asked for. What it cannot catch up shows in the rate reported.
    """

    rate: float
    slice_s: float = 0.002
    burst_slices: int = 8

    @property
    def burst(self) -> int:
        """The most that one slice may release, at least 1."""
        return max(1, round(self.rate * self.slice_s * self.burst_slices))

    def due(self, elapsed_s: float, sent: int, total: int) -> int:
        """How many to send now, `elapsed_s` seconds after the start, when `sent` of `total` are out."""
        owed = int(self.rate * elapsed_s) - sent
        return max(0, min(owed, self.burst, total - sent))

    def pause(self, elapsed_s: float) -> float:
        """Seconds from now to the end of the running slice; always more than 0."""
        return self.slice_s - elapsed_s % self.slice_s
