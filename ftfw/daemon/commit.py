"""Put the store of a warm backup into the kernel, at its promotion."""

import logging

import trio

from ftfw.control.server import Progress
from ftfw.daemon.ordered_injection import create_in_order, sort_flows, with_zones
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.replication.store import Store

log = logging.getLogger(__name__)

PROGRESS_S = 0.25


class ProgressReporter:
    """Progress in the log and for the client, at most four times a second."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._next = trio.current_time() + PROGRESS_S

    async def __call__(self, tried: int) -> None:
        """Report that `tried` entries have been tried, unless the last report is younger than PROGRESS_S."""
        if trio.current_time() < self._next:
            return
        self._next = trio.current_time() + PROGRESS_S
        log.info("commit: %d of %d entries", tried, self._total)
        await self._progress({"done": tried, "total": self._total})


async def commit(
    store: Store, injector: Injector, outcome: InjectionOutcome, progress: Progress, *, renew: bool = False
) -> None:
    """Put everything that is held into the kernel in promise 2's order; every entry is tried.

    `renew`: no traffic passes, so that what is there already may be missing for a moment.
    """
    report = ProgressReporter(store.flow_count() + len(store.expectations), progress)
    await create_in_order(
        store.plain.items(), await sort_flows(store.rich.items()), injector, outcome, renew=renew, report=report
    )
    await injector.expect(with_zones(store, store.expectations), outcome)
