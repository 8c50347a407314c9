"""What a node does in each role, and on the way from one to the other."""

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
from ftfw.daemon.backup_role import Standby
from ftfw.daemon.engine_driver import EngineDriver
from ftfw.daemon.gate import Gate
from ftfw.daemon.gre_keeper import GreKeeper
from ftfw.daemon.log.rate_limit import ALWAYS
from ftfw.daemon.metrics.metric_families import NodeMetrics
from ftfw.daemon.role_changer import WAITING_MAX, Changes
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
    """Holds what a promotion leaves to be done while traffic flows."""

    def __init__(self, standby: Standby, *, whole: bool) -> None:
        self.store = standby.store
        self.whole = whole  # every held entry was tried
        self.window_tracking = not standby.window_tracking_disabled


class Roles:
    """The roles of one node.  Its work is `standby` or `streaming`, or neither before the first role has begun."""

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
        self._filled = filled  # called when a hot backup's kernel has what that active has
        self._own_port = own_port  # that the injector's messages come from
        self._injector = injector
        self._selector = selector
        self._transport = transport
        self.member = Member(config.node.name)
        self.driver = EngineDriver([transport.freshness, self.member], transport, moved=self._after_batch)
        self._counts = counts  # events, overruns
        self._metrics = metrics
        self._promoting_since: float | None = None
        self.changes = Changes(role, self._perform)
        self.standby: Standby | None = None
        self.streaming: ActiveRole | None = None
        self.last_commit: dict[str, Any] | None = None
        # Of all roles that this node has had: counters that fall are taken for a restart.
        self.inject_failed: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._warnings: list[str] = []  # of the last commit
        self._unfinished: _Unfinished | None = None  # between a promotion and the active's work
        self._end_work: Callable[[], Awaitable[None]] | None = None

    @property
    def role(self) -> str:
        """The role that this node has, until a change of it is complete."""
        return self.member.role

    @property
    def lacks_state(self) -> bool:
        """Whether this node is a backup that follows an active, and its kernel has not got what it would go on with."""
        standby = self.standby
        return standby is not None and standby.backup.epoch is not None and not standby.filled

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live in the first role, and change it as is wanted; started when the first role's work has begun."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.changes.run(task_status=task_status)

    def _after_batch(self) -> None:
        work = self.standby or self.streaming
        if work is not None:
            work.after_batch()

    async def change(self, event: RoleEvent, progress: Progress) -> dict[str, Any]:
        """Carry out the command of that name; ControlError if the contrary was wanted before it was done."""
        before = self.role
        reached = await self.changes.reach(event, progress)
        if reached is None:
            raise ControlError(
                f"{WAITING_MAX} commands wait for a change of role already: this one is taken, and not waited for;"
                " `ftfw status` tells what comes of it"
            )
        if not reached:
            raise ControlError(
                f"superseded by a {CONTRARY[event]} before it was done: this node is {self.role};"
                " the log, and keepalived in `ftfw status`, tell what wanted it"
            )
        return self.describe(before)

    def describe(self, before: str) -> dict[str, Any]:
        """What a command that may have changed the role answers; `before` is the role that it found."""
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
        """Run a role's work until `_end_work` is called, which returns when it has ended."""
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
        # Who was the only active one, or in sync with it, has in its kernel what there is to go on with.
        before, alone = self.standby, self.streaming is not None and not self.member.peers.rivals("active", now)
        backup.was_synced = alone or (before is not None and before.backup.was_synced)
        self.standby = Standby(
            backup=backup,
            store=store,
            hot=self._hot,
            injector=self._injector,
            selector=self._selector,
            followed=self._followed,
            filled=self._filled,
            failed=self.inject_failed,
        )
        self.streaming = self._unfinished = None
        if before is not None:  # a promotion was recalled
            self._nursery.start_soon(after_takeover.discard, before.store)
        self.member.begin_role(backup)
        self._begin(self.standby.run)

    async def _commit_held(self) -> None:
        """End the backup's work, and put what it holds into the kernel."""
        standby = self.standby
        assert standby is not None
        assert self._end_work is not None
        self._promoting_since = trio.current_time()
        if self._gate is not None:
            self._gate.wait_for_commit()
        self._warnings = self._out_of_sync(standby)
        standby.backup.unfollow()
        self.member.leave_role(trio.current_time())
        self.driver.flush()
        await self._end_work()
        while standby.backup.work(trio.current_time()):  # the rest of the stream
            await trio.lowlevel.checkpoint()
        outcome = InjectionOutcome()
        begun = trio.current_time()
        try:
            whole = await self._commit(standby, outcome)
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
        self._unfinished = _Unfinished(standby, whole=whole)

    async def _commit(self, standby: Standby, outcome: InjectionOutcome) -> bool:
        """Put the store into the kernel; return True if all of it was tried."""
        try:
            if standby.hot_kernel is not None:
                await standby.hot_kernel.commit_remaining(outcome)
            else:
                shut = self._gate is not None and self._gate.is_shut(trio.current_time())
                await commit.commit(standby.store, self._injector, outcome, self.changes.report, renew=shut)
        except* Exception as failure:
            outcome.failed["commit_broke_off"] += 1
            self._warnings.append(f"the commit broke off, what is missing is put in behind it: {first_of(failure)}")
            log.exception("promote: the commit broke off; this node goes on as active, and puts in what is missing")
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

    def _out_of_sync(self, standby: Standby) -> list[str]:
        if standby.backup.was_synced:
            return []
        store = standby.store
        warning = (
            f"the store was not in sync: {store.flow_count()} flows and {len(store.expectations)} expectations are"
            " what there is" + (", a snapshot was under way" if store.in_snapshot else "")
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
        promoted = self.standby and self.standby.store
        streaming = ActiveRole(
            active=active,
            events=events,
            selector=self._selector,
            driver=self.driver,
            counts=self._counts,
            known=(promoted.flow_count(), len(promoted.expectations)) if promoted else None,
            compare_s=self._config.replication.scrub_interval_s,
        )
        self.streaming, self.standby = streaming, None
        self.member.begin_role(active)

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(streaming.run)
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
        """Do what traffic need not wait for. This node's table is its kernel's by now, so that the store is discarded.

        A start as active needs this as well: an earlier daemon may have left pinned timers and GRE flows.

        Entries that are created and deleted make events like any others, and so reach the backups: the socket for them
        is not the one whose events are dropped.
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


def first_of(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first of the exceptions in a group that is no group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
