"""CPU time and memory of processes, read from /proc."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Fields of /proc/PID/stat, counted from the state, which proc(5) calls field 3.
_UTIME, _STIME, _CUTIME, _CSTIME, _RSS = 11, 12, 13, 14, 21


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """Holds CPU seconds. The kernel counts the sum exactly to a tick, and estimates its shares of user and system."""

    user_s: float = 0.0
    system_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Return the sum of user and system seconds."""
        return self.user_s + self.system_s

    def __add__(self, other: "Cpu") -> "Cpu":
        return Cpu(user_s=self.user_s + other.user_s, system_s=self.system_s + other.system_s)

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(user_s=self.user_s - other.user_s, system_s=self.system_s - other.system_s)


def stat_fields(line: str) -> list[int]:
    """Return the numbers of a /proc/PID/stat line from the state on, with 0 for the state, which is a letter.

    The command before them is in parentheses and may contain any character, parentheses and spaces too.
    """
    _, _, rest = line.rpartition(")")
    return [0, *map(int, rest.split()[1:])]


def parse_cpu(line: str) -> Cpu:
    """Return the CPU time of a process, of all its threads, also ended ones, and of the children it has waited for."""
    fields = stat_fields(line)
    return Cpu(
        user_s=(fields[_UTIME] + fields[_CUTIME]) * TICK_S,
        system_s=(fields[_STIME] + fields[_CSTIME]) * TICK_S,
    )


def parse_busy_s(text: str) -> float:
    """Return the CPU seconds that all processors together were not idle, from the text of /proc/stat."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, text.split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) * TICK_S


def machine_busy_s() -> float:
    """Return the CPU seconds that all processors of this machine together were not idle so far."""
    return parse_busy_s(Path("/proc/stat").read_text())


def tree(pid: int) -> Iterator[int]:
    """Yield `pid` and every descendant that is alive."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def tree_cpu(pid: int) -> Cpu:
    """Return the CPU time that a process and its descendants have used so far."""
    return sum((parse_cpu(Path(f"/proc/{each}/stat").read_text()) for each in tree(pid)), Cpu())


def tree_rss(pid: int) -> int:
    """Return the resident memory of a process and its descendants in bytes."""
    return sum(stat_fields(Path(f"/proc/{each}/stat").read_text())[_RSS] * PAGE_BYTES for each in tree(pid))
