"""The replay window: which counters of one sender's epoch have been accepted already.  Pure (RFC 6479's purpose)."""

from ftfw.security.security_limits import WINDOW_COUNTERS

_MASK = (1 << WINDOW_COUNTERS) - 1


class ReplayWindow:
    """Counters accepted once each."""

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0  # bit n: highest - n was accepted

    def is_fresh(self, counter: int) -> bool:
        """Whether `counter` was not accepted before and is not too old to know."""
        behind = self._highest - counter
        return behind < 0 or (behind < WINDOW_COUNTERS and not self._seen >> behind & 1)

    def accept(self, counter: int) -> None:
        """Remember an authentic counter that `is_fresh`."""
        ahead = counter - self._highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < WINDOW_COUNTERS else 1
            self._highest = counter
        else:
            self._seen |= 1 << -ahead
