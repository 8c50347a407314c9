"""Handle the entries that a backup's kernel had before: disable window tracking, delete stale entries."""

from contextlib import aclosing

import trio

from ftfw.kernel import expectation, flow_entry
from ftfw.kernel.event_selector import Selector, key_in
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.kernel.netlink import dump_expectations, dump_flows
from ftfw.replication.store import Store


async def purge(
    store: Store, injector: Injector, selector: Selector, outcome: InjectionOutcome, *, keep_held: bool
) -> None:
    """Delete from this kernel the flows and expectations that are replicated, except held ones if `keep_held`.

    This is done once the snapshot of a live active is complete (promise 6): until then the kernel's table is the store.
    """
    stale: list[bytes] = []
    async with aclosing(dump_flows()) as dump:
        async for batch in dump:
            keys = map(key_in, selector.dumped(batch).messages)
            stale += [key for key in keys if not (keep_held and store.get_flow(key) is not None)]
            await trio.lowlevel.checkpoint()
    await injector.delete(stale, outcome)
    expectations: list[bytes] = []  # expectations that the kernel did not delete with their masters
    async with aclosing(dump_expectations()) as dump:
        async for batch in dump:
            messages = selector.dumped(batch).messages
            found = [expectation.key_of(flow_entry.parse(message).attributes) for message in messages]
            expectations += [key for key in found if not (keep_held and key in store.expectations)]
            await trio.lowlevel.checkpoint()
    await injector.delete_expectations([(key, store.zone_of(key)) for key in expectations], outcome)


async def disable_window_tracking(injector: Injector, selector: Selector) -> None:
    """Disable window tracking for the TCP flows that a backup's kernel had before.

    Their segments go through another node now, so that the windows in this kernel are soon out of date. If this node
    takes over before a snapshot is complete, these entries are all it has, and the kernel would count their next
    segments as invalid.
    """
    async with aclosing(dump_flows()) as dump:
        async for batch in dump:
            found = [flow_entry.parse(message).attributes for message in selector.dumped(batch).messages]
            tracked = filter(flow_entry.has_window_tracking, found)
            await injector.disable_window_tracking(map(flow_entry.key_of, tracked))
            await trio.lowlevel.checkpoint()
