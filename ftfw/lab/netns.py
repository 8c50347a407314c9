"""The lab in network namespaces of this machine: one per host, and one that holds the bridges."""

# What the methods promise stands at Host and Site.
# ruff: noqa: D102

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from . import plan
from .host import Host, LabError

# Which host is plugged into which bridge. The bridges have a namespace of their own: a firewall that is cut
# off loses its port there, and nobody else loses carrier.
CABLES = (
    (plan.CLIENT, plan.LAN),
    (plan.SERVER, plan.WAN),
    *((firewall, segment) for firewall in plan.FIREWALLS for segment in (plan.LAN, plan.WAN, plan.SYNC)),
)
SWITCH = "switch"


async def _run(argv: Sequence[str], stdin: str = "", cwd: str | None = None) -> str:
    try:
        done = await trio.run_process(
            argv, stdin=stdin.encode(), capture_stdout=True, capture_stderr=True, check=False, cwd=cwd
        )
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed; ./dev setup installs what the lab needs") from None
    if done.returncode:
        complaint = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise LabError(f"{' '.join(argv)} failed: {complaint or f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")


class NetnsHost:
    """A host that is a named network namespace sharing this machine's file system."""

    def __init__(self, name: str, namespace: str, workdir: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.workdir = str(workdir)
        self.python = sys.executable

    async def run(self, *argv: str, stdin: str = "") -> str:
        return await _run(("ip", "netns", "exec", self.namespace, *argv), stdin, self.workdir)

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


class NetnsSite:
    """Namespaces, bridges and cables; `build` makes them, `remove` leaves nothing behind."""

    def __init__(self, workdir: Path) -> None:
        # The directory's name is unique on this machine, and so are names made from it.
        self._namespaces = {name: f"{workdir.name}-{name}" for name in (*plan.ADDRESSES, SWITCH)}
        self._switch = self._namespaces[SWITCH]
        self.hosts: Mapping[str, Host] = {
            name: NetnsHost(name, self._namespaces[name], workdir / name) for name in plan.ADDRESSES
        }

    async def build(self) -> None:
        """Make the namespaces, the bridges and the cables, and give everybody their addresses."""
        for namespace in self._namespaces.values():
            await _run(("ip", "netns", "add", namespace))
        await self._build_switch()
        for host in self.hosts.values():
            await trio.Path(host.workdir).mkdir()
            await self._configure(host)

    async def _build_switch(self) -> None:
        lines = []
        for segment in (plan.LAN, plan.WAN, plan.SYNC):
            lines += [
                f"link add {segment} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set {segment} up",
            ]
        for name, segment in CABLES:
            port = f"{name}-{segment}"
            lines += [
                f"link add {port} type veth peer name {segment} netns {self._namespaces[name]}",
                f"link set {port} master {segment} up",
            ]
        # Bridged frames are none of the switch's netfilter's business.
        off = [f"net.bridge.bridge-nf-call-{family}tables=0" for family in ("ip", "ip6", "arp")]
        await _run(("ip", "netns", "exec", self._switch, "sysctl", "-q", "-e", "-w", *off))
        await self._batch(SWITCH, lines)

    async def _configure(self, host: Host) -> None:
        sysctls = plan.SYSCTLS_HOST
        if host.name in plan.FIREWALLS:
            sysctls = plan.SYSCTLS_FIREWALL
            # Rules load a helper by themselves but not its NAT half. Built in is as good: hence "or true".
            await host.run("sh", "-c", f"modprobe -aq {' '.join(plan.MODULES)} || true")
        await host.run("sysctl", "-q", "-w", *(f"{key}={value}" for key, value in sysctls.items()))
        lines = ["link set lo up"]
        for interface, addresses in plan.ADDRESSES[host.name].items():
            lines += [f"link set {interface} up"]
            lines += [f"address add {address} dev {interface} nodad" for address in addresses]
        lines += [f"route add default via {gateway}" for gateway in plan.GATEWAYS.get(host.name, ())]
        await self._batch(host.name, lines)

    async def _batch(self, name: str, lines: Sequence[str]) -> None:
        """Have `ip` carry out commands in a namespace."""
        await _run(("ip", "-n", self._namespaces[name], "-batch", "-"), "\n".join(lines))

    async def cut(self, name: str) -> None:
        await self._set_ports(name, "down")

    async def heal(self, name: str) -> None:
        await self._set_ports(name, "up")

    async def _set_ports(self, name: str, state: str) -> None:
        lines = [f"link set {host}-{segment} {state}" for host, segment in CABLES if host == name]
        await self._batch(SWITCH, lines)

    async def describe(self) -> Sequence[str]:
        return [f"ip netns exec {namespace} bash" for namespace in self._namespaces.values()]

    async def remove(self) -> None:
        """End what runs in the namespaces, which are ours alone, and delete them."""
        existing = set((await _run(("ip", "netns", "list"))).split())
        for namespace in existing.intersection(self._namespaces.values()):
            await self._end_processes(namespace)
            await _run(("ip", "netns", "delete", namespace))

    async def _end_processes(self, namespace: str) -> None:
        for _ in range(20):
            pids = (await _run(("ip", "netns", "pids", namespace))).split()
            if not pids:
                return
            for pid in pids:
                _kill(int(pid))
            await trio.sleep(0.05)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it was faster
        os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def site() -> AsyncIterator[NetnsSite]:
    """Build the lab in namespaces, hand it out, and remove it whatever happens."""
    if os.geteuid():
        raise LabError("the lab makes network namespaces: run it as root (sudo ftfw lab)")
    with tempfile.TemporaryDirectory(prefix="ftfw-lab-", ignore_cleanup_errors=True) as folder:
        await trio.Path(folder).chmod(0o755)  # servers that drop their privileges read their files here
        built = NetnsSite(Path(folder))
        try:
            await built.build()
            yield built
        finally:
            with trio.CancelScope(shield=True):
                await built.remove()
