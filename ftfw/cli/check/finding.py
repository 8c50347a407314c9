"""Defines the input and the result of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ftfw.cli.check.ruleset import Ruleset
from ftfw.config.schema import Config


class Level(StrEnum):
    """Says how bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Holds one line of the report; the remedy is empty if there is nothing to do."""

    level: Level
    subject: str
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding as `--json` prints it."""
        return {"level": self.level, "subject": self.subject, "found": self.found, "remedy": self.remedy}


@dataclass(frozen=True, kw_only=True)
class CheckInput:
    """Holds the input of the checks; a part that could not be read is None, and `why_no_…` has the reason."""

    config_path: Path
    config: Config | None = None
    why_no_config: str = ""
    status: dict[str, Any] | None = None
    why_no_status: str = ""
    hangs: bool = False  # the daemon runs, and does not answer
    ruleset: Ruleset | None = None
    why_no_ruleset: str = ""


CheckFunction = Callable[[CheckInput], Iterator[Finding]]


def ok(subject: str, found: str, remedy: str = "") -> Finding:
    """Return a finding that needs no action, or is worth a note."""
    return Finding(level=Level.OK, subject=subject, found=found, remedy=remedy)


def warning(subject: str, found: str, remedy: str) -> Finding:
    """Return a finding about a function that works, but not well, or not for all flows."""
    return Finding(level=Level.WARNING, subject=subject, found=found, remedy=remedy)


def problem(subject: str, found: str, remedy: str) -> Finding:
    """Return a finding about a fault that makes replication or a takeover fail."""
    return Finding(level=Level.PROBLEM, subject=subject, found=found, remedy=remedy)
