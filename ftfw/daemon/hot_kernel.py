"""Keep the kernel of a hot backup equal to its store."""

from collections.abc import Iterator
from itertools import chain

import trio

from ftfw.daemon.plan_executor import carry_out, recreate
from ftfw.kernel import flow_entry
from ftfw.kernel.create_bulk import batches
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.flow_entry import HeldFlow
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.replication.injection_plan import SORTED_AT_ONCE, ChangePlanner, Step
from ftfw.replication.store import Store


class HotKernel:
    """Applies the changes of a store with a journal to this kernel. Timers are pinned: no traffic refreshes them.

    `selector` knows the addresses of this host. `outcome` counts the changes.
    """

    def __init__(self, store: Store, injector: Injector, selector: Selector, outcome: InjectionOutcome) -> None:
        self._store = store
        self._injector = injector
        self._selector = selector
        self._outcome = outcome
        self._planner = ChangePlanner(store, refused=outcome.refused, recreated=outcome.recreated)
        self._steps: Iterator[Step] | None = None  # the rest of a plan that was interrupted

    async def apply_to_kernel(self) -> None:
        """Apply everything that has changed by now. If this is cancelled, the next call continues there."""
        if self._steps is None:
            self._planner.learn_addresses(self._selector.excluded)
            self._steps = self._planner.plan_changes()
        for step in self._steps:
            with trio.CancelScope(shield=True):  # a step that was begun is carried out whole
                await carry_out([step], self._injector, self._outcome, pinned=True)
            await trio.lowlevel.checkpoint_if_cancelled()
        self._steps = None

    async def commit_remaining(self, outcome: InjectionOutcome) -> None:
        """Apply at a promotion the last changes, the entries that the kernel refused before, and the flows held back.

        Flows that were held back end at this host. Their timers are set as in a commit, because `restore_timeouts`
        does not touch entries of this host.
        """
        outcome.recreated = self._outcome.recreated
        steps = chain(self._steps or (), self._planner.plan_remaining())
        await carry_out(steps, self._injector, outcome, pinned=True)
        self._injector.refresh_timeouts()
        await carry_out(self._planner.plan_held_back(), self._injector, outcome)

    async def refresh_pins(self) -> None:
        """Pin all timers again, long before they run out."""
        for held in (self._store.plain, self._store.rich):
            for keys in batches(list(held), SORTED_AT_ONCE):
                await self._pin([(key, held[key]) for key in keys if key in held])

    async def _pin(self, flows: list[HeldFlow]) -> None:
        ours = [flow for flow in flows if flow[0] not in self._planner.held_back]
        gre = [flow for flow in ours if flow_entry.is_gre(flow[0])]
        others = [flow for flow in ours if not flow_entry.is_gre(flow[0])] if gre else ours
        await self._injector.set_timeouts(others, self._outcome, pinned=True)
        await recreate(gre, self._injector, self._outcome, pinned=True)
