"""One run of the lab: build, open every flow, take over there and back, judge."""

import fnmatch
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio

from . import plan, wire
from .daemons import DAEMONS, Daemon
from .flows import catalogue
from .host import Host, LabError, Site
from .judge import Outcome, Row, Verdict, lost
from .netns import site as netns_site
from .remote import Remote, agent
from .servers import real_servers

RULESETS = ("nftables.conf", "lab.nft")
TAKEOVERS = 2
OPEN_LIMIT_S, ARM_LIMIT_S, PROVE_LIMIT_S = 20.0, 10.0, 10.0
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

    daemon: str
    mode: str
    rows: list[Row]
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
    near: dict[str, str]
    """Flow → the host whose agent runs it."""

    def firewall(self, name: str) -> Host:
        """Return a firewall."""
        return self.site.hosts[name]

    def living(self) -> list[Row]:
        """Return the rows still worth trying."""
        return [row for row in self.run.rows if row.living]

    async def phase(self, operation: str, limit_s: float, note: Callable[[Row, wire.Report], None]) -> None:
        """Have all agents take their living flows through a phase, and note each report as it comes."""
        rows = {row.name: row for row in self.living()}

        async def one(host: str) -> None:
            names = [name for name in rows if self.near[name] == host]
            async for report in self.remotes[host].reports(operation, flows=names, limit_s=limit_s):
                note(rows[report.flow], report)
                self.observer.row(rows[report.flow])

        async with trio.open_nursery() as nursery:
            for host in (plan.CLIENT, plan.SERVER):
                nursery.start_soon(one, host)


def select(pattern: str) -> list[tuple[Row, str]]:
    """Return a row and the near host for each flow whose name matches; LabError if none does."""
    chosen = [
        (Row(name=flow.name, title=flow.title, takeovers=TAKEOVERS), flow.near)
        for flow in catalogue()
        if fnmatch.fnmatch(flow.name, pattern)
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


async def run_lab(*, daemon: str, mode: str, observer: Observer, only: str = "*", keep: Keep | None = None) -> Run:
    """Run the lab once; LabError if it cannot be built. Everything is removed when this returns or raises."""
    begun = time.monotonic()
    chosen = select(only)
    run = Run(daemon=daemon, mode=mode, rows=[row for row, _ in chosen])
    near = {row.name: host for row, host in chosen}
    async with AsyncExitStack() as stack:
        observer.step("building client, server and two firewalls")
        site = await stack.enter_async_context(netns_site())
        try:
            await _play(await _built(stack, site, run, near, observer))
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


async def _built(stack: AsyncExitStack, site: Site, run: Run, near: dict[str, str], observer: Observer) -> Lab:
    """Start everything up to daemons and servers, which `stack` ends; the first firewall has the addresses."""
    daemon = DAEMONS[run.daemon](run.mode)
    stack.push_async_callback(_shielded, daemon.kill_all)
    firewalls = tuple(site.hosts[name] for name in plan.FIREWALLS)
    for host in firewalls:
        for ruleset in RULESETS:
            await host.run("nft", "-f", "-", stdin=Path(__file__).with_name(ruleset).read_text())
    remotes = {host.name: await stack.enter_async_context(agent(host)) for host in site.hosts.values()}
    await remotes[plan.FIREWALLS[0]].do("adopt")
    for name in (plan.CLIENT, plan.SERVER):
        await remotes[name].do("publish")
        await remotes[name].do("serve")
    await stack.enter_async_context(real_servers(site.hosts))
    observer.step(f"starting {daemon.name} on both firewalls" if run.daemon != "none" else "no daemon")
    await daemon.prepare(firewalls)
    for host, role in zip(firewalls, ("active", "backup"), strict=True):
        await daemon.start(host, role)
    return Lab(
        site=site,
        daemon=daemon,
        remotes=remotes,
        run=run,
        observer=observer,
        near=near,
    )


async def _shielded(work: Callable[[], Awaitable[None]]) -> None:
    with trio.CancelScope(shield=True):
        await work()


async def _open(lab: Lab) -> None:
    """Open all flows; from then on neither firewall lets a new one begin, only what is related."""
    lab.observer.step(f"opening {len(lab.run.rows)} flows")

    def note(row: Row, report: wire.Report) -> None:
        row.broken = report.reason

    await lab.phase("open", OPEN_LIMIT_S, note)
    for name in plan.FIREWALLS:
        await lab.firewall(name).run("nft", "flush", "chain", "inet", "house", "new")


async def _arm(lab: Lab, active: str, backup: str) -> None:
    def note(row: Row, report: wire.Report) -> None:
        if not report.alive:
            row.broken = f"before the takeover: {report.reason}"

    await lab.phase("arm", ARM_LIMIT_S, note)
    await lab.daemon.synced(lab.firewall(active), lab.firewall(backup))
    await trio.sleep(QUIET_S)


async def _take_over(lab: Lab, active: str, backup: str) -> None:
    """Let the backup take over and see who lives."""
    lab.observer.step(f"takeover {len(lab.run.takeovers) + 1}: {active} is cut off, {backup} takes over")
    answered_before = await _errors_answered(lab.firewall(backup))
    takeover = await _switch(lab, active, backup)
    lab.run.takeovers.append(takeover)

    def note(row: Row, report: wire.Report) -> None:
        verdict = Verdict.SURVIVED if report.alive else Verdict.LOST
        row.outcomes.append(Outcome(verdict=verdict, pause_s=report.pause_s, reason=report.reason))

    await lab.phase("prove", PROVE_LIMIT_S, note)
    takeover.errors_answered = await _errors_answered(lab.firewall(backup)) - answered_before
    takeover.account = await lab.daemon.account(lab.firewall(backup))
    lab.observer.took_over(lab.run)


async def _switch(lab: Lab, active: str, backup: str) -> Takeover:
    """Cut the active off, kill its daemon, promote the other, move the addresses."""
    begun = time.monotonic()
    await lab.site.cut(active)
    for host in (plan.CLIENT, plan.SERVER):
        await lab.remotes[host].do("cut")
    await lab.daemon.kill(lab.firewall(active))
    if lab.daemon.addresses_first:
        await lab.remotes[backup].do("adopt")
    promoting = time.monotonic()
    await lab.daemon.promote(lab.firewall(backup))
    promoted = time.monotonic()
    if not lab.daemon.addresses_first:
        await lab.remotes[backup].do("adopt")
    done = time.monotonic()
    return Takeover(failed=active, successor=backup, promote_s=promoted - promoting, seconds=done - begun)


async def _errors_answered(host: Host) -> int:
    """Return how many packets that host has answered with an error so far."""
    counters = json.loads(await host.run("nstat", "-asjz", *ERROR_COUNTERS))
    return sum(counters["kernel"].values())


async def _revive(lab: Lab, name: str) -> None:
    """Bring the failed firewall back as the backup. Its kernel still has the table of its own days."""
    lab.observer.step(f"{name} comes back as the backup")
    await lab.remotes[name].do("release")
    await lab.site.heal(name)
    await lab.daemon.start(lab.firewall(name), "backup")
