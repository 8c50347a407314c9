"""What /proc says about processes and namespaces."""

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
    """CPU seconds. The sum is exact to a tick; how it divides into user and system is estimated."""

    user_s: float = 0.0
    system_s: float = 0.0

    @property
    def total_s(self) -> float:
        """User and system."""
        return self.user_s + self.system_s

    def __add__(self, other: "Cpu") -> "Cpu":
        return Cpu(user_s=self.user_s + other.user_s, system_s=self.system_s + other.system_s)

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(user_s=self.user_s - other.user_s, system_s=self.system_s - other.system_s)


def stat_fields(line: str) -> list[int]:
    """Numbers of a /proc/PID/stat line from the state on; the state, a letter, is given as 0.

    The command stands in parentheses and may hold anything, parentheses and blanks too.
    """
    _, _, rest = line.rpartition(")")
    return [0, *map(int, rest.split()[1:])]


def parse_cpu(line: str) -> Cpu:
    """CPU time of a process, all its threads (ended ones too) and the children it has waited for."""
    fields = stat_fields(line)
    return Cpu(
        user_s=(fields[_UTIME] + fields[_CUTIME]) * TICK_S,
        system_s=(fields[_STIME] + fields[_CSTIME]) * TICK_S,
    )


def parse_busy_s(text: str) -> float:
    """CPU seconds that all processors together were not idle, from /proc/stat."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, text.split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) * TICK_S


def machine_busy_s() -> float:
    """CPU seconds that this machine's processors, all together, were not idle so far."""
    return parse_busy_s(Path("/proc/stat").read_text())


def tree(pid: int) -> Iterator[int]:
    """`pid` and every live descendant."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def tree_cpu(pid: int) -> Cpu:
    """CPU time that a process and all below it have used so far."""
    return sum((parse_cpu(Path(f"/proc/{each}/stat").read_text()) for each in tree(pid)), Cpu())


def tree_rss(pid: int) -> int:
    """Bytes of resident memory of a process and all below it."""
    return sum(stat_fields(Path(f"/proc/{each}/stat").read_text())[_RSS] * PAGE_BYTES for each in tree(pid))
