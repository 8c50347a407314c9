"""Nodes in network namespaces of their own with sync links between them, and real daemons in them."""

import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ftfw.control import client
from ftfw.control.client import ControlError
from tests.kernel import netns

T = TypeVar("T")
LIMIT_S = 20.0
INTERFACES = ("sync", "spare")  # that nodes may be connected by
MULTICAST = '[[link]]\ntransport = "multicast"\ninterface = "sync"\ngroup = "225.0.0.50"\n'


def until(met: Callable[[], T | None], what: str, *, limit_s: float = LIMIT_S) -> T:
    """Wait for a condition and return what it gave; the test fails if it does not come."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if found := met():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s} s: {what}")


def run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return done


class Node:
    """A namespace, a configuration, and at most one daemon."""

    def __init__(self, name: str, namespace: str, workdir: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.workdir = workdir
        self.config = workdir / "ftfw.toml"
        self.log = workdir / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, key: Path, *, mode: str = "warm", links: str = MULTICAST, more: str = "") -> None:
        self.workdir.mkdir(exist_ok=True)
        self.config.write_text(
            f'[node]\nname = "{self.name}"\n'
            f"{links}"
            f'[security]\nkey_files = ["{key}"]\n'
            f'[standby]\nmode = "{mode}"\n'
            f'[control]\nsocket = "{self.workdir}/control.sock"\n{more}'
        )

    def exec(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("ip", "netns", "exec", self.namespace, *argv, check=check)

    def ftfw(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.exec(sys.executable, "-m", "ftfw", *arguments, "--config", str(self.config), check=check)

    def start(self, role: str) -> None:
        with self.log.open("ab") as log:
            inside = ("ip", "netns", "exec", self.namespace, sys.executable, "-m", "ftfw")
            self.process = subprocess.Popen([*inside, "--role", role, "--config", self.config], stdout=log, stderr=log)
        until(self._answers, f"{self.name} answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.status()
        except ControlError:
            return False
        return True

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(10)
        self.process = None
        return code

    def status(self) -> dict[str, Any]:
        """What `ftfw status --json` prints, without a process for each look at it."""
        return client.call(self.workdir / "control.sock", "status")

    def flows(self) -> list[Any]:
        """The node's flows without what may differ: timers, and the TCP flags that change without an event."""
        return sorted((comparable(flow) for flow in self._show("flows")), key=repr)

    def _show(self, what: str) -> list[dict[str, Any]]:
        shown = json.loads(self.ftfw("show", what, "--json").stdout)
        entries: list[dict[str, Any]] = shown["entries"] if isinstance(shown, dict) else shown
        return entries

    def nft(self, rules: str) -> None:
        """Load a ruleset in nft's own language."""
        file = self.workdir / "rules.nft"
        file.write_text(rules)
        self.exec("nft", "-f", str(file))

    def kernel_count(self) -> int:
        return int(self.exec("cat", "/proc/sys/net/netfilter/nf_conntrack_count").stdout)

    def insert(self, number: int, *more: str) -> None:
        """A TCP flow put in by an administrator, told by its number."""
        self.exec("conntrack", "-I", *flow_arguments(number), "--timeout", "600", "--state", "ESTABLISHED", *more)

    def inside(self, work: Callable[[], T]) -> T:
        """Call `work` in a thread that is in this node's namespace."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with Path(f"/run/netns/{self.namespace}").open() as namespace:
                    netns.enter(namespace.fileno())
                results.append(work())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


def flow_arguments(number: int) -> list[str]:
    return ["-p", "tcp", "-s", "192.0.2.10", "-d", "198.51.100.10", "--sport", str(10000 + number), "--dport", "80"]


def unicast(transport: str, number: int, *, interface: str = "sync", version: int = 4) -> str:
    """A link of node `number`, 1 or 2, to the other one."""
    own, peer = (address(interface, each, version) for each in (number, 3 - number))
    return f'[[link]]\ntransport = "{transport}"\ninterface = "{interface}"\nbind = "{own}"\npeers = ["{peer}"]\n'


def address(interface: str, number: int, version: int = 4) -> str:
    network = INTERFACES.index(interface)
    return f"203.0.113.{64 * network + number}" if version == 4 else f"2001:db8:{network + 1}::{number}"


def connect(nodes: Sequence[Node], interface: str, *, switch: str | None = None) -> None:
    """Lay a cable between two nodes, or from each of several to a bridge in the namespace `switch`."""
    if switch is None:
        first, second = (node.namespace for node in nodes)
        _cable(first, interface, second, interface)
    else:
        run("ip", "-n", switch, "link", "add", interface, "up", "type", "bridge", "mcast_snooping", "0")
        for number, node in enumerate(nodes, start=1):
            _cable(node.namespace, interface, switch, port := f"{interface}{number}")
            run("ip", "-n", switch, "link", "set", port, "master", interface, "up")
    for number, node in enumerate(nodes, start=1):
        node.exec("ip", "address", "add", f"{address(interface, number)}/26", "dev", interface)
        node.exec("ip", "address", "add", f"{address(interface, number, 6)}/64", "dev", interface, "nodad")
        node.exec("ip", "link", "set", interface, "up")


def _cable(namespace: str, interface: str, other: str, other_interface: str) -> None:
    run(
        *("ip", "link", "add", interface, "netns", namespace, "type", "veth"),
        *("peer", "name", other_interface, "netns", other),
    )


def comparable(flow: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in flow.items() if name not in ("timeout", "tcp")}
    return kept | {"state": (flow.get("tcp") or {}).get("state")}


@contextmanager
def pair(
    workdir: Path,
    *,
    mode: str = "warm",
    more: str = "",
    links: Callable[[int], str] = lambda _: MULTICAST,
    interfaces: Sequence[str] = ("sync",),
    names: tuple[str, str] = ("fw1", "fw2"),
) -> Iterator[tuple[Node, Node]]:
    """Two nodes, configured and not started; everything is removed afterwards.

    `links` gives the configuration of the links of node 1 and node 2.
    """
    with group(workdir, mode=mode, more=more, links=links, interfaces=interfaces, names=names) as (first, second):
        yield first, second


@contextmanager
def group(
    workdir: Path,
    *,
    names: Sequence[str],
    mode: str = "warm",
    more: str = "",
    links: Callable[[int], str] = lambda _: MULTICAST,
    interfaces: Sequence[str] = ("sync",),
) -> Iterator[list[Node]]:
    """As `pair`, with any number of nodes; more than two are connected by bridges."""
    token = secrets.token_hex(3)
    nodes = [Node(name, f"ftfw-{token}-{name}", workdir / name) for name in names]
    switch = f"ftfw-{token}-switch" if len(nodes) > 2 else None
    namespaces = [node.namespace for node in nodes] + ([switch] if switch else [])
    key = workdir / "link.key"
    try:
        for namespace in namespaces:
            run("ip", "netns", "add", namespace)
        for node in nodes:
            node.exec("ip", "link", "set", "lo", "up")
            node.exec("sysctl", "-qw", "net.netfilter.nf_conntrack_events=1")  # entries from before would stay mute
        for interface in interfaces:
            connect(nodes, interface, switch=switch)
        for number, node in enumerate(nodes, start=1):
            node.configure(key, mode=mode, links=links(number), more=more)
        nodes[0].ftfw("keygen", str(key))
        yield nodes
    finally:
        for node in nodes:
            if node.process is not None:
                node.kill()
        for namespace in namespaces:
            run("ip", "netns", "delete", namespace, check=False)
