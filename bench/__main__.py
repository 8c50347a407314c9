"""The command line: `python -m bench`."""

import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from bench import report, scenarios
from bench.daemons import DAEMONS
from bench.errors import BenchError
from bench.lab import exclusive, room_for
from bench.scenarios import Figures, Settings

SPARE_ENTRIES = 1000
SCENARIOS = ("cpu", "latency", "commit", "memory")


def _runs(names: tuple[str, ...], programs: tuple[str, ...], repeat: int) -> list[tuple[str, str]]:
    """Return scenario and program of each run, in order: programs take turns, so that a slow phase affects all."""
    turns: list[tuple[str, str]] = []
    for name in names:
        if name == "memory":  # one run is enough: the result is the same each time
            turns += [(name, program) for program in programs]
            continue
        competitors = ((report.NO_DAEMON,) if name == "cpu" else ()) + programs
        turns += [(name, program) for _ in range(repeat) for program in competitors]
    return turns


def _one(name: str, program: str, settings: Settings, seed: int) -> Figures:
    if program == report.NO_DAEMON:
        return scenarios.cpu(None, settings, seed)
    run: Callable[..., Figures] = {
        "cpu": scenarios.cpu,
        "latency": scenarios.latency,
        "commit": scenarios.commit,
        "memory": scenarios.memory,
    }[name]
    return run(DAEMONS[program], settings, seed)


def _all(turns: list[tuple[str, str]], settings: Settings, console: Console) -> report.Results:
    results: report.Results = {}
    with exclusive(), room_for(settings.most_entries + SPARE_ENTRIES):
        for seed, (name, program) in enumerate(turns):
            label = f"[{seed + 1}/{len(turns)}] {name}, {program or 'no daemon'}"
            with console.status(label):
                figures = _one(name, program, settings, seed)
            results.setdefault(name, {}).setdefault(program, []).append(figures)
            console.print(
                f"{label}: " + ", ".join(f"{key} {value:.6g}" for key, value in figures.items()), markup=False
            )
    return results


def _end(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt once and ignore further signals, so that they do not interrupt the removal of the lab."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@click.command(context_settings={"show_default": True})
@click.option(
    "--only", type=click.Choice(SCENARIOS), multiple=True, help="Scenario; may be given several times. Default: all."
)
@click.option("--daemon", "programs", type=click.Choice(list(DAEMONS)), multiple=True, help="Program. Default: both.")
@click.option("--rate", default=30_000, type=click.IntRange(1), help="New flows per second.")
@click.option("--seconds", default=10, type=click.IntRange(1), help="Length of one run at an even rate.")
@click.option("--repeat", default=3, type=click.IntRange(1), help="Runs of each; the table shows medians.")
@click.option("--commit-entries", default=300_000, type=click.IntRange(1), help="Entries that a commit creates.")
@click.option(
    "--memory-entries",
    default=(100_000, 300_000),
    type=(int, int),
    help="Two sizes of the store; the targets are for 100000 1000000.",
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write every figure to this file, too.")
def main(
    *,
    only: tuple[str, ...],
    programs: tuple[str, ...],
    rate: int,
    seconds: int,
    repeat: int,
    commit_entries: int,
    memory_entries: tuple[int, int],
    file: Path | None,
) -> None:
    """Run ftfw and conntrackd side by side and compare ftfw with its targets."""
    if not 0 < memory_entries[0] < memory_entries[1]:
        raise click.BadParameter("the second size must be the larger one", param_hint="--memory-entries")
    settings = Settings(rate=rate, seconds=seconds, commit_entries=commit_entries, memory_entries=memory_entries)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    progress = Console(stderr=True)
    names = tuple(name for name in SCENARIOS if not only or name in only)
    try:
        results = _all(_runs(names, programs or tuple(DAEMONS), repeat), settings, progress)
    except BenchError as error:
        progress.print(f"bench: {error}", markup=False, style="red")
        sys.exit(1)
    except KeyboardInterrupt:
        progress.print("bench: interrupted; everything is removed")
        sys.exit(130)
    computed = report.rows(results)
    title = f"{platform.release()}, {os.cpu_count()} CPUs, {rate:,} new flows/s, medians of {repeat}"
    Console().print(report.table(computed, title))
    if file:
        file.write_text(json.dumps({"machine": title, "rows": report.as_json(computed), "runs": results}, indent=1))


if __name__ == "__main__":
    main()
