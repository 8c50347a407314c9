"""Makes network namespaces of this machine: hosts that share its kernel and files, and a switch of bridges."""

# Host describes what the methods promise.
# ruff: noqa: D102

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from ftfw.lab import topology
from ftfw.lab.lab_host import LabError, run_here
from ftfw.lab.lab_lock import lab_lock

SWITCH = "switch"
PREFIX = "ftfw-lab-"


class NamespaceHost:
    """Runs commands in a named network namespace, which shares this machine's file system."""

    def __init__(self, name: str, namespace: str, workdir: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.workdir = str(workdir)
        self.python = sys.executable

    async def run(self, *argv: str, stdin: str = "") -> str:
        return await run_here("ip", "netns", "exec", self.namespace, *argv, stdin=stdin, cwd=self.workdir)

    async def start(self, *argv: str, log: str, talk: bool = False) -> trio.Process:
        # A session of its own: Ctrl-C on the terminal reaches the lab only, which then ends its children in order.
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
    """Makes and removes the namespaces of one lab, including the switch.

    The bridges are in a namespace of their own, the switch: to cut a host off, its ports there are set down, and no
    other host loses carrier. The name of each namespace begins with the name of the work directory.
    """

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.switch = self.namespace(SWITCH)

    def namespace(self, name: str) -> str:
        """Return the name of a host's namespace."""
        return f"{self.workdir.name}-{name}"

    async def build(self) -> None:
        """Make the switch."""
        await run_here("ip", "netns", "add", self.switch)
        lines = []
        for segment in topology.SEGMENTS:
            lines += [
                f"link add {segment} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set {segment} up",
            ]
        await self.batch(SWITCH, lines)
        # Bridged frames must not pass through netfilter in the switch.
        off = [f"net.bridge.bridge-nf-call-{family}tables=0" for family in ("ip", "ip6", "arp")]
        await run_here("ip", "netns", "exec", self.switch, "sysctl", "-q", "-e", "-w", *off)

    async def add(self, name: str) -> None:
        """Make the namespace of a host, with a cable to each of its segments."""
        await run_here("ip", "netns", "add", self.namespace(name))
        lines = []
        for segment in topology.ADDRESSES[name]:
            lines += [
                f"link add {name}-{segment} type veth peer name {segment} netns {self.namespace(name)}",
                f"link set {name}-{segment} master {segment} up",
            ]
        await self.batch(SWITCH, lines)

    async def add_host(self, name: str) -> NamespaceHost:
        """Make the namespace of a host with its cables, addresses and sysctls, and return the host."""
        await self.add(name)
        host = NamespaceHost(name, self.namespace(name), self.workdir / name)
        await trio.Path(host.workdir).mkdir()
        sysctls = topology.SYSCTLS_FIREWALL if name in topology.FIREWALLS else topology.SYSCTLS_HOST
        if name in topology.FIREWALLS:
            # A rule loads a helper module but not its NAT module. "or true": it may be built into the kernel.
            await host.run("sh", "-c", f"modprobe -aq {' '.join(topology.MODULES)} || true")
        await host.run("sysctl", "-q", "-w", *(f"{key}={value}" for key, value in sysctls.items()))
        lines = ["link set lo up"]
        for interface, addresses in topology.ADDRESSES[name].items():
            lines += [f"link set {interface} up"]
            lines += [f"address add {address} dev {interface} nodad" for address in addresses]
        lines += [f"route add default via {gateway}" for gateway in topology.GATEWAYS.get(name, ())]
        await self.batch(name, lines)
        return host

    async def batch(self, name: str, lines: Iterable[str]) -> None:
        """Run lines of `ip -batch` in the namespace of a host or of the switch."""
        await run_here("ip", "-n", self.namespace(name), "-batch", "-", stdin="\n".join(lines))

    async def set_ports(self, name: str, state: str) -> None:
        """Set all ports of a host at the switch to `up` or `down`."""
        await self.batch(SWITCH, [f"link set {name}-{segment} {state}" for segment in topology.ADDRESSES[name]])

    async def delete(self, name: str) -> None:
        """Delete a host's cables, kill the processes in its namespace, and delete the namespace."""
        # The kernel would delete the cables with the namespace, but some time later, perhaps after the next `add`.
        await self.batch(SWITCH, [f"link delete {name}-{segment}" for segment in topology.ADDRESSES[name]])
        await delete_namespace(self.namespace(name))

    async def remove(self) -> None:
        """Delete all namespaces of this lab."""
        for namespace in await namespaces():
            if namespace.startswith(f"{self.workdir.name}-"):
                await delete_namespace(namespace)


async def namespaces() -> list[str]:
    """Return the names of all network namespaces of this machine."""
    return [line.split()[0] for line in (await run_here("ip", "netns", "list")).splitlines()]


async def delete_namespace(namespace: str) -> None:
    """Kill the processes in a namespace of a lab, and delete the namespace."""
    for _ in range(20):
        pids = (await run_here("ip", "netns", "pids", namespace)).split()
        if not pids:
            break
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended in the meantime
                os.kill(int(pid), signal.SIGKILL)
        await trio.sleep(0.05)
    await run_here("ip", "netns", "delete", namespace)


@asynccontextmanager
async def network() -> AsyncIterator[Network]:
    """Build the switch of a lab and its work directory; remove both, and all its namespaces, in every case.

    Raises LabError if this process is not root.
    """
    if os.geteuid():
        raise LabError("the lab makes network namespaces: run it as root (sudo ftfw lab)")
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder, lab_lock(Path(folder).name):
        await trio.Path(folder).chmod(0o755)  # servers that drop their privileges read files here
        built = Network(Path(folder))
        try:
            await built.build()
            yield built
        finally:
            with trio.CancelScope(shield=True):
                await built.remove()
