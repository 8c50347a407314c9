"""Handle the entries that a backup's kernel has from before: disable window tracking, delete what is stale."""

from contextlib import aclosing

from ftfw.kernel import expectation, flow_entry
from ftfw.kernel.event_selector import Selector, key_in
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.kernel.netlink import dump_expectations, dump_flows
from ftfw.replication.store import Store


async def purge(
    store: Store, injector: Injector, selector: Selector, outcome: InjectionOutcome, *, keep_held: bool
) -> None:
    """Delete what is replicated from this kernel, flows and expectations, but for what is held if `keep_held`.

    Only once a live active's snapshot is complete (promise 6): until then the kernel's table is the store.
    """
    stale: list[bytes] = []
    async with aclosing(dump_flows()) as dump:
        async for batch in dump:
            keys = map(key_in, selector.dumped(batch).messages)
            stale += [key for key in keys if not (keep_held and store.get_flow(key) is not None)]
    await injector.delete(stale, outcome)
    expectations: list[bytes] = []  # that have not gone with their masters
    async with aclosing(dump_expectations()) as dump:
        async for batch in dump:
            messages = selector.dumped(batch).messages
            found = [expectation.key_of(flow_entry.parse(message).attributes) for message in messages]
            expectations += [key for key in found if not (keep_held and key in store.expectations)]
    await injector.unexpect([(key, store.zone_of(key)) for key in expectations], outcome)


async def disable_window_tracking(injector: Injector, selector: Selector) -> None:
    """Behind a start as backup: window tracking comes off what this kernel has from before.

    Segments go through another node now, so that its windows are soon out of date; should this node take over before
    a snapshot is in, it is what there is, and its next segments would count as invalid.
    """
    async with aclosing(dump_flows()) as dump:
        async for batch in dump:
            keys = map(key_in, selector.dumped(batch).messages)
            await injector.disable_window_tracking([key for key in keys if flow_entry.is_tcp(key)])
