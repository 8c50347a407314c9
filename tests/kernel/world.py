"""Two firewalls under keepalived between a client and a server that never stop talking: what a takeover costs them.

On top of `vrrp`: the lab's client and server with its real servers and its flows, and those of `talk`. The firewalls
translate the client to the virtual address, and nothing in their rules would hide an error.
"""

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from ftfw.lab import topology
from ftfw.lab.agent_client import AgentClient, running_agent
from ftfw.lab.namespaces import NamespaceHost
from ftfw.lab.real_servers import real_servers
from tests.kernel.crowd import inject_many
from tests.kernel.pair import run, until
from tests.kernel.talk import State
from tests.kernel.vrrp import FIFO, NETWORKS, TRACK_FILE, VIRTUAL, Edit, Router, routers

GATE = '[takeover]\ngate_interfaces = ["lan", "wan"]\n'
FLOWS = (
    *(f"ftp-{way}-{phase}-v4-snat" for way in ("port", "pasv") for phase in ("transfer", "pending")),
    "ftp-eprt-new-v4-snat",
    "tcp-idle-v4-snat",
    "web-download",
    "ssh-session",
)
CROWD_LASTS_S = 7200
PHASE_LIMIT_S, SILENCE_LIMIT_S = 20.0, 10.0

RULES = """
table inet world {
    ct helper ftp {
        type "ftp" protocol tcp
    }
    chain helpers {
        type filter hook prerouting priority mangle
        ct state new tcp dport 21 ct helper set "ftp"
    }
    chain source_nat {
        type nat hook postrouting priority srcnat
        oifname "wan" ip saddr 192.0.2.0/24 snat ip to 198.51.100.1
    }
}
"""
# UDP entries live as long as the crowd's, however often a hot node has wound up their timers and set them right.
PATIENT = {"net.netfilter.nf_conntrack_udp_timeout": str(CROWD_LASTS_S)}
LOUD = {"net.ipv4.icmp_ratelimit": "0", "net.ipv4.icmp_msgs_per_sec": "100000"}  # every error is sent


def advertising(seconds: float) -> Edit:
    """A shorter time between two advertisements, and keepalived ahead of all else on this machine."""
    return lambda text: text.replace("advert_int 0.1", f"advert_int {seconds:g}").replace(
        "global_defs {", "global_defs {\n    vrrp_rt_priority 50\n    vrrp_rlimit_rttime 10000000"
    )


class World:
    """The firewalls, and what goes on between client and server."""

    def __init__(
        self, both: tuple[Router, Router], client: AgentClient, talk: "subprocess.Popen[str]", flows: Sequence[str]
    ) -> None:
        self.both = both
        self._client = client
        self._talk = talk
        self._flows = list(flows)

    def state(self) -> State:
        """How the talk goes."""
        assert self._talk.stdin is not None
        assert self._talk.stdout is not None
        self._talk.stdin.write("\n")
        self._talk.stdin.flush()
        return State.read(self._talk.stdout.readline())

    async def phase(self, operation: str, *, limit_s: float = PHASE_LIMIT_S) -> list[str]:
        """Take the lab's flows through a phase; those that are lost, with the reason."""
        reports = await self._client.do(operation, flows=self._flows, limit_s=limit_s)
        assert len(reports) == len(self._flows)
        lost = [report for report in reports if not report.alive]
        self._flows = [name for name in self._flows if name not in {report.flow for report in lost}]
        return [f"{report.flow}: {report.reason}" for report in lost]

    async def lost(self) -> list[str]:
        """Every flow that does not go on, with the reason."""
        state = self.talked()
        return state.broken + [f"{name}: silent" for name in state.silent] + await self.phase("prove")

    def talked(self) -> State:
        """The talk, once all that live have heard each other anew; after a while without them."""
        begun = time.monotonic()
        while (state := self.state()).heard_since < begun and time.monotonic() < begun + SILENCE_LIMIT_S:
            time.sleep(0.02)
        return state


def start(*these: Router, daemon: bool = True) -> None:
    """The daemons as backups first, then keepalived; the first of them becomes active, and the others are in sync."""
    for router in these:
        if daemon:
            router.node.start("backup")
    for router, first in zip(these, (True, False), strict=False):
        router.start_keepalived()
        until(lambda router=router, first=first: router.has_addresses() is first, "keepalived has decided")  # type: ignore[misc]
    if daemon:
        these[0].is_("active")
        in_sync(*these)


def come_back(router: Router, count: int) -> None:
    """As backup, until it holds so many flows."""
    router.node.start("backup")
    router.start_keepalived()
    router.is_("backup")
    holds(router, count)


def in_sync(*these: Router) -> None:
    until(lambda: all(router.node.status()["synced"] is not False for router in these), "in sync")


def holds(router: Router, count: int) -> None:
    """Wait until a backup is in sync, with so many flows at least."""
    until(lambda: (s := router.node.status())["synced"] and s["flows"] >= count, f"{router.node.name} holds {count}")


def kill(router: Router) -> None:
    """keepalived and daemon, so that neither says anything; kernel, addresses and cables stay as they are."""
    router.kill_keepalived()
    router.node.kill()


def power_cut(router: Router) -> None:
    """All links at once and all processes; of what was in its memory nothing is left."""
    ports(router, "down")
    router.link("sync", "down")
    router.kill_keepalived()
    if router.node.process is not None:
        router.node.kill()
    for interface, address in VIRTUAL.items():
        router.link(interface, "down")  # and packets that wait for a neighbour are no more
        router.node.exec("ip", "address", "delete", f"{address}/24", "dev", interface, check=False)
    router.node.exec("conntrack", "--flush")


def power_up(router: Router) -> None:
    """The cables have their signal again; nothing runs yet."""
    for interface in (*NETWORKS, "sync"):
        router.link(interface, "up")
    ports(router, "up")


def ports(router: Router, state: str, interfaces: Iterable[str] = tuple(NETWORKS)) -> None:
    """The switches' ports of this node, at once: it may try to send, and nobody hears it."""
    name, number = router.node.name, int(router.node.name.removeprefix("fw")) + 1
    lines = "".join(f"link set {interface}{number} {state}\n" for interface in interfaces)
    batch = ("ip", "-netns", router.node.namespace.replace(name, "switch"), "-batch", "-")
    subprocess.run(batch, input=lines, text=True, check=True)


@asynccontextmanager
async def world(
    workdir: Path,
    *,
    mode: str = "warm",
    gate: bool = True,
    daemon: bool = True,
    crowd: int = 0,
    flows: Sequence[str] = FLOWS,
    edits: Sequence[Edit] = (),
) -> AsyncIterator[World]:
    """All of it, everybody talking and the flows opened and armed; the first firewall is active.

    `crowd`: so many flows besides, of which nobody knows.  `flows`: of the lab.
    """
    async with AsyncExitStack() as stack:
        keys = FIFO + TRACK_FILE + (GATE if gate else "")
        both = stack.enter_context(routers(workdir, mode=mode, keepalived=keys))
        for router in both:
            router.configure(*edits)
            router.node.exec("sysctl", "-qw", *_settings(topology.SYSCTLS_FIREWALL | LOUD | PATIENT))
            router.node.nft(RULES)
        folder = stack.enter_context(_readable_folder())
        hosts = {
            name: stack.enter_context(_host(both[0], name, interface, folder / name))
            for name, interface in ((topology.CLIENT, topology.LAN), (topology.SERVER, topology.WAN))
        }
        start(*both, daemon=daemon)
        client, server = [await stack.enter_async_context(running_agent(host)) for host in hosts.values()]
        for remote in (client, server):
            await remote.do("publish")
            await remote.do("serve")
        await stack.enter_async_context(real_servers(hosts))
        namespaces = [host.namespace for host in hosts.values()] + [router.node.namespace for router in both]
        talk = stack.enter_context(_talk(namespaces))
        made = World(both, client, talk, flows)
        for operation in ("open", "arm"):
            lost = await made.phase(operation)
            assert not lost, lost
        forwarded = both[0].node.exec("conntrack", "-L").stdout.count(f"dst={topology.SERVER4}")
        both[0].node.inside(partial(trio.run, partial(inject_many, crowd, lasting_s=CROWD_LASTS_S)))
        if daemon:
            holds(both[1], crowd + forwarded)
        yield made


@contextmanager
def _readable_folder() -> Iterator[Path]:
    """Servers that drop their privileges read their files here, and pytest's folders are root's alone."""
    with TemporaryDirectory(prefix="ftfw-world-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def _talk(namespaces: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.kernel.talk", *namespaces],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "everybody is connected"
        yield process
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def _host(router: Router, name: str, interface: str, folder: Path) -> Iterator[NamespaceHost]:
    """One of the lab's hosts, plugged into one of the bridges."""
    switch, namespace = (router.node.namespace.replace(router.node.name, other) for other in ("switch", name))
    folder.mkdir()
    with ExitStack() as stack:
        run("ip", "netns", "add", namespace)
        stack.callback(run, "ip", "netns", "delete", namespace)
        run("ip", "netns", "exec", namespace, "sysctl", "-qw", *_settings(topology.SYSCTLS_HOST | LOUD))
        run(
            *("ip", "link", "add", interface, "netns", namespace, "type", "veth"),
            *("peer", "name", name, "netns", switch),
        )
        run("ip", "-netns", switch, "link", "set", name, "master", interface, "up")
        run("ip", "-netns", namespace, "link", "set", "lo", "up")
        run("ip", "-netns", namespace, "link", "set", interface, "up")
        for address in topology.ADDRESSES[name][interface]:
            run("ip", "-netns", namespace, "address", "add", address, "dev", interface)
        run("ip", "-netns", namespace, "route", "add", "default", "via", VIRTUAL[interface])
        yield NamespaceHost(name, namespace, folder)


def _settings(sysctls: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in sysctls.items()]
