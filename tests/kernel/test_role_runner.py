"""Changes of role in this process, on a real kernel, while the work of the role before is under way."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from ftfw.daemon import after_takeover, commit, leftover_entries
from ftfw.daemon.gate import Gate
from ftfw.daemon.gre_keeper import GreKeeper
from ftfw.daemon.role_runner import RoleRunner
from ftfw.daemon.roles.role_table import RoleEvent
from ftfw.kernel import flow_entry
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.replication import messages
from ftfw.replication.limits import STEP_FRAMES
from ftfw.replication.messages import Heartbeat, Stream
from ftfw.replication.store import Store
from tests.kernel.namespaces import Namespace
from tests.kernel.test_node import command, in_namespace, running, until
from tests.unit.conntrack import TCP, UDP, conn

pytestmark = pytest.mark.kernel

GATE = '[takeover]\ngate_interfaces = ["lan"]\n'


class SlowTracking:
    """Stands for `disable_window_tracking` on a kernel with very many entries; `order` tells what happens."""

    def __init__(self, *, slow: bool = True) -> None:
        self.order: list[str] = []
        self.injectors: list[Injector] = []
        self.may_end = trio.Event()
        self._slow = slow

    async def __call__(self, injector: Injector, _: Selector) -> None:
        self.injectors.append(injector)
        self.order.append("begun")
        await trio.lowlevel.checkpoint()
        if not self._slow or len(self.injectors) > 1:
            return
        try:
            await trio.sleep(30)  # longer than any test waits, and not for ever
        finally:
            with trio.move_on_after(20, shield=True):  # the step that is under way
                await self.may_end.wait()
            self.order.append("ended")


@pytest.fixture
def tracking(monkeypatch: pytest.MonkeyPatch) -> SlowTracking:
    made = SlowTracking()
    monkeypatch.setattr(leftover_entries, "disable_window_tracking", made)
    return made


@contextmanager
def begins_of_commit(monkeypatch: pytest.MonkeyPatch, order: list[str]) -> Iterator[None]:
    real = commit.commit

    async def told(*arguments: object, **how: object) -> None:
        order.append("commit")
        await real(*arguments, **how)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(commit, "commit", told)
        yield


@pytest.mark.parametrize("slow", [True, False])
def test_a_commit_waits_for_a_step_of_the_backups_work_and_the_promotion_for_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    """Without a snapshot the kernel's own entries are all that clients have: they must not be invalid when it ends."""
    tracking = SlowTracking(slow=slow)
    monkeypatch.setattr(leftover_entries, "disable_window_tracking", tracking)
    tracking.may_end.set()

    async def work(_: Namespace) -> None:
        with begins_of_commit(monkeypatch, tracking.order), trio.fail_after(10):
            async with running(tmp_path) as (_node, _link, path):
                await command(path, "promote")
                assert len(tracking.injectors) == (2 if slow else 1)

    in_namespace(work)
    assert tracking.order == (["begun", "ended", "commit", "begun"] if slow else ["begun", "commit"])


def test_a_promotion_goes_on_if_the_kernels_own_entries_cannot_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Injector] = []

    async def fails_at_the_promotion(injector: Injector, _: Selector) -> None:
        calls.append(injector)
        if len(calls) == 1:
            await trio.sleep_forever()
        if len(calls) == 2:
            raise OSError(errno.ENOBUFS, "no buffer space")

    monkeypatch.setattr(leftover_entries, "disable_window_tracking", fails_at_the_promotion)

    async def work(_: Namespace) -> None:
        with trio.fail_after(10):
            async with running(tmp_path) as (_node, _link, path):
                answer = await command(path, "promote")
                assert answer["role"] == "active"
                assert answer["last_commit"]["failed"] == {"commit_broke_off": 1}
                await until(lambda: len(calls) == 3)  # it is tried again afterwards

    in_namespace(work)


def test_the_gate_is_told_of_a_promotion_before_anything_else_and_no_active_is_followed_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: SlowTracking
) -> None:
    """It opens by itself if no promotion comes for long: in the middle of one, clients would be answered RST."""
    real = Gate.wait_for_commit

    def told(gate: Gate) -> None:
        tracking.order.append("gate waits")
        real(gate)

    monkeypatch.setattr(Gate, "wait_for_commit", told)

    async def work(_: Namespace) -> None:
        with begins_of_commit(monkeypatch, tracking.order):
            async with running(tmp_path, GATE) as (node, _link, path), trio.open_nursery() as nursery:
                hear_active(node.roles, b"first")
                assert node.gate is not None
                nursery.start_soon(command, path, "promote")
                await until(lambda: "gate waits" in tracking.order)
                shut: list[frozenset[bytes]] = []
                with monkeypatch.context() as patched:
                    patched.setattr(node.gate, "shut", shut.append)
                    hear_active(node.roles, b"other")
                assert shut == [], "it would be impatient again"
                tracking.may_end.set()
                await until(lambda: node.roles.role == "active")

    in_namespace(work)
    assert tracking.order[:4] == ["begun", "gate waits", "ended", "commit"]


def test_a_promotion_waits_for_no_stale_entries_and_no_frames_behind_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million stale entries take a second, for which clients would wait."""
    flows = [conn(replace(UDP, source_port=port)) for port in range(1, 3000)]
    named, late, gone = flows[0], flows[1 : 3 * STEP_FRAMES], flows[3 * STEP_FRAMES :]
    held: list[tuple[bool, bool]] = []
    real = commit.commit

    async def work(namespace: Namespace) -> None:
        async with running(tmp_path) as (node, _link, path):
            assert node.roles.backup_role is not None
            backup = node.roles.backup_role.backup
            backup.store.apply([flow.new() for flow in (named, *gone)])

            async def told(*arguments: Any, **how: Any) -> None:
                held.append((gone[0].key in backup.store.plain, backup.has_last_frames))
                await real(*arguments, **how)

            monkeypatch.setattr(commit, "commit", told)
            hear_active(node.roles, b"first")
            frames = [
                Stream(messages.SNAPSHOT_BEGIN, 1, []),
                Stream(messages.SNAPSHOT_PART, 2, [[named.full()]]),
                Stream(messages.SNAPSHOT_END, 3, []),  # the fourth does not come any more
                *(Stream(messages.EVENTS, 5 + number, [[flow.new()]]) for number, flow in enumerate(late)),
            ]
            for frame in frames:
                node.roles.member.receive(b"first", frame, trio.current_time())
            node.roles.changer.accept(RoleEvent.PROMOTE)  # before the backup has its turn
            await until(lambda: node.roles.role == "active")
            assert (await command(path, "status"))["last_commit"]["created"] == 1 + len(late)
            found = {flow_entry.key_of(flow_entry.parse(each).attributes) for each in await namespace.dump()}
            assert found == {flow.key for flow in (named, *late)}

    in_namespace(work)
    assert held == [(True, True)]


def test_an_active_keeps_gre_flows_alive_by_a_socket_whose_events_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup must hear of the new entries: a compare would find them different."""
    tracking = SlowTracking(slow=False)
    monkeypatch.setattr(leftover_entries, "disable_window_tracking", tracking)
    keepers: list[Injector] = []
    real = GreKeeper.run

    async def told(keeper: GreKeeper) -> None:
        tracking.order.append("keeper")
        await real(keeper)

    def make(injector: Injector, selector: Selector, outcome: InjectionOutcome) -> GreKeeper:
        keepers.append(injector)
        return GreKeeper(injector, selector, outcome)

    monkeypatch.setattr(GreKeeper, "run", told)
    monkeypatch.setattr("ftfw.daemon.role_runner.GreKeeper", make)

    async def work(_: Namespace) -> None:
        async with running(tmp_path) as (_node, _link, path):
            await command(path, "promote")
            await until(lambda: "keeper" in tracking.order)

    in_namespace(work)
    (keeper,) = keepers
    assert keeper is not tracking.injectors[0], "its events are not streamed"


def hear_active(roles: RoleRunner, epoch: bytes) -> None:
    heartbeat = Heartbeat(name="fw2", role="active", byte_order=sys.byteorder, sequence=0, oldest=0, version="")
    roles.member.receive(epoch, heartbeat, trio.current_time())
    roles.driver.after_batch()


def test_an_active_puts_in_what_a_broken_commit_left_and_streams_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[Injector, Injector]] = []
    real = after_takeover.restore_timeouts

    async def told(
        store: Store, injector: Injector, streamed: Injector, selector: Selector, outcome: InjectionOutcome
    ) -> None:
        used.append((injector, streamed))
        await real(store, injector, streamed, selector, outcome)

    async def broken(*_: object, **_how: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(after_takeover, "restore_timeouts", told)
    monkeypatch.setattr(commit, "commit", broken)

    async def work(namespace: Namespace) -> None:
        events = namespace.listen()
        async with running(tmp_path) as (node, _link, path):
            assert node.roles.backup_role is not None
            node.roles.backup_role.store.apply([conn(TCP).new()])
            await command(path, "promote")
            with trio.fail_after(10):
                await events.wait()
            assert len(events.drain(10)) == 1

    in_namespace(work)
    ((injector, streamed),) = used
    assert injector is not streamed
