"""Runs the lab once: builds it, opens every flow, takes over there and back, and judges the flows."""

import fnmatch
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ftfw.lab import topology
from ftfw.lab.agent_client import AgentClient, running_agent
from ftfw.lab.agent_messages import FlowReport
from ftfw.lab.flows import catalogue
from ftfw.lab.flows.flow_base import LabFlow
from ftfw.lab.lab_host import Host, LabError
from ftfw.lab.lab_site import FLOWTABLE_RULES, Site
from ftfw.lab.real_servers import real_servers
from ftfw.lab.replication_daemons import ReplicationDaemon
from ftfw.lab.verdicts import Outcome, Row, Verdict, lost

RULES = Path(__file__).with_name("lab.nft").read_text()
TAKEOVERS = 2
OPEN_LIMIT_S, ARM_LIMIT_S, PROVE_LIMIT_S = 20.0, 10.0, 10.0  # in namespaces; multiplied by the site's patience
ERROR_COUNTERS = ("TcpOutRsts", "IcmpOutDestUnreachs", "Icmp6OutDestUnreachs")
QUIET_S = 0.5
"""Seconds without a packet of the idle flows before a takeover."""


@dataclass(kw_only=True)
class LabTakeover:
    """Holds the figures of one takeover."""

    failed: str
    successor: str
    promote_s: float
    seconds: float
    """Seconds from the cut until the addresses have moved and promote has returned."""
    errors_answered: int = 0
    """Packets that the successor answered with RST or an ICMP error, as it would if its state were late."""
    account: str = ""
    """The daemon's own report on its commit."""


@dataclass(kw_only=True)
class LabRun:
    """Holds the parameters and the results of one run."""

    site: str
    daemon: str
    mode: str
    rows: list[Row]
    kernels: dict[str, str] = field(default_factory=dict)
    """Kernel release of each firewall, by its name."""
    takeovers: list[LabTakeover] = field(default_factory=list)
    seconds: float = 0.0


class Observer:
    """Receives each event of the runs when it happens. This base class only keeps the finished runs."""

    def __init__(self) -> None:
        self.runs: list[LabRun] = []
        self.standing = False

    def step(self, text: str) -> None:
        """Report that a step of that description begins."""

    def took_over(self, run: LabRun) -> None:
        """Report that the last takeover of the run has been judged."""

    def row(self, row: Row) -> None:
        """Report that the row of a flow has changed."""

    def finished(self, run: LabRun) -> None:
        """Report that the run is complete."""
        self.runs.append(run)

    def kept(self, commands: Sequence[str], failure: str) -> None:  # noqa: ARG002
        """Report that the lab is kept.

        `commands` lead into its hosts; `failure` tells why the run broke off, and is empty otherwise.
        """
        self.standing = True


@dataclass(kw_only=True)
class Lab:
    """Holds the parts of a lab that is built."""

    site: Site
    daemon: ReplicationDaemon
    agents: dict[str, AgentClient]
    run: LabRun
    observer: Observer
    flows: dict[str, LabFlow]

    def firewall(self, name: str) -> Host:
        """Return the firewall of that name."""
        return self.site.hosts[name]

    def living(self) -> list[Row]:
        """Return the rows of the flows that have not been lost."""
        return [row for row in self.run.rows if row.living]

    async def phase(self, operation: str, limit_s: float, note: Callable[[Row, FlowReport], None]) -> None:
        """Have all agents run a phase of their living flows, and call `note` with each report as it arrives.

        `limit_s` is the time limit of each flow in namespaces.
        """
        rows = {row.name: row for row in self.living()}

        async def one(host: str) -> None:
            names = [name for name in rows if self.flows[name].near == host]
            limit = limit_s * self.site.patience
            async for report in self.agents[host].reports(operation, flows=names, limit_s=limit):
                note(rows[report.flow], report)
                self.observer.row(rows[report.flow])

        async with trio.open_nursery() as nursery:
            for host in (topology.CLIENT, topology.SERVER):
                nursery.start_soon(one, host)


def select_flows(pattern: str, *, flowtables: bool = False) -> list[LabFlow]:
    """Return the flows whose name matches the pattern; with `flowtables`, also those that need a flowtable.

    Raises LabError if no name matches.
    """
    chosen = [
        flow
        for flow in catalogue()
        if fnmatch.fnmatch(flow.name, pattern) and (flowtables or not flow.offloaded_source)
    ]
    if not chosen:
        raise LabError(f"no flow is called {pattern!r}; a run of all flows prints their names")
    return chosen


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Requests that a run keep its lab afterwards."""

    released: trio.Event
    """Set when the lab may be removed."""
    failed_only: bool
    """Keep the lab only if the run broke off or lost a flow."""


async def run_lab(
    *,
    site_name: str,
    site: AbstractAsyncContextManager[Site],
    daemon: type[ReplicationDaemon],
    mode: str,
    observer: Observer,
    only: str = "*",
    keep: Keep | None = None,
) -> LabRun:
    """Run the lab once and return the results; everything is removed when this returns or raises.

    `site` builds the lab, `site_name` names it in the results. `only` is a pattern of flow names.
    Raises LabError if the lab cannot be built.
    """
    begun = time.monotonic()
    select_flows(only, flowtables=True)
    run = LabRun(site=site_name, daemon=daemon.name, mode=mode, rows=[])
    async with AsyncExitStack() as stack:
        observer.step("building client, server and two firewalls")
        built = await stack.enter_async_context(site)
        try:
            await _play(await _start_all(stack, built, daemon(mode, built.patience), run, only=only, observer=observer))
            run.seconds = time.monotonic() - begun
            observer.finished(run)
        except Exception as error:
            if keep is not None:
                observer.kept(await built.describe(), str(first_of(error)) or repr(error))
                await keep.released.wait()
            raise
        if keep is not None and (lost(run.rows) or not keep.failed_only):
            observer.kept(await built.describe(), "")
            await keep.released.wait()
    return run


def first_of(error: BaseException) -> BaseException:
    """Return the first error in a group, or the error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _play(lab: Lab) -> None:
    """Run both takeovers, the second one only if a flow still lives."""
    await _open(lab)
    active, backup = topology.FIREWALLS
    await _arm(lab, active, backup)
    await _take_over(lab, active, backup)
    if lab.living():
        await _revive(lab, active)
        active, backup = backup, active
        await _arm(lab, active, backup)
        await _take_over(lab, active, backup)


async def _start_all(
    stack: AsyncExitStack, site: Site, daemon: ReplicationDaemon, run: LabRun, *, only: str, observer: Observer
) -> Lab:
    """Start agents, servers and daemons, which `stack` ends, and return the lab; the first firewall is active."""
    stack.push_async_callback(_shielded, daemon.kill_all)
    firewalls = tuple(site.hosts[name] for name in topology.FIREWALLS)
    flows = select_flows(only, flowtables=bool(site.flowtables))
    run.rows = [Row(name=flow.name, title=flow.title, takeovers=TAKEOVERS) for flow in flows]
    run.kernels = {host.name: (await host.run("uname", "-r")).strip() for host in firewalls}
    for host in firewalls:
        await site.add_rules(host.name, site.missing_rules + RULES)
        await _offload(site, host)
    with_agent = [host for host in site.hosts.values() if host not in firewalls or not daemon.own_addresses]
    agents = {host.name: await stack.enter_async_context(running_agent(host)) for host in with_agent}
    if not daemon.own_addresses:
        await agents[topology.FIREWALLS[0]].do("adopt")
    for name in (topology.CLIENT, topology.SERVER):
        await agents[name].do("publish")
        await agents[name].do("serve")
    await stack.enter_async_context(real_servers(site.hosts, site.patience))
    observer.step(f"starting {daemon.name} on both firewalls" if daemon.name != "none" else "no daemon")
    await daemon.prepare(firewalls)
    for host, role in zip(firewalls, ("active", "backup"), strict=True):
        await daemon.start(host, role)
    return Lab(
        site=site,
        daemon=daemon,
        agents=agents,
        run=run,
        observer=observer,
        flows={flow.name: flow for flow in flows},
    )


async def _offload(site: Site, host: Host) -> None:
    """Add the flowtable to a firewall that has one. Not at its boot: a flowtable needs its interfaces to be there."""
    if host.name in site.flowtables:
        await host.run("nft", "-f", "-", stdin=FLOWTABLE_RULES)


async def _shielded(work: Callable[[], Awaitable[None]]) -> None:
    with trio.CancelScope(shield=True):
        await work()


async def _open(lab: Lab) -> None:
    """Open all flows; from then on both firewalls accept no new flows except related ones."""
    lab.observer.step(f"opening {len(lab.run.rows)} flows")

    def note(row: Row, report: FlowReport) -> None:
        row.broken = f"never worked: {report.reason}" if report.reason else ""

    await lab.phase("open", OPEN_LIMIT_S, note)
    for name in topology.FIREWALLS:
        await lab.site.add_rules(name, "flush chain inet house new\n")


async def _arm(lab: Lab, active: str, backup: str) -> None:
    def note(row: Row, report: FlowReport) -> None:
        if not report.alive:
            row.broken = f"before takeover {len(lab.run.takeovers) + 1}: {report.reason}"

    await lab.phase("arm", ARM_LIMIT_S, note)
    await _check_offloaded(lab, active)
    await lab.daemon.synced(lab.firewall(active), lab.firewall(backup))
    await trio.sleep(QUIET_S)


async def _check_offloaded(lab: Lab, active: str) -> None:
    """Check that the flows for the active's flowtable are in it; mark those that are not as broken."""
    rows = [row for row in lab.living() if lab.flows[row.name].offloaded_source]
    if not rows or active not in lab.site.flowtables:
        return
    for row in rows:
        listed = await lab.firewall(active).run("conntrack", "-L", "-s", lab.flows[row.name].offloaded_source)
        if "[OFFLOAD]" not in listed:
            row.broken = f"not in the flowtable of {active}: {listed.strip()}"
            lab.observer.row(row)


async def _take_over(lab: Lab, active: str, backup: str) -> None:
    """Let the backup take over, and record which flows survive."""
    lab.observer.step(f"takeover {len(lab.run.takeovers) + 1}: {active} is cut off, {backup} takes over")
    answered_before = await _errors_answered(lab.firewall(backup))
    takeover = await _switch(lab, active, backup)
    lab.run.takeovers.append(takeover)

    def note(row: Row, report: FlowReport) -> None:
        verdict = Verdict.SURVIVED if report.alive else Verdict.LOST
        row.outcomes.append(Outcome(verdict=verdict, pause_s=report.pause_s, reason=report.reason))

    await lab.phase("prove", PROVE_LIMIT_S, note)
    takeover.errors_answered = await _errors_answered(lab.firewall(backup)) - answered_before
    takeover.account = await lab.daemon.account(lab.firewall(backup))
    lab.observer.took_over(lab.run)


async def _switch(lab: Lab, active: str, backup: str) -> LabTakeover:
    """Cut the active off, and wait until the backup has taken its place."""
    for host in (topology.CLIENT, topology.SERVER):
        await lab.agents[host].do("cut")
    begun = time.monotonic()
    await lab.site.cut(active)
    await lab.daemon.kill(lab.firewall(active))
    promote_s = await lab.daemon.take_over(lab.firewall(backup), lambda: lab.agents[backup].do("adopt"))
    return LabTakeover(failed=active, successor=backup, promote_s=promote_s, seconds=time.monotonic() - begun)


async def _errors_answered(host: Host) -> int:
    """Return the number of packets that the host has answered with an error so far."""
    counters = json.loads(await host.run("nstat", "-asjz", *ERROR_COUNTERS))
    return sum(counters["kernel"].values())


async def _revive(lab: Lab, name: str) -> None:
    """Bring the failed firewall back as the backup. In namespaces its kernel still has its old table."""
    lab.observer.step(f"{name} comes back as the backup")
    if not lab.daemon.own_addresses:
        await lab.agents[name].do("release")
    await lab.site.heal(name)
    await _offload(lab.site, lab.firewall(name))
    await lab.daemon.start(lab.firewall(name), "backup")
