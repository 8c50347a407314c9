"""Finish a takeover while traffic flows: restore timeouts, and create what is missing from the kernel."""

import logging
from contextlib import aclosing

from ftfw.daemon.ordered_injection import create_in_order, expected_by, recreate, sort_flows, with_zones
from ftfw.kernel import expectation, flow_entry
from ftfw.kernel.create import DOUBTED_S
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.kernel.netlink import dump_expectations, dump_flows
from ftfw.replication.store import Store

log = logging.getLogger(__name__)


async def restore_timeouts(store: Store, injector: Injector, selector: Selector, outcome: InjectionOutcome) -> None:
    """Behind a hot promotion, or a commit that broke off: take what was done for a backup out, put in what is lacking.

    Timers that no packet has set yet get what their state would give them, whether held in `store` or not: a daemon
    that was killed as a backup may have left them.  Flows that are held and not in the kernel, whoever has removed
    them, are created; nothing that is there is touched for them.  `store` is used up.
    """
    zones: dict[bytes, bytes] = {}  # original tuple → zone, of flows that may have expectations
    timers = InjectionOutcome(failed=outcome.failed)
    async with aclosing(dump_flows()) as dump:
        async for batch in dump:
            late = []
            for message in selector.dumped(batch).messages:
                attributes = flow_entry.parse(message).attributes
                key = flow_entry.key_of(attributes)
                held = store.plain.pop(key, None) or store.rich.pop(key, None)
                if flow_entry.helper_of(attributes) is not None:
                    zones[flow_entry.tuple_of(key)] = flow_entry.zone_of(key)
                if flow_entry.timeout_of(attributes) >= DOUBTED_S:
                    late.append((key, held or flow_entry.full_value(attributes)))
            await injector.set_timeouts([flow for flow in late if not flow_entry.is_gre(flow[0])], timers)
            await recreate([flow for flow in late if flow_entry.is_gre(flow[0])], injector, timers)
    lacking = [*store.plain, *store.rich]
    await create_in_order(store.plain.items(), await sort_flows(store.rich.items()), injector, outcome, replace=False)
    await injector.expect(with_zones(store, expected_by(store, lacking)), outcome)
    await _restore_expectation_timeouts(store, injector, selector, zones, timers)
    log.info("timers of %d entries set; %d entries were missing, and are put in", timers.updated, outcome.created)
    if outcome.failed:
        log.warning("of what was missing or had to be set, the kernel refused: %s", dict(outcome.failed))


async def _restore_expectation_timeouts(
    store: Store, injector: Injector, selector: Selector, zones: dict[bytes, bytes], timers: InjectionOutcome
) -> None:
    async with aclosing(dump_expectations()) as dump:
        async for batch in dump:
            late = []
            for message in selector.dumped(batch).messages:
                attributes = flow_entry.parse(message).attributes
                key = expectation.key_of(attributes)
                if expectation.timeout_of(attributes) >= DOUBTED_S:
                    value = store.expectations.get(key) or expectation.value_of(attributes)
                    late.append((key, value, zones.get(expectation.master_of(key), b"")))
            await injector.set_expectation_timeouts(late, timers)
