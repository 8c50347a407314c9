"""Limits the log to a few lines of one kind a minute, and counts the lines that it leaves out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

BURST: Final = 5  # lines of one kind
WINDOW_S: Final = 60.0
KINDS_MAX: Final = 1000  # kinds by template and words; further records are of one kind by template only
ALWAYS: Final = {"always": True}
"""The `extra` of a line that is never left out."""

Kind = tuple[str, ...]


@dataclass(slots=True)
class _Counted:
    until: float
    count: int
    last: logging.LogRecord


def _after(seconds: float, work: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    timer.start()


class RateLimit(logging.Filter):
    """Passes `BURST` records of each kind in `WINDOW_S`, and then logs the number of the others.

    Records are of one kind if they differ only in numbers: a record that names another node, file, address or error is
    of another kind.  `handler` is the handler that has this filter; `now` (seconds, monotonic) and `after` are the
    clock.
    """

    def __init__(
        self,
        handler: logging.Handler,
        *,
        now: Callable[[], float] = time.monotonic,
        after: Callable[[float, Callable[[], None]], None] = _after,
    ) -> None:
        super().__init__()
        self._handler = handler
        self._now = now
        self._after = after
        self._counted: dict[Kind, _Counted] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be written."""
        if getattr(record, "always", False):
            return True
        with self._lock:
            now = self._now()
            kind = self._kind_of(record)
            counted = self._counted.get(kind)
            if counted is None:
                if not self._counted:
                    self._after(WINDOW_S, self._end_windows)
                counted = self._counted[kind] = _Counted(now + WINDOW_S, 0, record)
            counted.count += 1
            counted.last = record
            return counted.count <= BURST

    def _kind_of(self, record: logging.LogRecord) -> Kind:
        template = (record.name, record.levelname, str(record.msg))
        kind = template + tuple(map(_word, record.args if isinstance(record.args, tuple) else ()))
        if record.exc_info:
            kind += (repr(record.exc_info[1]),)
        return kind if kind in self._counted or len(self._counted) < KINDS_MAX else template

    def _end_windows(self) -> None:
        """Log the counts of the kinds whose window is over, and call this again at the end of the next one."""
        with self._lock:
            now = self._now()
            over = [kind for kind, counted in self._counted.items() if counted.until <= now]
            done = [self._counted.pop(kind) for kind in over]
            if self._counted:
                self._after(min(counted.until for counted in self._counted.values()) - now, self._end_windows)
        for counted in done:
            if counted.count > BURST:
                self._write(_summary(counted.last, counted.count - BURST))

    def _write(self, record: logging.LogRecord) -> None:
        """Write a record without this filter, from any thread."""
        with self._handler.lock or nullcontext():
            self._handler.emit(record)


def _word(argument: Any) -> str:
    return "" if isinstance(argument, int | float) else str(argument)


def _summary(last: logging.LogRecord, left_out: int) -> logging.LogRecord:
    text = "%d more like this were left out in %d s; the last: %s"
    return logging.LogRecord(
        last.name, last.levelno, last.pathname, last.lineno, text, (left_out, WINDOW_S, last.getMessage()), None
    )
