"""Two firewalls with ftfw and a real keepalived each, between two networks: bridges in a namespace of their own.

    switch: bridge lan ── lan, fw1, wan ── bridge wan, and the same for fw2; the sync link is a cable.

keepalived's configuration is the one in conf/, with its paths and priorities made this test's.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.kernel.pair import Node, pair, run, until

CONF = Path(__file__).parents[2] / "conf/keepalived"
NETWORKS = {"lan": "192.0.2", "wan": "198.51.100"}  # .1 is the virtual address, .2 and .3 are the nodes'
VIRTUAL = {interface: f"{network}.1" for interface, network in NETWORKS.items()}
NOTIFY_FIFO = "vrrp_notify_fifo /run/ftfw/keepalived.fifo ftfw"
FIFO = f'[keepalived]\nfifo = "{{workdir}}/fifo"\ninstances = ["FW"]\naddresses = {list(VIRTUAL.values())}\n'
TRACK_FILE = 'track_file = "{workdir}/ready"\n'


Edit = Callable[[str], str]
"""Of keepalived.conf."""


def in_group(lines: str) -> Edit:
    """With more in the sync group."""
    return lambda text: text.replace("vrrp_sync_group FW {", f"vrrp_sync_group FW {{\n{lines}")


def without_group(text: str) -> str:
    return re.sub(r"^vrrp_sync_group FW \{.*?^\}", "", text, flags=re.MULTILINE | re.DOTALL)


def without_fifo(text: str) -> str:
    return re.sub(r"^ *vrrp_notify_fifo .*$", "script_user root", text, flags=re.MULTILINE)


def with_preemption(text: str) -> str:
    return text.replace("nopreempt", "")


class Router:
    """A node with keepalived in it, which is not started."""

    def __init__(self, node: Node, priority: int) -> None:
        self.node = node
        self.fifo = node.workdir / "fifo"
        self.log = node.workdir / "keepalived.log"
        self._priority = priority
        self._pid_files = (node.workdir / "keepalived.pid", node.workdir / "vrrp.pid")
        self._conf = node.workdir / "keepalived.conf"
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, *edits: Edit) -> None:
        """Write keepalived.conf, changed by `edits`."""
        whole = (CONF / "keepalived.conf").read_text()
        assert NOTIFY_FIFO in whole
        text = whole.replace(NOTIFY_FIFO, f"vrrp_notify_fifo {self.fifo} root")  # whom the daemons here run as
        text = text.replace("/run/ftfw/", f"{self.node.workdir}/").replace("priority 100", f"priority {self._priority}")
        for edit in edits:
            text = edit(text)
        self._conf.write_text(text)

    def start_keepalived(self) -> None:
        """With an `ftfw` of its own in its path, which hook scripts find."""
        commands = self.node.workdir / "bin"
        commands.mkdir(exist_ok=True)
        ftfw = commands / "ftfw"
        ftfw.write_text(f'#!/bin/sh\nexec {sys.executable} -m ftfw --config {self.node.config} "$@"\n')
        ftfw.chmod(0o755)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.node.namespace, "keepalived", "--dont-fork", "--vrrp"),
                    *("--log-console", "--log-detail", "--use-file", self._conf),
                    *("--pid", self._pid_files[0], "--vrrp_pid", self._pid_files[1]),
                ],
                stdout=log,
                stderr=log,
                env=os.environ | {"PATH": f"{commands}:{os.environ['PATH']}"},
            )

    def stop_keepalived(self) -> None:
        """As `systemctl stop` does."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
        self._process = None

    def reload_keepalived(self) -> None:
        assert self._process is not None
        done = self.log.read_text().count("Reload complete")
        self._process.send_signal(signal.SIGHUP)
        until(lambda: self.log.read_text().count("Reload complete") > done, "keepalived has reloaded")

    def kill_keepalived(self) -> None:
        """SIGKILL to both processes, so that neither tidies up after the other."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            number = self._process.pid
            for worker in Path(f"/proc/{number}/task/{number}/children").read_text().split():
                os.kill(int(worker), signal.SIGKILL)
        self._process.kill()
        self._process.wait(10)
        self._process = None
        for file in self._pid_files:  # what is no more may be there as a zombie, and be taken for running
            file.unlink(missing_ok=True)

    def write_fifo(self, data: bytes) -> None:
        """As keepalived does."""
        descriptor = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(descriptor, data)
        os.close(descriptor)

    def is_(self, role: str) -> None:
        """Wait for it, and see that the virtual addresses are where they belong."""
        until(lambda: self.node.status()["role"] == role, f"{self.node.name} is {role}")
        until(lambda: self.has_addresses() is (role == "active"), f"{self.node.name} is {role} with its addresses")

    def has_addresses(self) -> bool:
        shown = self.node.exec("ip", "-brief", "address").stdout
        return all(f" {address}/" in shown for address in VIRTUAL.values())

    def link(self, interface: str, state: str) -> None:
        self.node.exec("ip", "link", "set", interface, state)


def switch_of(node: Node) -> str:
    """The namespace that the bridges are in."""
    return node.namespace.replace(node.name, "switch")


@contextmanager
def routers(workdir: Path, *, mode: str = "warm", keepalived: str = FIFO) -> Iterator[tuple[Router, Router]]:
    """Two of them, configured and nothing started; everything is removed afterwards.

    The first has the higher priority. `keepalived` goes into ftfw.toml, with the node's directory for {workdir}.
    """
    with pair(workdir, mode=mode) as nodes, ExitStack() as stack:
        switch = switch_of(nodes[0])
        run("ip", "netns", "add", switch)
        stack.callback(run, "ip", "netns", "delete", switch)
        for interface in NETWORKS:
            run("ip", "-netns", switch, "link", "add", interface, "type", "bridge")
            run("ip", "-netns", switch, "link", "set", interface, "up")
        first, second = (Router(node, priority) for node, priority in zip(nodes, (100, 90), strict=True))
        for number, router in enumerate((first, second), start=2):
            stack.callback(router.kill_keepalived)
            for interface in NETWORKS:
                plug_in(router.node, interface, number, switch)
            with router.node.config.open("a") as config:
                config.write(keepalived.format(workdir=router.node.workdir))
            router.configure()
        yield first, second


def plug_in(node: Node, interface: str, number: int, switch: str) -> None:
    """Lay a cable to the bridge of that name; the node's address there ends in `number`."""
    port = f"{interface}{number}"
    run(
        *("ip", "link", "add", interface, "netns", node.namespace, "type", "veth"),
        *("peer", "name", port, "netns", switch),
    )
    run("ip", "-netns", switch, "link", "set", port, "master", interface, "up")
    node.exec("ip", "address", "add", f"{NETWORKS[interface]}.{number}/24", "dev", interface)
    node.exec("ip", "link", "set", interface, "up")
