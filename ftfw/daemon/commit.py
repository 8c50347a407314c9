"""Put the store of a warm backup into the kernel, at its promotion."""

import logging

import trio

from ftfw.control.server import Progress
from ftfw.daemon.plan_executor import carry_out
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.replication.injection_plan import plan_commit
from ftfw.replication.store import Store

log = logging.getLogger(__name__)

PROGRESS_S = 0.25


class ProgressReporter:
    """Reports the progress of a commit in the log and to the client, at most once in PROGRESS_S."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._tried = 0
        self._next = trio.current_time() + PROGRESS_S

    async def report(self, tried: int) -> None:
        """Take in that so many more entries have been tried."""
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
    """Create everything that is held in the kernel, in the order of promise 2; every entry is tried.

    `overwrite`: no traffic passes, so that entries that exist already may be missing for a moment.
    """
    injector.refresh_timeouts()
    reporter = ProgressReporter(store.flow_count() + len(store.expectations), progress)
    await carry_out(plan_commit(store), injector, outcome, overwrite=overwrite, report=reporter.report)
