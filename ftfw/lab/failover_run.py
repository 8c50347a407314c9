"""One run of the lab: build, open every flow, take over there and back, judge."""

import fnmatch
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ftfw.lab import agent_messages, plan
from ftfw.lab.daemons import Daemon
from ftfw.lab.flows import catalogue
from ftfw.lab.flows.flow_base import Flow
from ftfw.lab.host import Host, LabError
from ftfw.lab.judge import Outcome, Row, Verdict, lost
from ftfw.lab.remote import Remote, agent
from ftfw.lab.servers import real_servers
from ftfw.lab.site import FLOWTABLE_RULES, Site

RULES = Path(__file__).with_name("lab.nft").read_text()
TAKEOVERS = 2
OPEN_LIMIT_S, ARM_LIMIT_S, PROVE_LIMIT_S = 20.0, 10.0, 10.0  # in namespaces; elsewhere times the site's patience
ERROR_COUNTERS = ("TcpOutRsts", "IcmpOutDestUnreachs", "Icmp6OutDestUnreachs")
QUIET_S = 0.5
"""What idle flows have of idleness before a takeover."""


@dataclass(kw_only=True)
class Takeover:
    """One takeover in figures."""

    failed: str
    successor: str
    promote_s: float
    seconds: float
    """From the cut until the addresses have moved and promote has returned."""
    errors_answered: int = 0
    """Packets that the successor answered with RST or an ICMP error: late state would show there."""
    account: str = ""
    """What the daemon says about its commit."""


@dataclass(kw_only=True)
class Run:
    """What a run is asked to do and what came of it."""

    site: str
    daemon: str
    mode: str
    rows: list[Row]
    kernels: dict[str, str] = field(default_factory=dict)
    """What each firewall runs."""
    takeovers: list[Takeover] = field(default_factory=list)
    seconds: float = 0.0


class Observer:
    """Is told what happens, as it happens. This one only keeps the results."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.standing = False

    def step(self, text: str) -> None:
        """Tell what begins."""

    def took_over(self, run: Run) -> None:
        """Tell that a takeover has been judged."""

    def row(self, row: Row) -> None:
        """Tell that something has been learned about a flow."""

    def finished(self, run: Run) -> None:
        """Tell that everything is known."""
        self.runs.append(run)

    def kept(self, commands: Sequence[str], failure: str) -> None:  # noqa: ARG002
        """Tell that the lab still stands, the commands that lead into it, and why the run failed if it did."""
        self.standing = True


@dataclass(kw_only=True)
class Lab:
    """The lab while it stands."""

    site: Site
    daemon: Daemon
    remotes: dict[str, Remote]
    run: Run
    observer: Observer
    flows: dict[str, Flow]

    def firewall(self, name: str) -> Host:
        """Return a firewall."""
        return self.site.hosts[name]

    def living(self) -> list[Row]:
        """Return the rows still worth trying."""
        return [row for row in self.run.rows if row.living]

    async def phase(self, operation: str, limit_s: float, note: Callable[[Row, agent_messages.Report], None]) -> None:
        """Have all agents take their living flows through a phase, and note each report as it comes."""
        rows = {row.name: row for row in self.living()}

        async def one(host: str) -> None:
            names = [name for name in rows if self.flows[name].near == host]
            limit = limit_s * self.site.patience
            async for report in self.remotes[host].reports(operation, flows=names, limit_s=limit):
                note(rows[report.flow], report)
                self.observer.row(rows[report.flow])

        async with trio.open_nursery() as nursery:
            for host in (plan.CLIENT, plan.SERVER):
                nursery.start_soon(one, host)


def select(pattern: str, *, flowtables: bool = False) -> list[Flow]:
    """Return the flows whose name matches, those that need a flowtable only if there is one; LabError if none does."""
    chosen = [
        flow
        for flow in catalogue()
        if fnmatch.fnmatch(flow.name, pattern) and (flowtables or not flow.offloaded_source)
    ]
    if not chosen:
        raise LabError(f"no flow is called {pattern!r}")
    return chosen


@dataclass(frozen=True, kw_only=True)
class Keep:
    """That a lab is to stay after its run."""

    released: trio.Event
    """Set when it may go."""
    failed_only: bool
    """Only if the run could not be finished, or lost a flow."""


async def run_lab(
    *,
    name: str,
    place: AbstractAsyncContextManager[Site],
    daemon: type[Daemon],
    mode: str,
    observer: Observer,
    only: str = "*",
    keep: Keep | None = None,
) -> Run:
    """Run the lab once, at the place of that name; LabError if it cannot be built.

    Everything is removed when this returns or raises.
    """
    begun = time.monotonic()
    select(only, flowtables=True)
    run = Run(site=name, daemon=daemon.name, mode=mode, rows=[])
    async with AsyncExitStack() as stack:
        observer.step("building client, server and two firewalls")
        site = await stack.enter_async_context(place)
        try:
            await _play(await _built(stack, site, daemon(mode, site.patience), run, only=only, observer=observer))
            run.seconds = time.monotonic() - begun
            observer.finished(run)
        except Exception as error:
            if keep is not None:
                observer.kept(await site.describe(), str(first_of(error)) or repr(error))
                await keep.released.wait()
            raise
        if keep is not None and (lost(run.rows) or not keep.failed_only):
            observer.kept(await site.describe(), "")
            await keep.released.wait()
    return run


def first_of(error: BaseException) -> BaseException:
    """Return the first error in a group, or the error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _play(lab: Lab) -> None:
    """Take the lab through both takeovers."""
    await _open(lab)
    active, backup = plan.FIREWALLS
    await _arm(lab, active, backup)
    await _take_over(lab, active, backup)
    if lab.living():
        await _revive(lab, active)
        active, backup = backup, active
        await _arm(lab, active, backup)
        await _take_over(lab, active, backup)


async def _built(stack: AsyncExitStack, site: Site, daemon: Daemon, run: Run, *, only: str, observer: Observer) -> Lab:
    """Start everything up to daemons and servers, which `stack` ends; the first firewall is active."""
    stack.push_async_callback(_shielded, daemon.kill_all)
    firewalls = tuple(site.hosts[name] for name in plan.FIREWALLS)
    flows = select(only, flowtables=bool(site.flowtables))
    run.rows = [Row(name=flow.name, title=flow.title, takeovers=TAKEOVERS) for flow in flows]
    run.kernels = {host.name: (await host.run("uname", "-r")).strip() for host in firewalls}
    for host in firewalls:
        await site.add_rules(host.name, site.missing_rules + RULES)
        await _offload(site, host)
    agents = [host for host in site.hosts.values() if host not in firewalls or not daemon.own_addresses]
    remotes = {host.name: await stack.enter_async_context(agent(host)) for host in agents}
    if not daemon.own_addresses:
        await remotes[plan.FIREWALLS[0]].do("adopt")
    for name in (plan.CLIENT, plan.SERVER):
        await remotes[name].do("publish")
        await remotes[name].do("serve")
    await stack.enter_async_context(real_servers(site.hosts, site.patience))
    observer.step(f"starting {daemon.name} on both firewalls" if daemon.name != "none" else "no daemon")
    await daemon.prepare(firewalls)
    for host, role in zip(firewalls, ("active", "backup"), strict=True):
        await daemon.start(host, role)
    return Lab(
        site=site,
        daemon=daemon,
        remotes=remotes,
        run=run,
        observer=observer,
        flows={flow.name: flow for flow in flows},
    )


async def _offload(site: Site, host: Host) -> None:
    """Have a firewall's kernel offload the flows that are for it; a flowtable names interfaces, so not at its boot."""
    if host.name in site.flowtables:
        await host.run("nft", "-f", "-", stdin=FLOWTABLE_RULES)


async def _shielded(work: Callable[[], Awaitable[None]]) -> None:
    with trio.CancelScope(shield=True):
        await work()


async def _open(lab: Lab) -> None:
    """Open all flows; from then on neither firewall lets a new one begin, only what is related."""
    lab.observer.step(f"opening {len(lab.run.rows)} flows")

    def note(row: Row, report: agent_messages.Report) -> None:
        row.broken = report.reason

    await lab.phase("open", OPEN_LIMIT_S, note)
    for name in plan.FIREWALLS:
        await lab.site.add_rules(name, "flush chain inet house new\n")


async def _arm(lab: Lab, active: str, backup: str) -> None:
    def note(row: Row, report: agent_messages.Report) -> None:
        if not report.alive:
            row.broken = f"before the takeover: {report.reason}"

    await lab.phase("arm", ARM_LIMIT_S, note)
    await _see_offloaded(lab, active)
    await lab.daemon.synced(lab.firewall(active), lab.firewall(backup))
    await trio.sleep(QUIET_S)


async def _see_offloaded(lab: Lab, active: str) -> None:
    """What is meant to be in the active's flowtable has to be there."""
    rows = [row for row in lab.living() if lab.flows[row.name].offloaded_source]
    if not rows or active not in lab.site.flowtables:
        return
    for row in rows:
        listed = await lab.firewall(active).run("conntrack", "-L", "-s", lab.flows[row.name].offloaded_source)
        if "[OFFLOAD]" not in listed:
            row.broken = f"not in the flowtable of {active}: {listed.strip()}"
            lab.observer.row(row)


async def _take_over(lab: Lab, active: str, backup: str) -> None:
    """Let the backup take over and see who lives."""
    lab.observer.step(f"takeover {len(lab.run.takeovers) + 1}: {active} is cut off, {backup} takes over")
    answered_before = await _errors_answered(lab.firewall(backup))
    takeover = await _switch(lab, active, backup)
    lab.run.takeovers.append(takeover)

    def note(row: Row, report: agent_messages.Report) -> None:
        verdict = Verdict.SURVIVED if report.alive else Verdict.LOST
        row.outcomes.append(Outcome(verdict=verdict, pause_s=report.pause_s, reason=report.reason))

    await lab.phase("prove", PROVE_LIMIT_S, note)
    takeover.errors_answered = await _errors_answered(lab.firewall(backup)) - answered_before
    takeover.account = await lab.daemon.account(lab.firewall(backup))
    lab.observer.took_over(lab.run)


async def _switch(lab: Lab, active: str, backup: str) -> Takeover:
    """Cut the active off, and see the other one take its place."""
    for host in (plan.CLIENT, plan.SERVER):
        await lab.remotes[host].do("cut")
    begun = time.monotonic()
    await lab.site.cut(active)
    await lab.daemon.kill(lab.firewall(active))
    promote_s = await lab.daemon.take_over(lab.firewall(backup), lambda: lab.remotes[backup].do("adopt"))
    return Takeover(failed=active, successor=backup, promote_s=promote_s, seconds=time.monotonic() - begun)


async def _errors_answered(host: Host) -> int:
    """Return how many packets that host has answered with an error so far."""
    counters = json.loads(await host.run("nstat", "-asjz", *ERROR_COUNTERS))
    return sum(counters["kernel"].values())


async def _revive(lab: Lab, name: str) -> None:
    """Bring the failed firewall back as the backup. Its kernel still has the table of its own days."""
    lab.observer.step(f"{name} comes back as the backup")
    if not lab.daemon.own_addresses:
        await lab.remotes[name].do("release")
    await lab.site.heal(name)
    await _offload(lab.site, lab.firewall(name))
    await lab.daemon.start(lab.firewall(name), "backup")
