"""Carries out the plans of `ftfw.replication.injection_plan` on a simulated kernel, and checks their order.

A hot backup's plan is carried out a few steps at a time, as the daemon does between other work; a commit's at once.
Some requests are refused, as a full table refuses them, and some entries are deleted and created anew.
"""

from collections.abc import Iterable, Iterator
from random import Random

from ftfw.kernel import create, expectation, flow_entry, uapi
from ftfw.kernel.flow_entry import has_master
from ftfw.replication.backup import Backup
from ftfw.replication.injection_plan import (
    ChangePlanner,
    CreateExpectations,
    CreateFlows,
    CreateGreFlows,
    DeleteExpectations,
    DeleteFlows,
    DeletePinnedFlows,
    Pause,
    Step,
    VerifyHelpers,
    plan_commit,
)
from ftfw.replication.store import Store
from tests.simulation.kernel import Kernel
from tests.unit.conntrack import UDP, conn

REFUSED = 0.04  # share of the flows without helper, which can be no masters, that a kernel refuses at the first try
TOY_MASTER = flow_entry.tuple_of(conn(UDP).key)  # named by toy flows, and hardly ever there
in_snapshot = vars(Store)["in_snapshot"].fget  # as the code has it, also where a mutation changes it
RECREATED = 0.02  # share of the changed flows that are deleted and created anew


class HotFollower:
    """Keeps a simulated kernel equal to the store of a hot backup, as `daemon.hot_kernel` does."""

    def __init__(self, kernel: Kernel, backup: Backup, random: Random) -> None:
        self.refused: set[bytes] = set()
        self.lost_links: set[bytes] = set()  # related flows that were created when their master was not held
        self._backup = backup
        self._recreated: set[bytes] = set()
        self._kernel = kernel
        self._random = random
        self._planner = ChangePlanner(backup.store, refused=self.refused, recreated=self._recreated)
        self._steps: Iterator[Step] | None = None
        self._held: set[bytes] = set()  # flows when the plan was begun
        self._filling = 0  # the snapshot under way when the plan was begun: it ends before its related flows are made

    def go_on(self, steps: int) -> bool:
        """Carry out so many steps; return whether everything that had changed at the plan's begin is done."""
        if self._steps is None:
            self._filling = self._snapshot()
            self._held = {*self._backup.store.plain, *self._backup.store.rich}
            self._steps = self._planner.plan_changes()
        for _ in range(steps):
            step = next(self._steps, None)
            if step is None:
                self._steps = None
                return True
            self._carry_out(step, refusing=True)
        return False

    def _planned(self) -> Iterator[bytes]:
        """The flows that the plan, or one before it, has put into the kernel by the time of its related flows."""
        store = self._backup.store
        return iter((self._held - self.refused) & _not_stale(store))

    def _snapshot(self) -> int:
        """A number for the snapshot that comes in; 0 without one."""
        return self._backup.snapshots + 1 if in_snapshot(self._backup.store) else 0

    def commit(self) -> None:
        """Carry out what is left at a promotion."""
        for step in self._steps or ():
            self._carry_out(step, refusing=False)
        for step in self._planner.plan_remaining():
            self._carry_out(step, refusing=False)
        assert all(map(expectation.is_key, self.refused)), "a promotion ended without what the kernel had refused"

    def _carry_out(self, step: Step, *, refusing: bool) -> None:
        match step:
            case CreateFlows(flows) | CreateGreFlows(flows):
                for key, value in flows:
                    if refusing and not flow_entry.has_helper(value) and self._random.random() < REFUSED:
                        self.refused.add(key)
                        continue
                    if self._kernel.has(key) and self._random.random() < RECREATED:
                        self._kernel.delete_flow(key)
                        self._recreated.add(key)
                    if not create_flow(self._kernel, key, value, planned=self._planned()):
                        assert not self._filling or self._filling != self._snapshot(), "the master may come later"
                        self.lost_links.add(key)
            case CreateExpectations(expectations):
                for key, value, _zone in expectations:
                    if not create_expectation(self._kernel, key, value):
                        self.refused.add(key)
            case _:
                delete(self._kernel, step)


def commit(kernel: Kernel, store: Store) -> None:
    """Put the store of a warm backup into its kernel, as `daemon.commit` does."""
    for step in plan_commit(store):
        match step:
            case CreateFlows(flows) | CreateGreFlows(flows):
                for key, value in flows:
                    create_flow(kernel, key, value, planned=_not_stale(store))
            case CreateExpectations(expectations):
                for key, value, _zone in expectations:
                    create_expectation(kernel, key, value)
            case _:
                delete(kernel, step)


def _not_stale(store: Store) -> set[bytes]:
    """Return the keys of held flows that a complete snapshot has named, if there is one."""
    return {*store.plain, *store.rich}.difference(store.stale([*store.plain, *store.rich]))


def create_flow(kernel: Kernel, key: bytes, value: bytes, *, planned: Iterable[bytes]) -> bool:
    """Create a flow; return False if its link to its master is lost, because the kernel has no such master.

    The master must not be among the `planned` flows then: those come before the flows that are related to them.
    """
    linked = True
    if has_master(value):
        master = flow_entry.found_by_master(key, value)
        if not kernel.finds(master):
            assert master not in map(flow_entry.found_by, planned), "a related flow was created before its master"
            if flow_entry.tuple_of(master) != TOY_MASTER:
                value, linked = create.without(value, uapi.CTA_TUPLE_MASTER), False
    kernel.create(key, value)
    return linked


def create_expectation(kernel: Kernel, key: bytes, value: bytes) -> bool:
    """Create an expectation, unless its master is missing; return whether it was created."""
    if not any(flow_entry.tuple_of(each) == expectation.master_of(key) for each in kernel.flows()):
        return False
    kernel.create(key, value)
    return True


def delete(kernel: Kernel, step: Step) -> None:
    """Carry out a step that creates nothing."""
    match step:
        case DeleteFlows(keys) | DeletePinnedFlows(keys):
            for key in keys:
                kernel.delete_flow(key)
        case DeleteExpectations(ended):
            for key, _zone in ended:
                kernel.delete_expectation(key)
        case VerifyHelpers() | Pause():
            pass
        case _:
            raise AssertionError(f"an unknown step: {step}")


def purge(kernel: Kernel, keep: Iterable[bytes]) -> None:
    """Delete what a kernel has from before, as `daemon.leftover_entries` does, except for the keys in `keep`."""
    for key in kernel.view().rows.keys() - set(keep):
        if expectation.is_key(key):
            kernel.delete_expectation(key)
        else:
            kernel.delete_flow(key)
