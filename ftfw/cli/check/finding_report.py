"""Prints the report of `ftfw check` for people."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.text import Text

from ftfw.cli.check.finding import Finding, Level

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
INDENT = 9  # columns


def print_findings(findings: list[Finding]) -> None:
    """Print the findings in order, each with its remedy below, and their number by level."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for finding in findings:
        line = Text(f"{finding.level:{INDENT}}", style=STYLES[finding.level])
        line.append(f"{finding.subject}: {finding.found}", style="default")
        if finding.remedy:
            line.append(f"\n{'':{INDENT}}→ {finding.remedy}", style="default")
        console.print(line)
    counts = Counter(finding.level for finding in findings)
    console.print(", ".join(f"{counts[level]} {level}" for level in Level))
