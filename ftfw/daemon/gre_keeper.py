"""Keep injected GRE flows alive on an active."""

from contextlib import aclosing

import trio

from ftfw.daemon.plan_executor import recreate
from ftfw.kernel import flow_entry
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.kernel.netlink import dump_fixed_flows

GRE_CHECK_S = 5.0


class GreKeeper:
    """Keeps injected GRE flows alive: packets do not restart the timers of their entries, and no request can set them.

    An entry that has counted packets since it was created is created again before it expires. Other entries expire. The
    events of `injector` must be streamed, because a backup needs the new entries.
    """

    def __init__(self, injector: Injector, selector: Selector, outcome: InjectionOutcome) -> None:
        self._injector = injector
        self._selector = selector
        self._outcome = outcome

    async def run(self) -> None:
        """Watch the injected GRE flows that the kernel has now, until none is left."""
        keys = await self._find()
        while keys:
            await trio.sleep(GRE_CHECK_S)
            found = await self._injector.get(keys)
            keys = list(found)
            due = [
                (key, flow_entry.full_value(attributes))
                for key, attributes in found.items()
                if flow_entry.timeout_of(attributes) < 3 * GRE_CHECK_S and flow_entry.packets_of(attributes)
            ]
            self._injector.refresh_timeouts()
            await recreate(due, self._injector, self._outcome)

    async def _find(self) -> list[bytes]:
        """Return the keys of injected GRE flows, including those that an earlier daemon has injected."""
        keys: list[bytes] = []
        async with aclosing(dump_fixed_flows()) as dump:
            async for batch in dump:
                for message in self._selector.dumped(batch).messages:
                    attributes = flow_entry.parse(message).attributes
                    key = flow_entry.key_of(attributes)
                    if flow_entry.is_gre(key) and flow_entry.is_fixed(attributes):
                        keys.append(key)
                await trio.lowlevel.checkpoint()
        return keys
