"""Formats lines of the log for systemd's journal."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TextIO


class JournalFormatter(logging.Formatter):
    """Puts the priority before each line (sd-daemon(3)), and no time: the journal has its own clock."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def log_formatter(stream: TextIO, environment: Mapping[str, str]) -> logging.Formatter:
    """Return the formatter for lines in `stream`: the journal's, if the journal reads the stream (systemd.exec(5))."""
    if journal := environment.get("JOURNAL_STREAM"):
        status = os.fstat(stream.fileno())
        if journal == f"{status.st_dev}:{status.st_ino}":
            return JournalFormatter("%(message)s")
    return logging.Formatter("%(asctime)s %(levelname)s %(message)s")
