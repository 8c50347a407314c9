"""Put the store of a warm backup into the kernel, at its promotion."""

import logging

import trio

from ftfw.control.server import Progress
from ftfw.daemon.plan_executor import carry_out
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.replication.injection_plan import ChangePlanner, plan_commit
from ftfw.replication.store import Store

log = logging.getLogger(__name__)

PROGRESS_S = 0.25  # between two reports


class ProgressReporter:
    """Reports the progress of a commit in the log and to the client, at most once in PROGRESS_S."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._tried = 0
        self._next = trio.current_time() + PROGRESS_S

    async def report(self, tried: int) -> None:
        """Add `tried` to the number of entries that have been tried, and report it if PROGRESS_S has passed."""
        self._tried += tried
        if trio.current_time() < self._next:
            await trio.lowlevel.checkpoint()
            return
        self._next = trio.current_time() + PROGRESS_S
        log.info("commit: %d of %d entries", self._tried, self._total)
        await self._progress({"done": self._tried, "total": self._total})


async def commit(
    store: Store, injector: Injector, outcome: InjectionOutcome, progress: Progress, *, overwrite: bool = False
) -> None:
    """Create every entry of `store` in the kernel, masters before related flows; every entry is tried.

    `overwrite`: no traffic passes, so that existing entries may be deleted and created again.
    """
    injector.refresh_timeouts()
    reporter = ProgressReporter(store.flow_count() + len(store.expectations), progress)
    await carry_out(plan_commit(store), injector, outcome, overwrite=overwrite, report=reporter.report)


async def commit_changes(store: Store, injector: Injector, outcome: InjectionOutcome) -> None:
    """Put what has changed in a store, which has a journal, since its commit into the kernel."""
    planner = ChangePlanner(store, refused=set(), recreated=outcome.recreated)
    await carry_out(planner.plan_changes(), injector, outcome)
