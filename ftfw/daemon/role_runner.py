"""Run the work of a node's role, and carry out the changes from one role to the other."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any, Final

import trio

from ftfw.config.schema import Config
from ftfw.control.client import ControlError
from ftfw.control.server import Progress
from ftfw.daemon import after_takeover, commit, leftover_entries, local_host
from ftfw.daemon.active_role import ActiveRole
from ftfw.daemon.backup_role import BackupRole
from ftfw.daemon.engine_driver import EngineDriver
from ftfw.daemon.gate import Gate
from ftfw.daemon.gre_keeper import GreKeeper
from ftfw.daemon.log.rate_limit import ALWAYS
from ftfw.daemon.metrics.metric_families import NodeMetrics
from ftfw.daemon.role_changer import WAITING_MAX, RoleChanger
from ftfw.daemon.roles.role_table import Action, RoleEvent
from ftfw.daemon.transport import Transport
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.kernel.netlink import EventSocket, RequestSocket
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.member import Member
from ftfw.replication.store import Store

log = logging.getLogger(__name__)

CONTRARY: Final = {RoleEvent.PROMOTE: "demotion", RoleEvent.DEMOTE: "promotion"}


class _Unfinished:
    """Holds the work that a promotion leaves for later, while traffic flows."""

    def __init__(self, backup_role: BackupRole, *, whole: bool) -> None:
        self.store = backup_role.store
        self.whole = whole  # every held entry was tried
        self.window_tracking = not backup_role.window_tracking_disabled


class RoleRunner:
    """Runs the work of a node's role, and carries out the changes from one role to the other.

    The work is `backup_role` or `active_role`; before the first role has begun it is neither.
    """

    def __init__(
        self,
        config: Config,
        role: str,
        *,
        gate: Gate | None,
        followed: Callable[[], None],
        filled: Callable[[], None],
        own_port: int,
        injector: Injector,
        selector: Selector,
        transport: Transport,
        counts: Counter[str],
        metrics: NodeMetrics,
    ) -> None:
        self._config = config
        self._hot = config.standby.mode == "hot"
        self._gate = gate
        self._followed = followed  # called when a backup begins to follow an active
        self._filled = filled  # called when a hot backup's kernel has all entries of that active
        self._own_port = own_port  # netlink port id of the injector: its events are not streamed
        self._injector = injector
        self._selector = selector
        self._transport = transport
        self.member = Member(config.node.name)
        self.driver = EngineDriver([transport.freshness, self.member], transport, moved=self._after_batch)
        self._counts = counts  # events, overruns
        self._metrics = metrics
        self._promoting_since: float | None = None
        self.changer = RoleChanger(role, self._perform)
        self.backup_role: BackupRole | None = None
        self.active_role: ActiveRole | None = None
        self.last_commit: dict[str, Any] | None = None
        # Over all roles of this process: Prometheus takes a counter that falls for a restart.
        self.inject_failed: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._warnings: list[str] = []  # of the last commit
        self._unfinished: _Unfinished | None = None  # between a promotion and the active's work
        self._end_work: Callable[[], Awaitable[None]] | None = None

    @property
    def role(self) -> str:
        """Return the role of this node; while a change is under way, the role before it."""
        return self.member.role

    @property
    def lacks_state(self) -> bool:
        """Return whether this node is a backup that follows an active whose entries its kernel does not have."""
        backup_role = self.backup_role
        return backup_role is not None and backup_role.backup.epoch is not None and not backup_role.filled

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work in the first role, and change roles as wanted; this counts as started when the first role has begun."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.changer.run(task_status=task_status)

    def _after_batch(self) -> None:
        work = self.backup_role or self.active_role
        if work is not None:
            work.after_batch()

    async def change(self, event: RoleEvent, progress: Progress) -> dict[str, Any]:
        """Carry out `ftfw promote` or `ftfw demote`, and return the answer.

        Raises ControlError if the opposite was wanted before it was done, or if WAITING_MAX commands wait already.
        """
        before = self.role
        reached = await self.changer.reach(event, progress)
        if reached is None:
            raise ControlError(
                f"{WAITING_MAX} commands already wait for a change of role: this one is accepted without waiting;"
                " `ftfw status` shows the result"
            )
        if not reached:
            raise ControlError(
                f"superseded by a {CONTRARY[event]} before it was done: this node is {self.role};"
                " the log, and keepalived in `ftfw status`, show who wanted it"
            )
        return self.describe(before)

    def describe(self, before: str) -> dict[str, Any]:
        """Return the answer to a command that may have changed the role; `before` is the role before it."""
        changed = self.role != before
        return {
            "role": self.role,
            "changed": changed,
            "last_commit": self.last_commit,
            "warnings": self._warnings if changed and self.role == "active" else [],
        }

    async def _perform(self, action: Action) -> None:
        match action:
            case Action.COMMIT:
                await self._commit_held()
            case Action.STREAM:
                self._stream()
            case Action.STOP:
                await self._stop()
            case Action.LISTEN:
                self._listen()

    def _begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run the work of a role until `_end_work` is called, which returns when the work has ended."""
        scope, ended = trio.CancelScope(), trio.Event()

        async def live() -> None:
            try:
                with scope:
                    await work()
            finally:
                ended.set()

        async def end() -> None:
            scope.cancel()
            await ended.wait()

        self._end_work = end
        self._nursery.start_soon(live)
        self.driver.flush()
        log.info("%s is %s", self._config.node.name, self.role, extra=ALWAYS)

    # Backup

    def _listen(self) -> None:
        self._promoting_since = None
        store, now = Store(journal=self._hot, dropped=self.dropped), trio.current_time()
        name, limit = self._config.node.name, self._transport.body_limit
        backup = Backup(name=name, store=store, limit=limit, now=now, hot=self._hot)
        # The kernel of a node that was the only active, or in sync with it, has all entries.
        before, alone = self.backup_role, self.active_role is not None and not self.member.peers.rivals("active", now)
        backup.was_synced = alone or (before is not None and before.backup.was_synced)
        self.backup_role = BackupRole(
            backup=backup,
            store=store,
            hot=self._hot,
            injector=self._injector,
            selector=self._selector,
            followed=self._followed,
            filled=self._filled,
            failed=self.inject_failed,
        )
        self.active_role = self._unfinished = None
        if before is not None:  # a promotion was recalled
            self._nursery.start_soon(after_takeover.discard, before.store)
        self.member.begin_role(backup)
        self._begin(self.backup_role.run)

    async def _commit_held(self) -> None:
        """End the work of a backup, and create the entries of its store in the kernel.

        The work ends within one step, so that the kernel gets entries at once whatever the backup was doing. Stale
        entries that are still held are left out, and the last frames of the stream are applied afterwards. The gate is
        informed first: during a promotion it must not open because of its time limit.
        """
        backup_role = self.backup_role
        assert backup_role is not None
        assert self._end_work is not None
        self._promoting_since = trio.current_time()
        if self._gate is not None:
            self._gate.wait_for_commit()
        self._warnings = self._out_of_sync(backup_role)
        complete = backup_role.backup.complete
        backup_role.backup.unfollow()
        self.member.leave_role(trio.current_time())
        self.driver.flush()
        await self._end_work()
        outcome = InjectionOutcome()
        begun = trio.current_time()
        try:
            whole = await self._commit(backup_role, outcome, complete=complete)
        finally:
            if self._gate is not None:
                self._gate.open()
        seconds = trio.current_time() - begun
        self._log_commit(outcome, seconds)
        self._metrics.commits.observe(seconds)
        self.inject_failed.update(outcome.failed)
        self.last_commit = {
            "seconds": round(seconds, 6),
            "created": outcome.created,
            "updated": outcome.updated,
            "deleted": outcome.deleted,
            "failed": dict(outcome.failed),
            "otherwise": dict(outcome.remedied),
        }
        self._unfinished = _Unfinished(backup_role, whole=whole)

    async def _commit(self, backup_role: BackupRole, outcome: InjectionOutcome, *, complete: bool) -> bool:
        """Put the store into the kernel; return True if all of it was tried.

        Unless the store was `complete`, the kernel continues with entries of its own, too: window tracking is disabled
        for these, so that their next segments are not invalid.
        """
        backup, store, hot = backup_role.backup, backup_role.store, backup_role.hot_kernel
        try:
            if hot is not None:
                await hot.commit_remaining(outcome)
            else:
                shut = self._gate is not None and self._gate.is_shut(trio.current_time())
                await commit.commit(store, self._injector, outcome, self.changer.report, overwrite=shut)
            if backup.has_last_frames:
                store.begin_journal()
                await _apply_last_frames(backup)
                if hot is not None:
                    await hot.commit_remaining(outcome)
                else:
                    await commit.commit_changes(store, self._injector, outcome)
            if not (complete or backup_role.window_tracking_disabled):
                await backup_role.disable_window_tracking()
        except* Exception as failure:
            outcome.failed["commit_broke_off"] += 1
            self._warnings.append(f"the commit broke off; missing entries are created afterwards: {first_of(failure)}")
            log.exception(
                "promote: the commit broke off; this node continues as active and creates missing entries afterwards"
            )
        await _apply_last_frames(backup)  # of a commit that broke off
        return "commit_broke_off" not in outcome.failed

    def _log_commit(self, outcome: InjectionOutcome, seconds: float) -> None:
        log.info(
            "commit: %d created, %d updated, %d replaced, failed: %s, otherwise than asked for: %s, %.3f s",
            outcome.created,
            outcome.updated,
            outcome.deleted,
            dict(outcome.failed) or "none",
            dict(outcome.remedied) or "none",
            seconds,
        )

    def _out_of_sync(self, backup_role: BackupRole) -> list[str]:
        if backup_role.backup.was_synced:
            return []
        store = backup_role.store
        warning = (
            f"the store was not in sync: {store.flow_count()} flows and {len(store.expectations)} expectations are"
            " all that is held" + (", a snapshot was under way" if store.in_snapshot else "")
        )
        log.warning("promote: %s", warning)
        return [warning]

    # Active

    def _stream(self) -> None:
        self._transport.freshness.begin_epoch()
        events = EventSocket(own_port=self._own_port, buffer_bytes=self._config.kernel.event_buffer_bytes)
        active = Active(
            name=self._config.node.name,
            epoch=self._transport.freshness.epoch,
            limit=self._transport.body_limit,
            compress=self._config.replication.compress,
            compare_s=self._config.replication.scrub_interval_s,
            now=trio.current_time(),
        )
        promoted = self.backup_role and self.backup_role.store
        active_role = ActiveRole(
            active=active,
            events=events,
            selector=self._selector,
            driver=self.driver,
            counts=self._counts,
            known=(promoted.flow_count(), len(promoted.expectations)) if promoted else None,
            compare_s=self._config.replication.scrub_interval_s,
        )
        self.active_role, self.backup_role = active_role, None
        self.member.begin_role(active)

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(active_role.run)
                nursery.start_soon(self._finish_commit)

        self._begin(work)
        if self._promoting_since is not None:
            self._metrics.promotions.observe(trio.current_time() - self._promoting_since)
            self._promoting_since = None

    async def _stop(self) -> None:
        assert self._end_work is not None
        await self._end_work()
        self._transport.freshness.begin_epoch()

    async def _finish_commit(self) -> None:
        """Do the work that traffic does not wait for, and discard the store: the kernel's table replaces it.

        A start as active needs this as well: an earlier daemon may have left pinned timers and GRE flows.

        Entries that are created and deleted here must reach the backups by events. Therefore they have a socket of
        their own: the events of the other one are dropped.
        """
        unfinished, self._unfinished = self._unfinished, None
        with closing(RequestSocket()) as requests:
            streamed_injector = Injector(requests, local_host.timeouts)
            if unfinished is not None and unfinished.window_tracking:
                await leftover_entries.disable_window_tracking(streamed_injector, self._selector)
            if unfinished is not None:
                try:
                    if self._hot or not unfinished.whole:
                        await self._restore_timeouts(unfinished.store, streamed_injector)
                finally:
                    self._nursery.start_soon(after_takeover.discard, unfinished.store)
            elif self._hot:
                await self._restore_timeouts(Store(), streamed_injector)
            del unfinished
            outcome = InjectionOutcome(failed=self.inject_failed)
            await GreKeeper(streamed_injector, self._selector, outcome).run()

    async def _restore_timeouts(self, store: Store, streamed_injector: Injector) -> None:
        outcome = InjectionOutcome()
        try:
            await after_takeover.restore_timeouts(store, self._injector, streamed_injector, self._selector, outcome)
        finally:
            self.inject_failed.update(outcome.failed)
            if self.last_commit is not None:
                self.last_commit["created"] += outcome.created


async def _apply_last_frames(backup: Backup) -> None:
    while backup.has_last_frames:
        backup.work(trio.current_time())
        await trio.lowlevel.checkpoint()


def first_of(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first exception in a group, and in its groups, that is no group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
