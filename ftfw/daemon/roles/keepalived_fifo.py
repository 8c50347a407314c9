"""Reads keepalived's FIFO: cuts its bytes into notifications, and notices when nobody writes to it.  Pure."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from ftfw.control.notification_words import STATES

LINE_MAX_BYTES: Final = 1024  # keepalived's lines are as long as a name
WRITER_MISSED_S: Final = 30.0  # time without a writer; a restart of keepalived and the boot of a host take less

_LINE: Final = re.compile(r'(INSTANCE|GROUP) (?:"(.*)"|(\S+)) ([A-Z_]+)(?: -?\d+)?')

Subject = tuple[str, str]
"""INSTANCE or GROUP, and the name; an instance and a group may have the same name."""


class Notification(NamedTuple):
    """Reports that an instance or a group is in one of STATES."""

    subject: Subject
    state: str


class NotificationParser:
    """Cuts the bytes that come out of keepalived's FIFO into notifications."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._rest = b""
        self._overlong = False  # the beginning of the line was dropped

    def feed(self, data: bytes) -> Iterator[Notification]:
        """Yield the notifications that `data` completes; an unfinished line is kept, at most LINE_MAX_BYTES of it."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._overlong or len(line) > LINE_MAX_BYTES:
                self.dropped["line_too_long"] += 1
                self._overlong = False
            elif found := self._read(line.decode(errors="replace")):
                yield found
        if len(self._rest) > LINE_MAX_BYTES:
            self._rest, self._overlong = b"", True

    def cut_off(self) -> None:
        """Drop an unfinished line: the next bytes are of another FIFO."""
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


class FifoWriterWatch:
    """Watches whether keepalived has the FIFO open: a FIFO that was missing at its start, it opens at a reload only."""

    def __init__(self) -> None:
        self.present: bool | None = None  # a process has the FIFO open for writing; None before the first check
        self.missed = False  # no process has had it open for WRITER_MISSED_S
        self._absent_since: float | None = None

    def update(self, *, present: bool, now: float) -> bool:
        """Record whether there is a writer, at `now` (seconds, monotonic); return whether `missed` has changed."""
        self.present = present
        if present:
            self._absent_since = None
        elif self._absent_since is None:
            self._absent_since = now
        before = self.missed
        self.missed = self._absent_since is not None and now - self._absent_since >= WRITER_MISSED_S
        return self.missed != before
