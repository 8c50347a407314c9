"""Keep the kernel of a hot backup equal to its store."""

from collections.abc import Iterable

import trio

from ftfw.daemon.ordered_injection import (
    SORTED_AT_ONCE,
    SortedFlows,
    ZonedExpectation,
    create_in_order,
    expected_by,
    recreate,
    with_zones,
)
from ftfw.kernel import expectation, flow_entry
from ftfw.kernel.injector import Flow, InjectionOutcome, Injector, batches
from ftfw.replication.store import Store


class _Changes:
    """What has changed in a store, by what is done about it in a kernel."""

    def __init__(self) -> None:
        self.plain: list[Flow] = []
        self.rich = SortedFlows()
        self.expected: list[ZonedExpectation] = []
        self.gone: list[bytes] = []
        self.gone_expectations: list[tuple[bytes, bytes]] = []
        self.waiting: set[bytes] = set()  # for a master that may come later

    async def sort(self, store: Store, keys: Iterable[bytes], *, wait: bool) -> None:
        """Take in the held values of `keys`; `wait`: what needs a master waits for it."""
        for batch in batches(keys, SORTED_AT_ONCE):
            for key in batch:
                if wait and _needs_master(store, key):
                    self.waiting.add(key)
                elif expectation.is_key(key):
                    self._add_expectation(store, key)
                else:
                    self._add_flow(store, key)
            await trio.lowlevel.checkpoint()

    def _add_expectation(self, store: Store, key: bytes) -> None:
        if key in store.expectations:
            self.expected += with_zones(store, [key])
        else:
            self.gone_expectations.append((key, store.zone_of(key)))

    def _add_flow(self, store: Store, key: bytes) -> None:
        if (value := store.plain.get(key)) is not None:
            self.plain.append((key, value))
        elif (value := store.rich.get(key)) is not None:
            self.rich.add(key, value)
        else:
            self.gone.append(key)


async def apply_to_kernel(store: Store, injector: Injector, outcome: InjectionOutcome, *, whole: bool = False) -> None:
    """Hot standby: make this kernel follow what changed in the store.  Timers are pinned: no traffic renews them.

    While a snapshot comes in, what needs a master waits for its end, because the master may come later; `whole`: it
    waits no more.
    """
    keys = store.take_changes()
    if not keys:
        return
    outcome.refused -= keys
    changes = _Changes()
    await changes.sort(store, keys, wait=store.awaits_masters and not whole)
    store.put_back(changes.waiting)
    await injector.unexpect(changes.gone_expectations, outcome)
    await injector.delete(changes.gone, outcome)
    anew = await create_in_order(changes.plain, changes.rich, injector, outcome, pinned=True)
    forgotten = expected_by(store, anew).difference(key for key, _, _ in changes.expected)
    await injector.expect([*changes.expected, *with_zones(store, forgotten)], outcome, pinned=True)


def _needs_master(store: Store, key: bytes) -> bool:
    if expectation.is_key(key):
        return key in store.expectations
    value = store.rich.get(key)
    return value is not None and flow_entry.has_master(value)


async def commit_remaining(store: Store, injector: Injector, outcome: InjectionOutcome, refused: set[bytes]) -> None:
    """Hot: everything is in the kernel but for what came last, and what the kernel `refused`: that is tried again."""
    store.put_back(refused)
    await apply_to_kernel(store, injector, outcome, whole=True)


async def refresh_pins(store: Store, injector: Injector, outcome: InjectionOutcome) -> None:
    """Hot standby: wind up all timers again, long before they run out."""
    changes = _Changes()
    await changes.sort(store, [*store.plain, *store.rich], wait=False)
    rich = [*changes.rich.alone, *changes.rich.related]
    await injector.set_timeouts(changes.plain, outcome, pinned=True)
    if changes.rich.any_gre:
        await recreate([flow for flow in rich if flow_entry.is_gre(flow[0])], injector, outcome, pinned=True)
        rich = [flow for flow in rich if not flow_entry.is_gre(flow[0])]
    await injector.set_timeouts(rich, outcome, pinned=True)
