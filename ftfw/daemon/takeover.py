"""Putting the store into the kernel, and what follows: right timers, nothing stale, GRE kept alive."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import chain

import trio

from ftfw.control import Progress
from ftfw.daemon.host import SYSCTLS
from ftfw.kernel import entry, expectation
from ftfw.kernel.inject import Flow, Injector, Outcome, in_order
from ftfw.kernel.netlink import dump_flows
from ftfw.kernel.rewrite import PINNED_S
from ftfw.kernel.select import Selector, key_in
from ftfw.store import Store

log = logging.getLogger(__name__)

PROGRESS_S = 0.25
GRE_CHECK_S = 5.0


@dataclass(frozen=True, slots=True)
class Commit:
    """How a commit went."""

    seconds: float
    outcome: Outcome


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


async def commit(store: Store, injector: Injector, progress: Progress) -> Commit:
    """Put everything that is held into the kernel in promise 2's order; every entry is tried."""
    begun = trio.current_time()
    outcome = Outcome()
    report = _Reporter(store.flow_count() + len(store.expectations), progress)
    await _create(store.plain.items(), store.rich.items(), injector, outcome, report=report)
    await injector.expect(_zoned(store, store.expectations), outcome)
    done = Commit(trio.current_time() - begun, outcome)
    log.info(
        "commit: %d created, %d updated, %d replaced, failed: %s, otherwise than asked for: %s, %.3f s",
        outcome.created,
        outcome.updated,
        outcome.deleted,
        dict(outcome.failed) or "none",
        dict(outcome.remedied) or "none",
        done.seconds,
    )
    return done


async def commit_rest(store: Store, injector: Injector, outcome: Outcome) -> Commit:
    """Hot: everything is in the kernel but for what came last."""
    begun = trio.current_time()
    await follow(store, injector, outcome, whole=True)
    return Commit(trio.current_time() - begun, outcome)


async def _create(
    plain: Iterable[Flow],
    rich: Iterable[Flow],
    injector: Injector,
    outcome: Outcome,
    *,
    pinned: bool = False,
    report: _Reporter | None = None,
) -> None:
    """Flows without a master, then those with one, then a look whether helpers are there."""
    rich = list(rich)
    alone = [flow for flow in rich if not entry.has_master(flow[1])]
    related = [flow for flow in rich if entry.has_master(flow[1])]
    with _counting(any(entry.is_gre(key) for key, _ in alone)):
        first = chain(plain, alone)
        if report is None:
            await injector.create(first, outcome, pinned=pinned)
        else:
            await injector.create(first, outcome, pinned=pinned, report=report)
        await injector.create(in_order(related), outcome, pinned=pinned)
    await injector.verify_helpers(rich, outcome, pinned=pinned)


@contextmanager
def _counting(needed: bool) -> Iterator[None]:
    """Entries that are created meanwhile count their packets: it is how `GreKeeper` knows that a flow lives."""
    sysctl = SYSCTLS / "nf_conntrack_acct"
    if not needed or not sysctl.exists() or (before := sysctl.read_text()).strip() != "0":
        yield
        return
    sysctl.write_text("1")
    try:
        yield
    finally:
        sysctl.write_text(before)


def _zoned(store: Store, keys: Iterable[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
    for key in keys:
        yield key, store.expectations[key], store.zone_of(key)


async def follow(store: Store, injector: Injector, outcome: Outcome, *, whole: bool = False) -> None:
    """Hot standby: make this kernel follow what changed in the store.  Timers are pinned: no traffic renews them.

    While a snapshot comes in, what needs a master waits for its end, because the master may come later; `whole`: it
    waits no more.
    """
    changes = store.take_changes()
    if not changes:
        return
    if store.in_snapshot and not whole:
        waiting = {key for key in changes if _needs_master(store, key)}
        store.put_back(waiting)
        changes -= waiting
    gone, gone_expectations, expected = [], [], []
    plain: list[Flow] = []
    rich: list[Flow] = []
    for key in changes:
        if expectation.is_key(key):
            if key in store.expectations:
                expected.append(key)
            else:
                gone_expectations.append((key, store.zone_of(key)))
        elif (value := store.plain.get(key)) is not None:
            plain.append((key, value))
        elif (value := store.rich.get(key)) is not None:
            rich.append((key, value))
        else:
            gone.append(key)
    zoned = list(_zoned(store, expected))
    await injector.unexpect(gone_expectations, outcome)
    await injector.delete(gone, outcome)
    await _create(plain, rich, injector, outcome, pinned=True)
    await injector.expect(zoned, outcome, pinned=True)


def _needs_master(store: Store, key: bytes) -> bool:
    if expectation.is_key(key):
        return key in store.expectations
    value = store.rich.get(key)
    return value is not None and entry.has_master(value)


async def repin(store: Store, injector: Injector) -> None:
    """Hot standby: wind up all timers again, long before they run out."""
    flows = [flow for flow in chain(store.plain.items(), store.rich.items()) if not entry.is_gre(flow[0])]
    await injector.set_timeouts(flows, Outcome(), pinned=True)
    gre = [flow for flow in store.rich.items() if entry.is_gre(flow[0])]
    await injector.delete([key for key, _ in gre], Outcome())
    await _create((), gre, injector, Outcome(), pinned=True)


async def settle(store: Store, injector: Injector, selector: Selector) -> None:
    """After a hot promotion: give the timers that no packet has set yet what their state would give them."""
    outcome = Outcome()
    async with aclosing(dump_flows()) as batches:
        async for batch in batches:
            late = []
            for message in selector.select(list(map(entry.as_full, batch))).messages:
                attributes = entry.parse(message).attributes
                key = entry.key_of(attributes)
                value = store.get_flow(key)
                if value is not None and entry.timeout_of(attributes) > PINNED_S // 2:
                    late.append((key, value))
            gre = [flow for flow in late if entry.is_gre(flow[0])]
            await injector.set_timeouts((flow for flow in late if not entry.is_gre(flow[0])), outcome)
            await injector.delete((key for key, _ in gre), Outcome())
            await _create((), gre, injector, outcome)
    await injector.set_expectation_timeouts(_zoned(store, list(store.expectations)))
    log.info("timers of %d entries set", outcome.updated)


async def purge(store: Store, injector: Injector, selector: Selector, *, keep_held: bool) -> int:
    """Delete this kernel's replicated flows, but for those that are held if `keep_held`; returns how many went.

    Only once a live active's snapshot is complete (promise 6): until then the kernel's table is the store.
    """
    outcome = Outcome()
    stale: list[bytes] = []
    async with aclosing(dump_flows()) as batches:
        async for batch in batches:
            keys = map(key_in, selector.select(list(map(entry.as_full, batch))).messages)
            stale += [key for key in keys if not (keep_held and store.get_flow(key) is not None)]
    await injector.delete(stale, outcome)
    return outcome.deleted


class GreKeeper:
    """Keeps committed GRE flows alive: their entries never renew their timers, and cannot be given new ones.

    An entry that has let packets through since it was created is created again before it runs out; one that has not
    runs out.
    """

    def __init__(self, store: Store, injector: Injector) -> None:
        self._flows = {key: value for key, value in store.rich.items() if entry.is_gre(key)}
        self._injector = injector

    async def run(self) -> None:
        """Watch until none is left."""
        while self._flows:
            await trio.sleep(GRE_CHECK_S)
            found = self._injector.get(list(self._flows))
            self._flows = {key: value for key, value in self._flows.items() if key in found}
            due = [
                (key, value)
                for key, value in self._flows.items()
                if entry.timeout_of(found[key]) < 3 * GRE_CHECK_S and entry.packets_of(found[key])
            ]
            await self._injector.delete((key for key, _ in due), Outcome())
            with _counting(bool(due)):
                await self._injector.create(due, Outcome())
