"""Changes of role in this process, on a real kernel, while the work of the role before is under way."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from ftfw.daemon import after_takeover, commit, leftover_entries
from ftfw.daemon.gate import Gate
from ftfw.daemon.role_runner import RoleRunner
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.replication.messages import Heartbeat
from ftfw.replication.store import Store
from tests.kernel.namespaces import Namespace
from tests.kernel.test_node import command, in_namespace, running, until
from tests.unit.conntrack import TCP, conn

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
def test_a_promotion_waits_for_a_step_of_the_backups_work_which_goes_on_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    """A backup that was just started or demoted has the whole table before it: seconds, during which clients wait."""
    tracking = SlowTracking(slow=slow)
    monkeypatch.setattr(leftover_entries, "disable_window_tracking", tracking)
    tracking.may_end.set()

    async def work(_: Namespace) -> None:
        with begins_of_commit(monkeypatch, tracking.order), trio.fail_after(10):
            async with running(tmp_path) as (_node, _link, path):
                await command(path, "promote")
                if slow:
                    await until(lambda: len(tracking.injectors) == 2)

    in_namespace(work)
    assert tracking.order == (["begun", "ended", "commit", "begun"] if slow else ["begun", "commit"])
    if slow:
        assert tracking.injectors[0] is not tracking.injectors[1], "an active's doings are streamed"


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
