"""What keepalived says, and what follows from it for the role.  Pure: bytes and time are arguments.

Its notifications are levels, not edges: what counts is what was last said of each instance and sync group.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from ftfw.control.notification_words import MASTER, STATES
from ftfw.daemon.roles.role_table import Event

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

LINE_MAX: Final = 1024  # bytes; keepalived's lines are as long as a name
DISAGREEMENT_S: Final = 1.0  # for which role and addresses may differ: takeovers take a while
SILENT_S: Final = 30.0  # for which nobody may have the FIFO open: keepalived is restarted, or a host boots, in less
ADOPTION_S: Final = 3.0  # for which all addresses are on a backup, and no active is heard, before it becomes active

_LINE = re.compile(r'(INSTANCE|GROUP) (?:"(.*)"|(\S+)) ([A-Z_]+)(?: -?\d+)?')

Subject = tuple[str, str]
"""INSTANCE or GROUP, and its name: an instance and a group may have the same."""


class Notification(NamedTuple):
    """An instance or a group is in one of STATES."""

    subject: Subject
    state: str


class Fifo:
    """Cuts what comes out of keepalived's FIFO into notifications."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._rest = b""
        self._overlong = False  # the line's beginning was dropped

    def take(self, data: bytes) -> Iterator[Notification]:
        """The notifications that are complete with `data`, in their order; the rest of it waits for its line's end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._overlong or len(line) > LINE_MAX:
                self.dropped["line_too_long"] += 1
                self._overlong = False
            elif found := self._read(line.decode(errors="replace")):
                yield found
        if len(self._rest) > LINE_MAX:
            self._rest, self._overlong = b"", True

    def cut_off(self) -> None:
        """The FIFO is another one from here on: the end of a line that was begun will not come."""
        if self._rest or self._overlong:
            self.dropped["line_cut_off"] += 1
        self._rest, self._overlong = b"", False

    def _read(self, line: str) -> Notification | None:
        match = _LINE.fullmatch(line.strip())
        if match is None:
            self.dropped["no_notification"] += 1
            return None
        kind, quoted, bare, state = match.groups()
        if state not in STATES:
            self.dropped["no_state"] += 1  # MASTER_RX_LOWER_PRI, MASTER_PRIORITY, BACKUP_PRIORITY
            return None
        return Notification((kind, bare if quoted is None else quoted), state)


class Writer:
    """Whether keepalived has the FIFO open: one that had none to open when it started says nothing until a reload."""

    def __init__(self) -> None:
        self.there: bool | None = None
        self.missed = False  # not there for SILENT_S
        self._gone_since: float | None = None

    def look(self, *, there: bool, now: float) -> bool:
        """Take in whether anybody has it open for writing; whether there is news in `missed`."""
        self.there = there
        if there:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = now
        before = self.missed
        self.missed = self._gone_since is not None and now - self._gone_since >= SILENT_S
        return self.missed != before


class Instances:
    """What was last said of each instance and group, and the role that follows from it.

    Where `names` are given they alone count, each of them; without, all that was ever heard of. Until one of `names` is
    heard of, it is taken to be in the first role: keepalived does not repeat itself for a daemon that starts.
    """

    def __init__(self, names: Iterable[str], role: str) -> None:
        self.states: dict[Subject, str] = {}
        self.dropped: Counter[str] = Counter()
        self._names = frozenset(names)
        self._taken_for_master = set(self._names) if role == "active" else set()
        self._over_fifo: set[Subject] = set()
        self._by_hook: dict[Subject, int] = {}  # the last one that counted

    def hear(self, notification: Notification, hook: int | None = None) -> Event | None:
        """Take in what keepalived says; what follows from all that it said, or None if this does not count.

        `hook` is None for what the FIFO says, else a number that is higher for what came later. Hook scripts run
        concurrently, and one may be late: on what the FIFO tells of they have no say.
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
        self._taken_for_master.discard(subject[1])
        if state == "DELETED":
            self.states.pop(subject, None)
        else:
            self.states[subject] = state
        return Event.PROMOTE if self._all_master() else Event.DEMOTE

    def take_for_master(self) -> None:
        """Take all names to be MASTER until they are heard of: the first one does not speak for the others."""
        self._taken_for_master = set(self._names)

    def _all_master(self) -> bool:
        there = {name for _, name in self.states} | self._taken_for_master
        return bool(there) and self._names <= there and set(self.states.values()) <= {MASTER}


class Truth:
    """Holds the role against where the virtual addresses are."""

    def __init__(self, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
        self._addresses = {address.packed: str(address) for address in addresses}
        self._here: list[str] = []
        self._differs_since: float | None = None
        self._left_since: float | None = None  # all addresses on a backup
        self.disagreement: str | None = None

    @property
    def here(self) -> list[str]:
        """The virtual addresses that this host has."""
        return self._here

    @property
    def whole(self) -> bool:
        """Whether this host has all virtual addresses, and there are any."""
        return bool(self._here) and len(self._here) == len(self._addresses)

    def learn(self, own: frozenset[bytes]) -> None:
        """Take in all addresses of this host, packed."""
        self._here = [text for packed, text in self._addresses.items() if packed in own]

    def look(self, role: str | None, now: float) -> bool:
        """Compare; whether there is news in `disagreement`.  Without a role, while it changes, none is begun."""
        found = self._difference(role) if role is not None else None
        if found is None:
            self._differs_since = None
        elif self._differs_since is None:
            self._differs_since = now
        lasts = self._differs_since is not None and now - self._differs_since >= DISAGREEMENT_S
        before, self.disagreement = self.disagreement, found if lasts else None
        return self.disagreement != before

    def lasts(self, role: str | None, now: float) -> bool:
        """Whether all virtual addresses have been on a backup for ADOPTION_S; to be asked at each look."""
        if role != "backup" or not self.whole:
            self._left_since = None
        elif self._left_since is None:
            self._left_since = now
        return self._left_since is not None and now - self._left_since >= ADOPTION_S

    def _difference(self, role: str) -> str | None:
        missing = [text for text in self._addresses.values() if text not in self._here]
        if role == "active" and missing:
            return f"this node is active without {', '.join(missing)}"
        if role == "backup" and self._here:
            return f"this node is backup, and {', '.join(self._here)} is here"
        return None
