"""Finish a takeover while traffic flows: restore timeouts, and create entries that the kernel lacks."""

import logging
from contextlib import aclosing

import trio

from ftfw.daemon.plan_executor import carry_out, recreate
from ftfw.kernel import expectation, flow_entry
from ftfw.kernel.create import DOUBTED_S
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.expectation import HeldExpectation
from ftfw.kernel.flow_entry import HeldFlow
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.kernel.netlink import dump_expectations, dump_flows
from ftfw.replication.injection_plan import plan_missing
from ftfw.replication.store import Store

log = logging.getLogger(__name__)

DISCARDED_AT_ONCE = 4096  # entries: about a millisecond


async def restore_timeouts(
    store: Store, injector: Injector, streamed_injector: Injector, selector: Selector, outcome: InjectionOutcome
) -> None:
    """Give entries whose timers are pinned the timeouts of their state, and create missing flows.

    This follows a hot promotion, a commit that broke off, and a start as active: a daemon that was killed as a backup
    may have left pinned timers. Entries get their timeouts whether `store` holds them or not; stale ones, which the
    promotion had no time to remove, are deleted unless a packet has used them. Flows that are held and missing from the
    kernel are created; other existing entries are not changed. `store` is emptied of the flows that the kernel has.

    `injector` sets the timeouts: its events are not streamed, and a compare leaves timeouts out. `streamed_injector`
    creates and deletes entries, so that the new backup receives the events.
    """
    for each in (injector, streamed_injector):
        each.refresh_timeouts()
    zones: dict[bytes, bytes] = {}  # original tuple → zone, of flows that may have expectations
    timers = InjectionOutcome(failed=outcome.failed)
    async with aclosing(dump_flows()) as dump:
        async for batch in dump:
            late: list[HeldFlow] = []
            pinned: list[bytes] = []
            for message in selector.dumped(batch).messages:
                attributes = flow_entry.parse(message).attributes
                key = flow_entry.key_of(attributes)
                held = store.plain.pop(key, None) or store.rich.pop(key, None)
                if flow_entry.helper_of(attributes) is not None:
                    zones[flow_entry.tuple_of(key)] = flow_entry.zone_of(key)
                if flow_entry.timeout_of(attributes) >= DOUBTED_S:
                    late.append((key, held or flow_entry.full_value(attributes)))
                    pinned.append(key)
            if stale := set(store.stale(pinned)):
                await streamed_injector.delete(stale, timers)
                late = [flow for flow in late if flow[0] not in stale]
            await injector.set_timeouts([flow for flow in late if not flow_entry.is_gre(flow[0])], timers)
            await recreate([flow for flow in late if flow_entry.is_gre(flow[0])], streamed_injector, timers)
            await trio.lowlevel.checkpoint()
    await carry_out(plan_missing(store), streamed_injector, outcome, replace=False)
    await _restore_expectation_timeouts(store, (injector, streamed_injector), selector, zones, timers)
    log.info("timers of %d entries set; %d entries were missing, and were created", timers.updated, outcome.created)
    if outcome.failed:
        log.warning("the kernel refused some of the missing entries and timers: %s", dict(outcome.failed))


async def _restore_expectation_timeouts(
    store: Store,
    injectors: tuple[Injector, Injector],
    selector: Selector,
    zones: dict[bytes, bytes],
    timers: InjectionOutcome,
) -> None:
    """Set timeouts by the first of `injectors`, and delete stale expectations by the second one."""
    injector, streamed_injector = injectors
    async with aclosing(dump_expectations()) as dump:
        async for batch in dump:
            late: list[HeldExpectation] = []
            for message in selector.dumped(batch).messages:
                attributes = flow_entry.parse(message).attributes
                key = expectation.key_of(attributes)
                if expectation.timeout_of(attributes) >= DOUBTED_S:
                    value = store.expectations.get(key) or expectation.value_of(attributes)
                    late.append((key, value, zones.get(expectation.master_of(key), b"")))
            stale = set(store.stale(key for key, _, _ in late))
            if stale:
                ended = [(key, zone) for key, _, zone in late if key in stale]
                await streamed_injector.delete_expectations(ended, timers)
            await injector.set_expectation_timeouts([each for each in late if each[0] not in stale], timers)
            await trio.lowlevel.checkpoint()


async def discard(store: Store) -> None:
    """Empty a store a part at a time: to free a million entries at once blocks the loop for a tenth of a second."""
    for held in (store.plain, store.rich, store.expectations):
        while held:
            for _ in range(min(len(held), DISCARDED_AT_ONCE)):
                held.popitem()
            await trio.lowlevel.checkpoint()
    store.abort_snapshot()
    while store.free():
        await trio.lowlevel.checkpoint()
