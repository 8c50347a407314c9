"""Prints the results of the lab: a table row by row, or JSON."""

# Observer describes what the methods promise.
# ruff: noqa: D102

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from ftfw.lab.failover_run import LabRun, Observer
from ftfw.lab.verdicts import Outcome, Row, Verdict, lost


def cell(outcome: Outcome) -> str:
    """Return the pause of a flow at one takeover as text; empty if there is none."""
    return "" if outcome.pause_s is None else f"{outcome.pause_s:.2f} s"


def line(row: Row) -> Text:
    """Return one row of the table; a lost flow has its reason in place of the pauses."""
    verdict = Verdict.SURVIVED if row.survived else Verdict.LOST
    text = Text(f"{row.name:<26} {row.title:<58} ")
    text.append(f"{verdict:<9}", style="green" if row.survived else "bold red")
    if row.survived:
        for number in range(row.takeovers):
            text.append(f"{cell(row.outcome(number)):>8}")
    if row.reason:
        text.append(f"  {row.reason}", style="dim")
    return text


def heading() -> Text:
    """Return the heading of the table: `there` and `back` are the pauses at the two takeovers."""
    return Text(f"{'flow':<26} {'what it is':<58} {'verdict':<9}{'there':>8}{'back':>8}", style="bold")


def takeover_figures(run: LabRun) -> str:
    """Return the figures of the last takeover in one line."""
    takeover = run.takeovers[-1]
    parts = [
        f"{sum(row.living for row in run.rows)} of {len(run.rows)} flows live on",
        f"the takeover took {takeover.seconds:.2f} s, promote {takeover.promote_s:.2f} s of it",
        f"packets answered with an error: {takeover.errors_answered}",
    ]
    return "; ".join([*parts, takeover.account] if takeover.account else parts)


def summary(run: LabRun) -> Text:
    """Return the last line of the table."""
    missing = len(lost(run.rows))
    kernels = ", ".join(f"{name} on Linux {version}" for name, version in run.kernels.items())
    text = Text() if run.site == "namespaces" else Text(f"{run.site}, {kernels}: ")
    text.append(f"{run.daemon}, {run.mode}: ")
    text.append(
        f"{len(run.rows) - missing} of {len(run.rows)} flows survived both takeovers",
        style="bold red" if missing else "bold green",
    )
    return text.append(f" ({run.seconds:.0f} s)")


def as_dict(run: LabRun) -> dict[str, Any]:
    """Return a run as data for JSON."""
    rows = [asdict(row) | {"survived": row.survived, "reason": row.reason} for row in run.rows]
    return asdict(run) | {
        "rows": rows,
        "survived": len(run.rows) - len(lost(run.rows)),
        "lost": len(lost(run.rows)),
    }


def as_json(runs: Sequence[LabRun]) -> str:
    """Return the runs as JSON text."""
    return json.dumps({"runs": [as_dict(run) for run in runs]}, indent=2)


def way_in(commands: Sequence[str], failure: str) -> str:
    """Return the text for a lab that is kept: the failure, if any, and the commands that lead into the hosts."""
    lines = [f"The run failed: {failure}"] if failure else []
    return "\n".join([*lines, "The lab stands until Ctrl-C. Look around with:", *(f"  {each}" for each in commands)])


class Printer(Observer):
    """Prints steps when they begin, and each row when its result is final."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._headed = False

    def step(self, text: str) -> None:
        self._console.print(Text(f"· {text}", style="cyan"), soft_wrap=True)

    def took_over(self, run: LabRun) -> None:
        self.step(takeover_figures(run))

    def row(self, row: Row) -> None:
        if not row.settled:
            return
        if not self._headed:
            self._console.print(heading(), soft_wrap=True)
            self._headed = True
        self._console.print(line(row), soft_wrap=True)

    def finished(self, run: LabRun) -> None:
        super().finished(run)
        self._headed = False
        self._console.print(summary(run), soft_wrap=True)

    def kept(self, commands: Sequence[str], failure: str) -> None:
        super().kept(commands, failure)
        self._console.print(Text(way_in(commands, failure)), soft_wrap=True)


class JsonPrinter(Observer):
    """Prints all runs as JSON after the last one, and nothing else to standard output."""

    def __init__(self) -> None:
        super().__init__()
        self._printed = False

    def kept(self, commands: Sequence[str], failure: str) -> None:
        super().kept(commands, failure)
        self.print_runs()
        click.echo(way_in(commands, failure), err=True)

    def print_runs(self) -> None:
        """Print the runs, unless they have been printed."""
        if not self._printed:
            self._printed = True
            click.echo(as_json(self.runs))
