"""Derives the wanted role from keepalived's notifications.  Pure.

A notification is a level, not an edge: only the last state of each instance and sync group counts.
"""

from collections import Counter
from collections.abc import Iterable

from ftfw.control.notification_words import MASTER
from ftfw.daemon.roles.keepalived_fifo import Notification, Subject
from ftfw.daemon.roles.role_table import RoleEvent


class VrrpStates:
    """Holds the last state of each instance and sync group, and derives the wanted role from all of them.

    If `names` are given, exactly these count; otherwise every instance and group that was ever notified. Until one of
    `names` is notified, its state is derived from the first role: keepalived does not repeat its states for a daemon
    that starts.
    """

    def __init__(self, names: Iterable[str], role: str) -> None:
        self.states: dict[Subject, str] = {}
        self.dropped: Counter[str] = Counter()
        self._names = frozenset(names)
        self._assumed_master = set(self._names) if role == "active" else set()
        self._over_fifo: set[Subject] = set()
        self._by_hook: dict[Subject, int] = {}  # the number of the last hook that counted, by subject

    def record(self, notification: Notification, hook: int | None = None) -> RoleEvent | None:
        """Record a notification; return the role that all states together want, or None if it does not count.

        `hook` is None for a notification from the FIFO, else a number that is higher for a later hook. Hook scripts run
        concurrently, and one may be late: where the FIFO notifies, a hook does not count.
        """
        subject, state = notification
        if self._names and subject[1] not in self._names:
            self.dropped["not_listed"] += 1
            return None
        if hook is None:
            self._over_fifo.add(subject)
        elif subject in self._over_fifo:
            self.dropped["hook_overruled"] += 1
            return None
        elif hook < self._by_hook.get(subject, 0):
            self.dropped["hook_overtaken"] += 1
            return None
        else:
            self._by_hook[subject] = hook
        self._assumed_master.discard(subject[1])
        if state == "DELETED":
            self.states.pop(subject, None)
        else:
            self.states[subject] = state
        return RoleEvent.PROMOTE if self._all_master() else RoleEvent.DEMOTE

    def assume_master(self) -> None:
        """Assume that all names are MASTER until they are notified, so that the first one does not decide alone."""
        self._assumed_master = set(self._names)

    def _all_master(self) -> bool:
        there = {name for _, name in self.states} | self._assumed_master
        return bool(there) and self._names <= there and set(self.states.values()) <= {MASTER}
