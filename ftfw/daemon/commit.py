"""Putting the store into the kernel, and what follows: right timers, nothing stale, GRE kept alive."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain

import trio

from ftfw.control.server import Progress
from ftfw.kernel import expectation, flow_entry, uapi
from ftfw.kernel.create import DOUBTED_S
from ftfw.kernel.event_selector import Selector, key_in
from ftfw.kernel.injector import RESOLVE_BATCH, Flow, Injector, Outcome, batches, in_order
from ftfw.kernel.netlink import dump_expectations, dump_fixed_flows, dump_flows
from ftfw.replication.store import Store
from ftfw.system.sysctl import SYSCTLS

log = logging.getLogger(__name__)

PROGRESS_S = 0.25
GRE_CHECK_S = 5.0
SORTED_AT_ONCE = 256  # entries sorted between two checkpoints: about a millisecond

Zoned = tuple[bytes, bytes, bytes]
"""Key and value of an expectation, and its master's CTA_ZONE attribute or nothing."""


class _Reporter:
    """Progress in the log and for the client, at most four times a second."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._next = trio.current_time() + PROGRESS_S

    async def __call__(self, tried: int) -> None:
        if trio.current_time() < self._next:
            return
        self._next = trio.current_time() + PROGRESS_S
        log.info("commit: %d of %d entries", tried, self._total)
        await self._progress({"done": tried, "total": self._total})


async def commit(
    store: Store, injector: Injector, outcome: Outcome, progress: Progress, *, renew: bool = False
) -> None:
    """Put everything that is held into the kernel in promise 2's order; every entry is tried.

    `renew`: no traffic passes, so that what is there already may be missing for a moment.
    """
    report = _Reporter(store.flow_count() + len(store.expectations), progress)
    await _create(store.plain.items(), await _sort(store.rich.items()), injector, outcome, renew=renew, report=report)
    await injector.expect(_zoned(store, store.expectations), outcome)


async def commit_rest(store: Store, injector: Injector, outcome: Outcome, refused: set[bytes]) -> None:
    """Hot: everything is in the kernel but for what came last, and what the kernel `refused`: that is tried again."""
    store.put_back(refused)
    await follow(store, injector, outcome, whole=True)


@dataclass(slots=True)
class _Sorted:
    """Rich flows by what is done with them."""

    alone: list[Flow] = field(default_factory=list)
    related: list[Flow] = field(default_factory=list)
    helped: list[Flow] = field(default_factory=list)
    any_gre: bool = False

    def add(self, key: bytes, value: bytes) -> None:
        (self.related if flow_entry.has_master(value) else self.alone).append((key, value))
        if flow_entry.has_helper(value):
            self.helped.append((key, value))
        self.any_gre = self.any_gre or flow_entry.is_gre(key)


async def _sort(rich: Iterable[Flow]) -> _Sorted:
    found = _Sorted()
    for batch in batches(rich, SORTED_AT_ONCE):
        for flow in batch:
            found.add(*flow)
        await trio.lowlevel.checkpoint()
    return found


async def _create(
    plain: Iterable[Flow],
    rich: _Sorted,
    injector: Injector,
    outcome: Outcome,
    *,
    pinned: bool = False,
    replace: bool = True,
    renew: bool = False,
    report: _Reporter | None = None,
) -> list[bytes]:
    """Flows without a master, then those with one, then a look whether helpers are there.

    Returns the keys of those that were deleted and created anew: the kernel has forgotten their expectations.
    """
    with _counting(rich.any_gre):
        first = chain(plain, rich.alone)
        if report is None:
            anew = await injector.create(first, outcome, pinned=pinned, replace=replace, renew=renew)
        else:
            anew = await injector.create(first, outcome, pinned=pinned, replace=replace, renew=renew, report=report)
        related = await in_order(rich.related)
        anew += await injector.create(related, outcome, pinned=pinned, replace=replace, renew=renew)
    return anew + await injector.verify_helpers(rich.helped, outcome, pinned=pinned)


@contextmanager
def _counting(needed: bool) -> Iterator[None]:
    """Entries that are created meanwhile count their packets: it is how `GreKeeper` knows that a flow lives."""
    sysctl = SYSCTLS / "nf_conntrack_acct"
    if not needed or not sysctl.exists() or (before := sysctl.read_text()).strip() != "0":
        yield
        return
    try:
        sysctl.write_text("1")
    except OSError as error:
        log.warning(
            "%s cannot be set (%s): GRE flows that are put into the kernel now do not count their packets, and run out"
            " while in use; set net.netfilter.nf_conntrack_acct = 1 in /etc/sysctl.d/ftfw.conf",
            sysctl,
            error.strerror,
        )
    try:
        yield
    finally:
        with suppress(OSError):  # then it was not set either
            sysctl.write_text(before)


def _zoned(store: Store, keys: Iterable[bytes]) -> Iterator[Zoned]:
    for key in keys:
        yield key, store.expectations[key], store.zone_of(key)


def _expected_by(store: Store, masters: Iterable[bytes]) -> set[bytes]:
    """The keys of the held expectations of these flows."""
    tuples = {flow_entry.tuple_of(key) for key in masters}
    return {key for key in store.expectations if expectation.master_of(key) in tuples} if tuples else set()


class _Changes:
    """What has changed in a store, by what is done about it in a kernel."""

    def __init__(self) -> None:
        self.plain: list[Flow] = []
        self.rich = _Sorted()
        self.expected: list[Zoned] = []
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
            self.expected += _zoned(store, [key])
        else:
            self.gone_expectations.append((key, store.zone_of(key)))

    def _add_flow(self, store: Store, key: bytes) -> None:
        if (value := store.plain.get(key)) is not None:
            self.plain.append((key, value))
        elif (value := store.rich.get(key)) is not None:
            self.rich.add(key, value)
        else:
            self.gone.append(key)


async def follow(store: Store, injector: Injector, outcome: Outcome, *, whole: bool = False) -> None:
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
    anew = await _create(changes.plain, changes.rich, injector, outcome, pinned=True)
    forgotten = _expected_by(store, anew).difference(key for key, _, _ in changes.expected)
    await injector.expect([*changes.expected, *_zoned(store, forgotten)], outcome, pinned=True)


def _needs_master(store: Store, key: bytes) -> bool:
    if expectation.is_key(key):
        return key in store.expectations
    value = store.rich.get(key)
    return value is not None and flow_entry.has_master(value)


async def repin(store: Store, injector: Injector, outcome: Outcome) -> None:
    """Hot standby: wind up all timers again, long before they run out."""
    changes = _Changes()
    await changes.sort(store, [*store.plain, *store.rich], wait=False)
    rich = [*changes.rich.alone, *changes.rich.related]
    await injector.set_timeouts(changes.plain, outcome, pinned=True)
    if changes.rich.any_gre:
        await _recreate([flow for flow in rich if flow_entry.is_gre(flow[0])], injector, outcome, pinned=True)
        rich = [flow for flow in rich if not flow_entry.is_gre(flow[0])]
    await injector.set_timeouts(rich, outcome, pinned=True)


async def _recreate(gre: Iterable[Flow], injector: Injector, outcome: Outcome, *, pinned: bool = False) -> None:
    """Give entries new timers that cannot be set.  What is deleted is created again whatever happens meanwhile."""
    for batch in batches(gre, RESOLVE_BATCH):
        with trio.CancelScope(shield=True):
            again = Outcome(failed=outcome.failed, remedied=outcome.remedied, refused=outcome.refused)
            await injector.delete([key for key, _ in batch], again)
            await _create((), await _sort(batch), injector, again, pinned=pinned)
            outcome.updated += again.created


async def settle(store: Store, injector: Injector, selector: Selector, outcome: Outcome) -> None:
    """Behind a hot promotion, or a commit that broke off: take what was done for a backup out, put in what is lacking.

    Timers that no packet has set yet get what their state would give them, whether held in `store` or not: a daemon
    that was killed as a backup may have left them.  Flows that are held and not in the kernel, whoever has removed
    them, are created; nothing that is there is touched for them.  `store` is used up.
    """
    zones: dict[bytes, bytes] = {}  # original tuple → zone, of flows that may have expectations
    timers = Outcome(failed=outcome.failed)
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
            await _recreate([flow for flow in late if flow_entry.is_gre(flow[0])], injector, timers)
    lacking = [*store.plain, *store.rich]
    await _create(store.plain.items(), await _sort(store.rich.items()), injector, outcome, replace=False)
    await injector.expect(_zoned(store, _expected_by(store, lacking)), outcome)
    await _settle_expectations(store, injector, selector, zones, timers)
    log.info("timers of %d entries set; %d entries were missing, and are put in", timers.updated, outcome.created)
    if outcome.failed:
        log.warning("of what was missing or had to be set, the kernel refused: %s", dict(outcome.failed))


async def _settle_expectations(
    store: Store, injector: Injector, selector: Selector, zones: dict[bytes, bytes], timers: Outcome
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


async def purge(store: Store, injector: Injector, selector: Selector, outcome: Outcome, *, keep_held: bool) -> None:
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


async def loosen(injector: Injector, selector: Selector) -> None:
    """Behind a start as backup: window tracking comes off what this kernel has from before.

    Segments go through another node now, so that its windows are soon out of date; should this node take over before
    a snapshot is in, it is what there is, and its next segments would count as invalid.
    """
    async with aclosing(dump_flows()) as dump:
        async for batch in dump:
            keys = map(key_in, selector.dumped(batch).messages)
            await injector.loosen([key for key in keys if flow_entry.protocol_of(key) == uapi.IPPROTO_TCP])


class GreKeeper:
    """Keeps injected GRE flows alive: their entries never renew their timers, and cannot be given new ones.

    An entry that has let packets through since it was created is created again before it runs out; one that has not
    runs out.
    """

    def __init__(self, injector: Injector, selector: Selector, outcome: Outcome) -> None:
        self._injector = injector
        self._selector = selector
        self._outcome = outcome

    async def run(self) -> None:
        """Watch those that are in the kernel now until none is left."""
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
            await _recreate(due, self._injector, self._outcome)

    async def _find(self) -> list[bytes]:
        """The kernel's entries, whichever daemon has put them in."""
        keys: list[bytes] = []
        async with aclosing(dump_fixed_flows()) as dump:
            async for batch in dump:
                for message in self._selector.dumped(batch).messages:
                    attributes = flow_entry.parse(message).attributes
                    key = flow_entry.key_of(attributes)
                    if flow_entry.is_gre(key) and flow_entry.is_fixed(attributes):
                        keys.append(key)
        return keys
