"""Lines of the log as systemd's journal wants them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TextIO


class JournalFormatter(logging.Formatter):
    """Each line with its priority (sd-daemon(3)), none with a time: the journal has its own clock."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def log_formatter(stream: TextIO, environment: Mapping[str, str]) -> logging.Formatter:
    """What lines in `stream` are to look like: the journal's, if it reads the stream (systemd.exec(5))."""
    if journal := environment.get("JOURNAL_STREAM"):
        status = os.fstat(stream.fileno())
        if journal == f"{status.st_dev}:{status.st_ino}":
            return JournalFormatter("%(message)s")
    return logging.Formatter("%(asctime)s %(levelname)s %(message)s")
