"""The commands of docs/install.md, in order, on two machines with systemd; a connection lives through what it tells."""

import re
import socket
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kernel.booted import ROOT, Machine, booted
from tests.kernel.crossing import CLIENT, SERVER, End
from tests.kernel.pair import Node, run, until
from tests.kernel.vrrp import NETWORKS, VIRTUAL, plug_in, routers, switch_of

pytestmark = pytest.mark.kernel

SOURCES = "/usr/local/src/ftfw"
PACKAGES = "/opt/packages"
COPY = "scp -p /etc/ftfw/link.key root@203.0.113.2:/etc/ftfw/link.key"
CONNECT = "ssh 198.51.100.10"
REBOOT = "systemctl reboot"
HOSTS = {"both": ("fw1", "fw2"), "fw1": ("fw1",), "fw2": ("fw2",), "a host inside": ()}
SITE = f"/opt/ftfw/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
# The machines have no network to the outside. What is not run as it stands, and what is run for it:
INSTEAD = {
    "apt-get update": "true",
    "apt-get install -y conntrack keepalived nftables python3-venv": (
        "dpkg-query --show conntrack keepalived nftables python3-venv"
    ),
    # ftfw's wheel is built and installed; what it depends on is found where the tests have it from.
    "/opt/ftfw/bin/pip install .": (
        f"echo {PACKAGES} > {SITE}/packages.pth && /opt/ftfw/bin/pip install --no-index --no-build-isolation ."
    ),
    REBOOT: "true",  # done from outside, where its end is seen
    COPY: "true",  # no sshd: the file is copied from outside
    CONNECT: "true",  # a TCP connection to the same port
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A block of commands, the hosts it is for, and the lines that it is said to print."""

    section: str
    host: str
    commands: str
    shown: str = ""


def steps() -> Iterator[Step]:
    """All of the page: a block is for the host that was named last; what is shown belongs to the block before it."""
    text = (ROOT / "docs/install.md").read_text()
    parts = list(
        re.finditer(r"^(?:## ([^\n]+)|On ([^\n]+):|```sh\n(.*?)```|```text\n(.*?)```)$", text, re.MULTILINE | re.DOTALL)
    )
    assert 2 * sum(part[0].startswith("```") for part in parts) == len(re.findall("^```", text, re.MULTILINE))
    section = host = ""
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        section, host = part[1] or section, "" if part[1] else part[2] or host
        if part[3]:
            yield Step(section=section, host=host, commands=part[3], shown=(following and following[4]) or "")


def shows(output: str, line: str) -> bool:
    """Whether a line is in the output, but for widths; … is anything."""
    form = ".*".join(re.escape(" ".join(part.split())) for part in line.split("…"))
    return any(re.fullmatch(form, " ".join(each.split())) for each in output.splitlines())


class Connection:
    """From the host inside to another one."""

    def __init__(self, inside: End, other: Node, address: str, port: int) -> None:
        with other.inside(lambda: socket.create_server((address, port))) as listening:
            self._near = inside.socket(socket.SOCK_STREAM, CLIENT)
            self._near.connect((address, port))
            self._far, self.source = listening.accept()
        self._far.settimeout(self._near.gettimeout())

    def talk(self) -> None:
        """Bytes come through, there and back."""
        for one, other in ((self._near, self._far), (self._far, self._near)):
            one.sendall(b"still there")
            assert other.recv(64) == b"still there"

    def is_lost(self) -> bool:
        """Whether nothing comes through for as long as several takeovers take."""
        self._far.settimeout(3)
        try:
            self.talk()
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._near.close()
        self._far.close()


@dataclass
class Network:
    """The two machines, and a host on each side of them."""

    machines: dict[str, Machine]
    inside: End
    outside: End
    stack: ExitStack
    sessions: list[Connection]
    """An administrator's, one on each machine, from before the page begins."""

    def connection(self, port: int) -> Connection:
        made = Connection(self.inside, self.outside, SERVER, port)
        self.stack.callback(made.close)
        assert made.source[0] == VIRTUAL["wan"]
        return made

    def follow(self, step: Step) -> None:
        """Run a block as it stands but for `INSTEAD`; one that shows something until it does, as one looks again.

        The umask is one that lets nobody but root read what is made.
        """
        commands = "\n".join(INSTEAD.get(line, line) for line in step.commands.splitlines())
        lines = step.shown.splitlines()
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(self._run, name, commands, lines) for name in HOSTS[step.host]]:
                done.result()

    def _run(self, name: str, commands: str, lines: list[str]) -> None:
        output = ""

        def seen() -> bool:
            nonlocal output
            output = self.machines[name].run("bash", "-ec", f"umask 077\ncd {SOURCES}\n{commands}").stdout
            return all(shows(output, line) for line in lines)

        try:
            until(seen, "what is shown")
        except AssertionError as error:
            missing = [line for line in lines if not shows(output, line)]
            if not missing:
                raise
            raise AssertionError(f"{name}: {commands}: not shown: {missing}, but\n{output}") from error


@contextmanager
def end(like: Node, name: str, interface: str, number: int) -> Iterator[End]:
    made = End(name, like.namespace.replace(like.name, name), like.workdir.parent / name)
    run("ip", "netns", "add", made.namespace)
    try:
        plug_in(made, interface, number, switch_of(like))
        yield made
    finally:
        run("ip", "netns", "delete", made.namespace)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Two machines with addresses and nothing else, as the page begins."""
    version = run("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])").stdout.split()
    if version != [str(part) for part in sys.version_info[:2]]:
        pytest.skip("the packages of this Python are none for Debian's")
    places = {ROOT: SOURCES, Path(sysconfig.get_path("purelib")): PACKAGES}
    with routers(tmp_path) as pair, ExitStack() as stack:
        nodes = [router.node for router in pair]
        for node in nodes:
            node.exec("sysctl", "-qw", "net.netfilter.nf_conntrack_events=2")
        inside = stack.enter_context(end(nodes[0], "inside", "lan", 10))
        outside = stack.enter_context(end(nodes[0], "outside", "wan", 10))
        inside.exec("ip", "route", "add", "default", "via", VIRTUAL["lan"])
        machines = {node.name: stack.enter_context(booted(node, places)) for node in nodes}
        sessions = [
            Connection(inside, node, f"{NETWORKS['lan']}.{number}", 22) for number, node in enumerate(nodes, start=2)
        ]
        for session in sessions:
            stack.callback(session.close)
        yield Network(machines, inside, outside, stack, sessions)


def test_every_block_is_for_a_host_and_what_is_replaced_is_on_the_page() -> None:
    found = list(steps())
    assert {step.host for step in found} == set(HOSTS)
    assert set(INSTEAD) <= {line for step in found for line in step.commands.splitlines()}


def test_the_page_leads_to_a_takeover_that_a_connection_survives(network: Network) -> None:
    first, second = network.machines.values()
    before = named_ftfw(network)
    connection = None
    for step in steps():
        if step.section == "Remove it" and connection:
            without_ftfw(network)
            connection = None
        network.follow(step)
        if REBOOT in step.commands:
            second.reboot()
        if CONNECT in step.commands:
            connection = network.connection(22)
        if COPY in step.commands:
            second.write("/etc/ftfw/link.key", first.path("/etc/ftfw/link.key").read_text(), 0o600)
        for each in (*network.sessions, *([connection] if connection else [])):
            each.talk()
    assert connection is None  # the control has been
    assert named_ftfw(network) == before


def named_ftfw(network: Network) -> list[str]:
    """The files on each machine that may have come with ftfw."""
    search = (
        "find",
        "/etc",
        "/opt",
        "/run",
        "/usr/bin",
        "-path",
        PACKAGES,
        "-prune",
        "-o",
        "-name",
        "*ftfw*",
        "-print",
    )
    return [machine.run(*search).stdout for machine in network.machines.values()]


def without_ftfw(network: Network) -> None:
    """The control: the same takeover with nothing replicated loses a connection."""
    backup, active = network.machines.values()
    backup.run("systemctl", "stop", "ftfw")
    connection = network.connection(80)
    connection.talk()
    active.run("systemctl", "stop", "keepalived")
    until(lambda: f" {VIRTUAL['wan']}/" in backup.run("ip", "-brief", "address").stdout, "fw1 has the address")
    assert connection.is_lost()
