"""Carry out plans of injection: hand their steps to the injector."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby

import trio

from ftfw.kernel import flow_entry
from ftfw.kernel.create import DOUBTED_S
from ftfw.kernel.create_bulk import batches
from ftfw.kernel.flow_entry import HeldFlow
from ftfw.kernel.injector import InjectionOutcome, Injector, Report, report_to_nobody
from ftfw.replication.injection_plan import (
    RESOLVED_AT_ONCE,
    CreateExpectations,
    CreateFlows,
    CreateGreFlows,
    DeleteExpectations,
    DeleteFlows,
    DeletePinnedFlows,
    Pause,
    Step,
    VerifyHelpers,
)
from ftfw.system.sysctl import SYSCTLS

log = logging.getLogger(__name__)


async def carry_out(
    steps: Iterable[Step],
    injector: Injector,
    outcome: InjectionOutcome,
    *,
    pinned: bool = False,
    replace: bool = True,
    overwrite: bool = False,
    report: Report = report_to_nobody,
) -> None:
    """Carry out `steps` in their order; `pinned`, `replace`, `overwrite` and `report` are as in `Injector.create`.

    Steps that create flows one after the other go through one pipeline. A step during which this is cancelled may have
    been carried out in part.
    """
    create = partial(
        injector.create, outcome=outcome, pinned=pinned, replace=replace, overwrite=overwrite, report=report
    )
    for kind, group in groupby(steps, type):
        if kind is CreateFlows:
            await create(step.flows for step in group if isinstance(step, CreateFlows))
            continue
        for step in group:
            if isinstance(step, CreateGreFlows):
                with _counting_packets():
                    await create([step.flows])
            elif isinstance(step, CreateExpectations):
                await injector.create_expectations(step.expectations, outcome, pinned=pinned)
                await report(len(step.expectations))
            else:
                await _carry_out_other(step, injector, outcome, pinned=pinned)


async def _carry_out_other(step: Step, injector: Injector, outcome: InjectionOutcome, *, pinned: bool) -> None:
    match step:
        case DeleteExpectations(ended):
            await injector.delete_expectations(ended, outcome)
        case DeleteFlows(keys):
            await injector.delete(keys, outcome)
        case DeletePinnedFlows(keys):
            found = await injector.get(keys)
            pinned_keys = [key for key in found if flow_entry.timeout_of(found[key]) >= DOUBTED_S]
            await injector.delete(pinned_keys, outcome)
        case VerifyHelpers(flows):
            await injector.verify_helpers(flows, outcome, pinned=pinned)
        case Pause():
            await trio.lowlevel.checkpoint()


async def recreate(
    gre: Iterable[HeldFlow], injector: Injector, outcome: InjectionOutcome, *, pinned: bool = False
) -> None:
    """Restart the timers of GRE entries, which cannot be set: delete the entries and create them again.

    A flow that was deleted is created again even if this is cancelled in between.
    """
    for flows in batches(gre, RESOLVED_AT_ONCE):
        with trio.CancelScope(shield=True):
            again = InjectionOutcome(failed=outcome.failed, remedied=outcome.remedied, refused=outcome.refused)
            steps: list[Step] = [DeleteFlows([key for key, _ in flows]), CreateGreFlows(flows)]
            await carry_out(steps, injector, again, pinned=pinned)
            outcome.updated += again.created


@contextmanager
def _counting_packets() -> Iterator[None]:
    """Let entries created in this context count their packets: `GreKeeper` sees by that which flows are in use.

    The kernel gives an entry its counters when it is created, if nf_conntrack_acct is set then (nf_ct_acct_ext_add).
    """
    sysctl = SYSCTLS / "nf_conntrack_acct"
    if not sysctl.exists() or (before := sysctl.read_text()).strip() != "0":
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
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # it could be written before
            sysctl.write_text(before)
