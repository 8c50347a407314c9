"""What a check finds, and what it has to go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ftfw.cli.check.ruleset import Ruleset
from ftfw.config.schema import Config


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report. The remedy is empty if there is nothing to be done."""

    level: Level
    subject: str
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Give the finding as JSON has it."""
        return {"level": self.level, "subject": self.subject, "found": self.found, "remedy": self.remedy}


@dataclass(frozen=True, kw_only=True)
class Context:
    """What was gathered before the checks run; what could not be had is None, and `why_no_...` says why."""

    config_path: Path
    config: Config | None = None
    why_no_config: str = ""
    status: dict[str, Any] | None = None
    why_no_status: str = ""
    hangs: bool = False  # the daemon is there, and does not answer
    ruleset: Ruleset | None = None
    why_no_ruleset: str = ""


Check = Callable[[Context], Iterator[Finding]]


def ok(subject: str, found: str, remedy: str = "") -> Finding:
    """Say that all is well, or what is merely worth a note."""
    return Finding(level=Level.OK, subject=subject, found=found, remedy=remedy)


def warning(subject: str, found: str, remedy: str) -> Finding:
    """Say what works, but not as well as it should, or not for all flows."""
    return Finding(level=Level.WARNING, subject=subject, found=found, remedy=remedy)


def problem(subject: str, found: str, remedy: str) -> Finding:
    """Say what makes replication or a takeover fail."""
    return Finding(level=Level.PROBLEM, subject=subject, found=found, remedy=remedy)
