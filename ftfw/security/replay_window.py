"""Keeps the replay window of one sender's epoch (for the purpose, see RFC 6479).  Pure."""

from ftfw.security.security_limits import WINDOW_COUNTERS

_MASK = (1 << WINDOW_COUNTERS) - 1


class ReplayWindow:
    """Remembers the counters that were accepted, so that each is accepted once."""

    def __init__(self) -> None:
        self.highest = -1  # of all counters that were accepted
        self._seen = 0  # bit n: highest - n was accepted

    @classmethod
    def behind(cls, counter: int) -> "ReplayWindow":
        """Return a window in which only counters above this one are fresh."""
        window = cls()
        window.highest, window._seen = counter, _MASK
        return window

    def is_fresh(self, counter: int) -> bool:
        """Return True if `counter` was not accepted before and is not older than the window."""
        behind = self.highest - counter
        return behind < 0 or (behind < WINDOW_COUNTERS and not self._seen >> behind & 1)

    def accept(self, counter: int) -> None:
        """Remember the counter of an authentic frame, which must be fresh."""
        ahead = counter - self.highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < WINDOW_COUNTERS else 1
            self.highest = counter
        else:
            self._seen |= 1 << -ahead
