"""Judgement: from what a flow heard, and when, to survived or not and for how long it stood still."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a flow at one takeover."""

    SURVIVED = "survived"
    LOST = "lost"
    UNTRIED = "untried"
    """It was lost before, or never worked."""


def pause(heard: Iterable[float], cut: float) -> float | None:
    """Return the longest silence after the cut, counted from the cut itself; None if nothing came since."""
    longest, last = None, cut
    for moment in heard:
        if moment > cut:
            longest = max(longest or 0.0, moment - last)
            last = moment
    return longest


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One flow at one takeover."""

    verdict: Verdict
    pause_s: float | None = None
    reason: str = ""


UNTRIED = Outcome(verdict=Verdict.UNTRIED)


@dataclass(kw_only=True)
class Row:
    """One flow through the whole run."""

    name: str
    title: str
    takeovers: int
    broken: str = ""
    """Why it did not work even before the first takeover: a fault of the lab, not of the daemon."""
    outcomes: list[Outcome] = field(default_factory=list)

    def outcome(self, number: int) -> Outcome:
        """Return the outcome at a takeover, counted from 0."""
        return self.outcomes[number] if number < len(self.outcomes) else UNTRIED

    @property
    def living(self) -> bool:
        """Whether it is still worth trying."""
        return not self.broken and all(outcome.verdict is Verdict.SURVIVED for outcome in self.outcomes)

    @property
    def survived(self) -> bool:
        """Whether it came through every takeover."""
        return self.living and len(self.outcomes) == self.takeovers

    @property
    def settled(self) -> bool:
        """Whether nothing more will be learned about it."""
        return not self.living or len(self.outcomes) == self.takeovers

    @property
    def reason(self) -> str:
        """Why it was lost, and when."""
        if self.broken:
            return f"never worked: {self.broken}"
        for number, outcome in enumerate(self.outcomes, 1):
            if outcome.verdict is Verdict.LOST:
                return f"takeover {number}: {outcome.reason}"
        return ""


def lost(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that did not come through."""
    return [row for row in rows if not row.survived]
