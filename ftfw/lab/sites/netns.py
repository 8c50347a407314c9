"""Network namespaces of this machine: hosts that share its kernel and files, and a switch with a bridge per segment."""

# What the methods promise stands at Host and Site.
# ruff: noqa: D102

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio

from ftfw.lab import plan
from ftfw.lab.host import Host, LabError, run_here
from ftfw.lab.sites import cgroup

SWITCH = "switch"
PREFIX = "ftfw-lab-"
LOCKS = Path("/run/lock")
HOUSE = (Path(__file__).parents[1] / "nftables.conf").read_text()


class NetnsHost:
    """A host that is a named network namespace sharing this machine's file system."""

    def __init__(self, name: str, namespace: str, workdir: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.workdir = str(workdir)
        self.python = sys.executable

    async def run(self, *argv: str, stdin: str = "") -> str:
        return await run_here("ip", "netns", "exec", self.namespace, *argv, stdin=stdin, cwd=self.workdir)

    async def start(self, *argv: str, log: str, talk: bool = False) -> trio.Process:
        # A session of its own: Ctrl-C at the terminal is for the lab, which then ends its children in order.
        with (Path(self.workdir) / log).open("ab") as sink:
            return await trio.lowlevel.open_process(
                ("ip", "netns", "exec", self.namespace, *argv),
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talk else sink,
                stderr=sink,
                start_new_session=True,
                cwd=self.workdir,
            )

    async def write(self, name: str, content: str, *, mode: int = 0o644) -> str:
        path = Path(self.workdir) / name
        path.touch()
        path.chmod(mode)
        path.write_text(content)
        return str(path)

    async def read(self, name: str) -> str:
        path = Path(self.workdir) / name
        return path.read_text(errors="replace") if path.exists() else ""


class Network:
    """The namespaces of one lab, the switch among them; `remove` leaves nothing behind.

    The bridges have a namespace of their own: a host that is cut off loses its ports there, and nobody else loses
    carrier. All of it has names that begin with the work directory's.
    """

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.switch = self.namespace(SWITCH)

    def namespace(self, name: str) -> str:
        """Return what the namespace of a host is called."""
        return f"{self.workdir.name}-{name}"

    async def build(self) -> None:
        """Make the switch."""
        await run_here("ip", "netns", "add", self.switch)
        lines = []
        for segment in plan.SEGMENTS:
            lines += [
                f"link add {segment} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set {segment} up",
            ]
        await self.batch(SWITCH, lines)
        # Bridged frames are none of the switch's netfilter's business.
        off = [f"net.bridge.bridge-nf-call-{family}tables=0" for family in ("ip", "ip6", "arp")]
        await run_here("ip", "netns", "exec", self.switch, "sysctl", "-q", "-e", "-w", *off)

    async def add(self, name: str) -> None:
        """Make the namespace of a host, with a cable to each of its segments."""
        await run_here("ip", "netns", "add", self.namespace(name))
        lines = []
        for segment in plan.ADDRESSES[name]:
            lines += [
                f"link add {name}-{segment} type veth peer name {segment} netns {self.namespace(name)}",
                f"link set {name}-{segment} master {segment} up",
            ]
        await self.batch(SWITCH, lines)

    async def add_host(self, name: str) -> NetnsHost:
        """The same, with its addresses and sysctls, and return the host."""
        await self.add(name)
        host = NetnsHost(name, self.namespace(name), self.workdir / name)
        await trio.Path(host.workdir).mkdir()
        sysctls = plan.SYSCTLS_FIREWALL if name in plan.FIREWALLS else plan.SYSCTLS_HOST
        if name in plan.FIREWALLS:
            # Rules load a helper by themselves but not its NAT half. Built in is as good: hence "or true".
            await host.run("sh", "-c", f"modprobe -aq {' '.join(plan.MODULES)} || true")
        await host.run("sysctl", "-q", "-w", *(f"{key}={value}" for key, value in sysctls.items()))
        lines = ["link set lo up"]
        for interface, addresses in plan.ADDRESSES[name].items():
            lines += [f"link set {interface} up"]
            lines += [f"address add {address} dev {interface} nodad" for address in addresses]
        lines += [f"route add default via {gateway}" for gateway in plan.GATEWAYS.get(name, ())]
        await self.batch(name, lines)
        return host

    async def batch(self, name: str, lines: Iterable[str]) -> None:
        """Have `ip` carry out commands in a namespace."""
        await run_here("ip", "-n", self.namespace(name), "-batch", "-", stdin="\n".join(lines))

    async def set_ports(self, name: str, state: str) -> None:
        """Set all of a host's ports `up` or `down`."""
        await self.batch(SWITCH, [f"link set {name}-{segment} {state}" for segment in plan.ADDRESSES[name]])

    async def delete(self, name: str) -> None:
        """Delete a host's cables, end what runs in its namespace, and delete that."""
        # With the namespace they would go as well, but some time later, and `add` may be called before.
        await self.batch(SWITCH, [f"link delete {name}-{segment}" for segment in plan.ADDRESSES[name]])
        await delete_namespace(self.namespace(name))

    async def remove(self) -> None:
        """Delete them all."""
        for namespace in await namespaces():
            if namespace.startswith(f"{self.workdir.name}-"):
                await delete_namespace(namespace)


async def namespaces() -> list[str]:
    """Return the names of all network namespaces of this machine."""
    return [line.split()[0] for line in (await run_here("ip", "netns", "list")).splitlines()]


async def delete_namespace(namespace: str) -> None:
    """End what runs in a namespace, which is a lab's alone, and delete it."""
    for _ in range(20):
        pids = (await run_here("ip", "netns", "pids", namespace)).split()
        if not pids:
            break
        for pid in pids:
            with suppress(ProcessLookupError):  # it was faster
                os.kill(int(pid), signal.SIGKILL)
        await trio.sleep(0.05)
    await run_here("ip", "netns", "delete", namespace)


class NetnsSite:
    """Every host is a namespace; daemons and addresses are the lab's to start, kill and move."""

    patience = 1.0
    missing_rules = HOUSE
    flowtables: frozenset[str] = frozenset()  # what offloads is the same kernel on both sides here, if any

    def __init__(self, network: Network) -> None:
        self._network = network
        self.hosts: Mapping[str, Host] = {}

    async def build(self) -> None:
        """Make the hosts."""
        self.hosts = {name: await self._network.add_host(name) for name in plan.ADDRESSES}

    async def add_rules(self, name: str, text: str) -> None:
        await self.hosts[name].run("nft", "-f", "-", stdin=text)

    async def cut(self, name: str) -> None:
        await self._network.set_ports(name, "down")

    async def heal(self, name: str) -> None:
        await self._network.set_ports(name, "up")

    async def describe(self) -> Sequence[str]:
        return [f"ip netns exec {self._network.namespace(name)} bash" for name in (*self.hosts, SWITCH)]


@asynccontextmanager
async def network() -> AsyncIterator[Network]:
    """Build the switch of a lab, with a work directory; remove both, and all namespaces, whatever happens."""
    if os.geteuid():
        raise LabError("the lab makes network namespaces: run it as root (sudo ftfw lab)")
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder, claimed(Path(folder).name):
        await trio.Path(folder).chmod(0o755)  # servers that drop their privileges read their files here
        built = Network(Path(folder))
        try:
            await built.build()
            yield built
        finally:
            with trio.CancelScope(shield=True):
                await built.remove()


@asynccontextmanager
async def site() -> AsyncIterator[NetnsSite]:
    """Build the lab in namespaces, hand it out, and remove it whatever happens."""
    async with network() as built:
        made = NetnsSite(built)
        await made.build()
        yield made


# A lab that was killed cannot remove itself


@contextmanager
def claimed(lab: str) -> Iterator[None]:
    """Tell that a lab lives, in whatever namespace, for as long as this is open; LabError if one of its name does.

    The kernel lets the lock go with the process.
    """
    path = LOCKS / lab
    lock = _locked(path)
    if lock is None:
        raise LabError(f"{lab} is under way")
    try:
        yield
    finally:
        with suppress(OSError):  # it may be root's, left behind, and this process not
            path.unlink()
        os.close(lock)


def _locked(path: Path) -> int | None:
    """Open and lock a file, made if need be; None if it is locked already."""
    LOCKS.mkdir(exist_ok=True)
    while True:
        try:  # not by one call: O_CREAT is refused where another's file is in a sticky directory (fs.protected_regular)
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644))
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(lock).st_ino:
                    return lock
        except BlockingIOError:
            os.close(lock)
            return None
        os.close(lock)  # whoever had it has removed it meanwhile


async def clean() -> list[str]:
    """Remove what labs have left that were killed; return their names."""
    if os.geteuid():
        raise LabError("labs belong to root: run it as root (sudo ftfw lab --clean)")
    names = [*await namespaces(), *(group.name for group in cgroup.named(PREFIX))]
    left = {name.rpartition("-")[0] for name in names if name.startswith(PREFIX)}
    for folder in (Path(tempfile.gettempdir()), LOCKS):
        left |= {path.name for path in folder.glob(f"{PREFIX}*")}
    removed = []
    for lab in sorted(left):
        with ExitStack() as claim:
            try:
                claim.enter_context(claimed(lab))
            except LabError:
                continue  # it lives
            network = Network(Path(tempfile.gettempdir()) / lab)
            await network.remove()
            await cgroup.remove_when_empty(f"{lab}-")
            await run_here("rm", "-rf", str(network.workdir))
            removed.append(lab)
    return removed
