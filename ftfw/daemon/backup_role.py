"""Do the work of a backup besides the protocol: keep a hot kernel equal to the store, delete leftover entries."""

import logging
from collections import Counter
from collections.abc import Callable
from math import inf

import trio

from ftfw.daemon import leftover_entries
from ftfw.daemon.hot_kernel import HotKernel
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.replication.backup import Backup
from ftfw.replication.store import REPAIRS, Store

log = logging.getLogger(__name__)

REFRESH_PINS_S = 86400.0  # a fourteenth of the time for which timers are pinned


class BackupRole:
    """Does the work of a backup until it is cancelled.

    `followed` is called for each active that is followed; `filled` when a hot kernel has all entries of the active,
    once for each active. `failed` counts, by reason, the entries that the kernel refused.
    """

    def __init__(
        self,
        *,
        backup: Backup,
        store: Store,
        hot: bool,
        injector: Injector,
        selector: Selector,
        followed: Callable[[], None],
        filled: Callable[[], None],
        failed: Counter[str],
    ) -> None:
        self.backup = backup
        self.store = store
        self.outcome = InjectionOutcome(failed=failed)
        self.hot_kernel = HotKernel(store, injector, selector, self.outcome) if hot else None
        self.window_tracking_disabled = False  # for all flows that the kernel had at the start
        self._injector = injector
        self._selector = selector
        self._followed = followed
        self._followed_epoch: bytes | None = None
        self._filled = filled
        self._filled_epoch: bytes | None = None
        self._purged = False
        self._logged_repairs: Counter[str] = Counter()  # by kind
        self._to_go_through = trio.Event()  # replaced by each pass
        self._changed = trio.Event()  # set if the store may be ahead of the kernel; replaced by each pass

    async def run(self) -> None:
        """Work until cancelled. Each task ends within one step, of a few milliseconds, when it is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.disable_window_tracking)
            nursery.start_soon(self._maintain_kernel)
            nursery.start_soon(self._go_through_store)

    async def disable_window_tracking(self) -> None:
        """Disable window tracking for the flows that the kernel has from before, except those already done."""
        await leftover_entries.disable_window_tracking(self._injector, self._selector)
        self.window_tracking_disabled = True

    async def _go_through_store(self) -> None:
        """Do the backup's work on the whole store, a step at a time."""
        while True:
            while self.backup.work(trio.current_time()):
                await trio.lowlevel.checkpoint()
            self._log_repairs()
            self._changed.set()
            await self._to_go_through.wait()
            self._to_go_through = trio.Event()

    async def _maintain_kernel(self) -> None:
        """Keep a hot kernel equal to the store and its timers pinned, and delete leftover entries once."""
        hot = self.hot_kernel
        refresh_pins_at = trio.current_time() + REFRESH_PINS_S if hot else inf
        while True:
            self._changed = trio.Event()
            if hot:
                whole = self.backup.snapshots
                await hot.apply_to_kernel()
                self.backup.installed = whole
                self._check_filled()
            if self.backup.complete and not self._purged:
                await self._purge()
            if hot and trio.current_time() >= refresh_pins_at:
                refresh_pins_at = trio.current_time() + REFRESH_PINS_S
                await hot.refresh_pins()
            with trio.move_on_at(refresh_pins_at):
                await self._changed.wait()

    @property
    def filled(self) -> bool:
        """Return whether this hot kernel has had all entries of the active that is followed."""
        return self._filled_epoch is not None and self._filled_epoch == self.backup.epoch

    def _check_filled(self) -> None:
        if self.backup.complete and self.backup.installed >= self.backup.snapshots and not self.filled:
            self._filled_epoch = self.backup.epoch
            self._filled()

    def _log_repairs(self) -> None:
        if self.store.repaired.total() > self._logged_repairs.total():
            found = self.store.repaired - self._logged_repairs
            log.warning(
                "a compare with the active found %d missing, %d stale and %d different entries; they are repaired",
                *(found[kind] for kind in REPAIRS),
            )
            self._logged_repairs = self.store.repaired.copy()

    def after_batch(self) -> None:
        """Start the work that a batch of frames, or a timer, has made necessary."""
        if self.backup.epoch not in {None, self._followed_epoch}:
            self._followed_epoch = self.backup.epoch
            self._followed()
        if self.backup.has_work:
            self._to_go_through.set()
        if self.hot_kernel or not self._purged:
            self._changed.set()

    async def _purge(self) -> None:
        purged = InjectionOutcome(failed=self.outcome.failed)
        await leftover_entries.purge(
            self.store, self._injector, self._selector, purged, keep_held=self.hot_kernel is not None
        )
        self._purged = True
        log.info(
            "the active's snapshot is in: %d flows held; %d entries that were left in this kernel are deleted",
            self.store.flow_count(),
            purged.deleted,
        )
