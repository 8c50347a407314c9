"""The scenarios, each in a new lab: one function per scenario, which returns the figures of one run by their names."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import netlink, procfs
from bench.daemons import Daemon
from bench.errors import BenchError
from bench.lab import FW1, FW2, Count, flush, lab, wire_bytes
from bench.latency import Watch, delay
from bench.traffic import traffic

Figures = dict[str, float]

QUIET_S = 3.0  # a count that does not change for so long has reached its end
POLL_S = 0.0005
FLUSHED_S = 0.5  # the kernel frees flushed entries a little later


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Holds the options of the command line."""

    rate: float
    seconds: float
    commit_entries: int
    memory_entries: tuple[int, int]

    @property
    def most_entries(self) -> int:
        """Return the size of the largest table that a scenario makes."""
        return max(round(self.rate * self.seconds), self.commit_entries, *self.memory_entries)


class Neighbours:
    """Measures the CPU time of other processes since this object was made: a busy machine makes a run worthless."""

    def __init__(self) -> None:
        self._since, self._busy_s, self._own_s = time.monotonic(), procfs.machine_busy_s(), _own_cpu_s()

    def share(self, *, ours_s: float) -> float:
        """Return the share of all processors' time beyond `ours_s`, this process and its ended children."""
        others_s = procfs.machine_busy_s() - self._busy_s - (_own_cpu_s() - self._own_s) - ours_s
        return max(0.0, others_s / (time.monotonic() - self._since) / len(os.sched_getaffinity(0)))


def _own_cpu_s() -> float:
    return sum(os.times()[:4])


@contextlib.contextmanager
def pair(kind: type[Daemon], *, hot: bool = False) -> Iterator[tuple[Daemon, Daemon]]:
    """Run an active in fw1 and a backup in fw2 while the context lasts; they are in sync when it begins."""
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="ftfw-bench-")))
        nodes = []
        for namespace in (FW1, FW2):
            own = directory / namespace
            own.mkdir()
            nodes.append(kind(namespace, own, hot=hot))
            cleanup.callback(nodes[-1].stop)
        for node in nodes:
            node.wait_in_sync()
        yield nodes[0], nodes[1]


def settled(count: Callable[[], int], expected: int, every_s: float) -> tuple[int, float]:
    """Wait until `count` reaches `expected` or does not change for QUIET_S.

    Returns its last value, and the time at which it was first read (seconds, monotonic).
    """
    last, since = count(), time.monotonic()
    while last < expected and time.monotonic() - since < QUIET_S:
        time.sleep(every_s)
        if (now := count()) != last:
            last, since = now, time.monotonic()
    return last, since


def fill(settings: Settings, flows: int, seed: int, backup: Daemon, expected: int) -> int:
    """Send new flows through fw1, wait until the backup holds `expected`, and return how many it lacks."""
    with traffic(rate=settings.rate, flows=flows, seed=seed) as source:
        source.send()
    held, _ = settled(backup.entries, expected, 0.1)
    return expected - held


def cpu(kind: type[Daemon] | None, settings: Settings, seed: int) -> Figures:
    """Measure CPU and bytes per new flow at an even rate; with `kind` None, the cost of the traffic alone."""
    flows = round(settings.rate * settings.seconds)
    with lab(), ExitStack() as cleanup:
        nodes = cleanup.enter_context(pair(kind)) if kind else ()
        source = cleanup.enter_context(traffic(rate=settings.rate, flows=flows, seed=seed))
        neighbours, wire = Neighbours(), wire_bytes()
        before = [node.cpu() for node in nodes]
        sent = source.send()
        held = settled(nodes[1].entries, flows, 0.1)[0] if nodes else flows
        used = [node.cpu() - earlier for node, earlier in zip(nodes, before, strict=True)]
        figures = {
            "neighbours": neighbours.share(ours_s=sum(each.total_s for each in used)),
            "pace": flows / sent.seconds / settings.rate,
            "traffic_us": sent.cpu_s / flows * 1e6,
            "missing": flows - held,
        }
        if nodes:
            figures |= {"wire_bytes": (wire_bytes() - wire) / flows, "overruns": nodes[0].lost()}
        for side, spent in zip(("active", "backup"), used, strict=False):
            figures[f"{side}_us"] = spent.total_s / flows * 1e6
            figures[f"{side}_user_us"] = spent.user_s / flows * 1e6
        return figures


def kernel_alone(entries: int, seed: int) -> float:
    """Return how many seconds the kernel takes to create that many entries in an empty table."""
    flush(FW2)
    time.sleep(FLUSHED_S)
    return netlink.seconds_alone(FW2, entries, seed)


def commit(kind: type[Daemon], settings: Settings, seed: int) -> Figures:
    """Measure the time from the request for a commit to the last entry in the kernel; then that of the kernel alone."""
    entries = settings.commit_entries
    with lab():
        with pair(kind) as (active, backup), ThreadPoolExecutor(1) as pool:
            missing = fill(settings, entries, seed, backup, entries)
            active.kill()
            flush(FW1)  # two firewalls share no hash table, but two namespaces do
            time.sleep(FLUSHED_S)
            with contextlib.closing(Count(FW2)) as count:
                neighbours, before, start = Neighbours(), backup.cpu(), time.monotonic()
                promotion = pool.submit(backup.promote)
                done, end = settled(count, entries - missing, POLL_S)
                others = neighbours.share(ours_s=(backup.cpu() - before).total_s)
                promotion.result()
        if not done:
            raise BenchError(f"{kind.name} put nothing into the kernel within {QUIET_S:.0f} s of the request")
        alone_s = min(kernel_alone(entries, seed) for _ in range(3))
    return {
        "neighbours": others,
        "seconds": end - start,
        "rate": done / (end - start),
        "kernel_rate": entries / alone_s,
        "missing": entries - done,
    }


def latency(kind: type[Daemon], settings: Settings, seed: int) -> Figures:
    """Measure how long each entry takes to the kernel of a hot backup, by the sizes of both tables."""
    flows = round(settings.rate * settings.seconds)
    with lab(), pair(kind, hot=True), ExitStack() as cleanup:
        active, backup = (cleanup.enter_context(contextlib.closing(Count(each))) for each in (FW1, FW2))
        source = cleanup.enter_context(traffic(rate=settings.rate, flows=flows, seed=seed))
        with Watch(active, backup) as watch:
            sent = source.send()
            held, _ = settled(backup, flows, 0.1)
        return {
            "p50_ms": delay(watch.samples, 0.5) * 1000,
            "p99_ms": delay(watch.samples, 0.99) * 1000,
            "pace": flows / sent.seconds / settings.rate,
            "missing": flows - held,
        }


def memory(kind: type[Daemon], settings: Settings, seed: int) -> Figures:
    """Measure how much memory the backup takes per entry, from two sizes of its store."""
    small, large = settings.memory_entries
    with lab(), pair(kind) as (_, backup):
        fill(settings, small, seed, backup, small)
        before = backup.rss()
        missing = fill(settings, large - small, seed + 1, backup, large)
        return {"bytes": (backup.rss() - before) / (large - small - missing), "missing": missing}
