"""Create flows and expectations in this kernel in the order of promise 2: masters first, expectations last."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain

import trio

from ftfw.kernel import expectation, flow_entry
from ftfw.kernel.injector import RESOLVE_BATCH, Flow, InjectionOutcome, Injector, Report, batches, in_order, unheard
from ftfw.replication.store import Store
from ftfw.system.sysctl import SYSCTLS

log = logging.getLogger(__name__)

SORTED_AT_ONCE = 256  # entries sorted between two checkpoints: about a millisecond

ZonedExpectation = tuple[bytes, bytes, bytes]
"""Key and value of an expectation, and its master's CTA_ZONE attribute or nothing."""


@dataclass(slots=True)
class SortedFlows:
    """Rich flows by what is done with them."""

    alone: list[Flow] = field(default_factory=list)
    related: list[Flow] = field(default_factory=list)
    helped: list[Flow] = field(default_factory=list)
    any_gre: bool = False

    def add(self, key: bytes, value: bytes) -> None:
        """Sort one flow in."""
        (self.related if flow_entry.has_master(value) else self.alone).append((key, value))
        if flow_entry.has_helper(value):
            self.helped.append((key, value))
        self.any_gre = self.any_gre or flow_entry.is_gre(key)


async def sort_flows(rich: Iterable[Flow]) -> SortedFlows:
    """Sort flows by what is done with them, with checkpoints between."""
    found = SortedFlows()
    for batch in batches(rich, SORTED_AT_ONCE):
        for flow in batch:
            found.add(*flow)
        await trio.lowlevel.checkpoint()
    return found


async def create_in_order(
    plain: Iterable[Flow],
    rich: SortedFlows,
    injector: Injector,
    outcome: InjectionOutcome,
    *,
    pinned: bool = False,
    replace: bool = True,
    renew: bool = False,
    report: Report = unheard,
) -> list[bytes]:
    """Flows without a master, then those with one, then a look whether helpers are there.

    Returns the keys of those that were deleted and created anew: the kernel has forgotten their expectations.
    """
    with _counting_packets(rich.any_gre):
        first = chain(plain, rich.alone)
        anew = await injector.create(first, outcome, pinned=pinned, replace=replace, renew=renew, report=report)
        related = await in_order(rich.related)
        anew += await injector.create(related, outcome, pinned=pinned, replace=replace, renew=renew)
    return anew + await injector.verify_helpers(rich.helped, outcome, pinned=pinned)


@contextmanager
def _counting_packets(needed: bool) -> Iterator[None]:
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


async def recreate(gre: Iterable[Flow], injector: Injector, outcome: InjectionOutcome, *, pinned: bool = False) -> None:
    """Give entries new timers that cannot be set.  What is deleted is created again whatever happens meanwhile."""
    for batch in batches(gre, RESOLVE_BATCH):
        with trio.CancelScope(shield=True):
            again = InjectionOutcome(failed=outcome.failed, remedied=outcome.remedied, refused=outcome.refused)
            await injector.delete([key for key, _ in batch], again)
            await create_in_order((), await sort_flows(batch), injector, again, pinned=pinned)
            outcome.updated += again.created


def with_zones(store: Store, keys: Iterable[bytes]) -> Iterator[ZonedExpectation]:
    """Yield held expectations as the injector wants them."""
    for key in keys:
        yield key, store.expectations[key], store.zone_of(key)


def expected_by(store: Store, masters: Iterable[bytes]) -> set[bytes]:
    """The keys of the held expectations of these flows."""
    tuples = {flow_entry.tuple_of(key) for key in masters}
    return {key for key in store.expectations if expectation.master_of(key) in tuples} if tuples else set()
