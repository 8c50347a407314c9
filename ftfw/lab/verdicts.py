"""Judges flows: finds, from the times at which a flow received data, if it survived and how long it was silent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """Names the result of one flow at one takeover."""

    SURVIVED = "survived"
    LOST = "lost"
    UNTRIED = "untried"
    """The flow was lost before, or never worked."""


def longest_silence(heard: Iterable[float], cut: float) -> float | None:
    """Return the longest silence in seconds after the cut, including the first one; None if nothing came after the cut.

    `heard` and `cut` are seconds on one monotonic clock.
    """
    longest, last = None, cut
    for moment in heard:
        if moment > cut:
            longest = max(longest or 0.0, moment - last)
            last = moment
    return longest


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Holds verdict, pause in seconds and reason of one flow at one takeover."""

    verdict: Verdict
    pause_s: float | None = None
    reason: str = ""


UNTRIED = Outcome(verdict=Verdict.UNTRIED)


@dataclass(kw_only=True)
class Row:
    """Holds the outcomes of one flow at all takeovers of a run."""

    name: str
    title: str
    takeovers: int
    broken: str = ""
    """The reason if the flow failed outside of the takeovers; a flow that never worked is a fault of the lab."""
    outcomes: list[Outcome] = field(default_factory=list)

    def outcome(self, number: int) -> Outcome:
        """Return the outcome at the takeover of that number, counted from 0."""
        return self.outcomes[number] if number < len(self.outcomes) else UNTRIED

    @property
    def living(self) -> bool:
        """Return whether the flow has survived so far."""
        return not self.broken and all(outcome.verdict is Verdict.SURVIVED for outcome in self.outcomes)

    @property
    def survived(self) -> bool:
        """Return whether the flow survived every takeover."""
        return self.living and len(self.outcomes) == self.takeovers

    @property
    def settled(self) -> bool:
        """Return whether the result of the flow is final."""
        return not self.living or len(self.outcomes) == self.takeovers

    @property
    def reason(self) -> str:
        """Return why the flow was lost, with the number of the takeover; empty if it was not."""
        if self.broken:
            return self.broken
        for number, outcome in enumerate(self.outcomes, 1):
            if outcome.verdict is Verdict.LOST:
                return f"takeover {number}: {outcome.reason}"
        return ""


def lost(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the flows that did not survive every takeover."""
    return [row for row in rows if not row.survived]
