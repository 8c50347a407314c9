"""Tests on a real kernel which packets wait at the gate, which pass, and that nothing can leave the gate shut."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from ftfw.daemon import gate, gate_rules
from ftfw.daemon.gate import Gate
from ftfw.system.libnftables import Nft, NftError
from tests.kernel.crossing import (
    CLIENT,
    CLIENT6,
    NODES,
    SERVER,
    SERVER6,
    VIRTUAL,
    VIRTUAL6,
    End,
    crossing,
    hold_addresses,
    release_addresses,
)
from tests.kernel.namespaces import namespaces
from tests.kernel.pair import MULTICAST, Node, pair, unicast, until

pytestmark = pytest.mark.kernel

GATED = '[takeover]\ngate_interfaces = ["lan", "wan"]\n'
PORT = 7007
UNHEARD_PORT = 3  # one that the gate's table does not know
# What arrives behind the gate, by kind.
SEEN = """
table inet seen {
    counter vrrp { }
    counter solicited { }
    counter knocks { }
    chain seen {
        type filter hook prerouting priority raw
        iifname { "lan", "wan" } meta l4proto vrrp counter name vrrp
        ip6 daddr 2001:db8:b::1 icmpv6 type nd-neighbor-solicit counter name solicited
    }
    chain knocks {
        type filter hook output priority raw - 20
        ip daddr 127.0.0.1 udp dport 1 counter name knocks
    }
}
"""


@dataclass
class Site:
    active: Node
    backup: Node
    client: End
    server: End

    @property
    def is_shut(self) -> bool:
        return bool(self.backup.status()["gate"]["shut"])

    def passes(self) -> bool:
        """Tell whether a datagram of a new flow gets from the client through the backup to the server."""
        with (
            self.server.socket(socket.SOCK_DGRAM, SERVER, PORT) as receiver,
            self.client.socket(socket.SOCK_DGRAM, CLIENT) as sender,
        ):
            receiver.settimeout(0.1)
            sender.sendto(b"x", (SERVER, PORT))
            try:
                return receiver.recv(9) == b"x"
            except TimeoutError:
                return False

    def tracked(self, address: str) -> bool:
        """Tell whether the backup's kernel has a flow of the address."""
        return address in self.backup.exec("conntrack", "-L").stdout

    def seen(self, kind: str) -> int:
        listed = self.backup.exec("nft", "list", "counter", "inet", "seen", kind).stdout
        found = re.search(r"packets (\d+)", listed)
        assert found
        return int(found[1])


@contextmanager
def site(
    workdir: Path, *, more: str = GATED, mode: str = "warm", links: Callable[[int], str] = lambda _: MULTICAST
) -> Iterator[Site]:
    """Run both daemons, while the routes of the ends already lead through the backup."""
    with ExitStack() as stack:
        nodes = stack.enter_context(pair(workdir, more=more, mode=mode, links=links))
        client, server = stack.enter_context(crossing(nodes, workdir))
        for end in (client, server):
            end.use(1)
        nodes[0].start("active")
        nodes[1].start("backup")
        yield Site(*nodes, client, server)


@pytest.fixture
def shut(tmp_path: Path) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with site(tmp_path) as made:
        until(lambda: made.is_shut, "the gate is shut")
        yield made


def pings(end: End, address: str) -> bool:
    return end.exec("ping", "-c1", "-W1", address, check=False).returncode == 0


def test_traffic_waits_and_leaves_no_entry(shut: Site) -> None:
    before = shut.backup.status()["gate"]["dropped"]
    assert not shut.passes()
    assert not pings(shut.client, SERVER6)
    assert not shut.tracked(CLIENT)
    assert not shut.tracked(CLIENT6)
    until(lambda: shut.backup.status()["gate"]["dropped"] >= before + 2, "they are counted")
    shut.backup.ftfw("promote")
    assert shut.passes()
    assert pings(shut.client, SERVER6)
    assert shut.tracked(CLIENT)
    told = shut.backup.status()["gate"]
    assert (told["shut"], told["failed"], told["interfaces"]) == (False, {}, ["lan", "wan"])
    assert told["last_opened_s"] < told["last_shut_s"]
    until(lambda: "ftfw_gate" not in shut.backup.exec("nft", "list", "tables").stdout, "an active has no table")
    assert shut.backup.status()["gate"]["dropped"] >= before + 2


def test_without_gate_interfaces_nothing_waits(tmp_path: Path) -> None:
    with site(tmp_path, more="") as open_site:
        until(lambda: open_site.backup.status()["synced"], "in sync")
        assert open_site.passes()
        assert open_site.backup.status()["gate"] is None


def test_a_hot_backup_has_it_shut_until_its_kernel_is_filled(tmp_path: Path) -> None:
    with site(tmp_path, mode="hot") as hot:
        until(lambda: hot.backup.status()["synced"], "in sync")
        until(lambda: not hot.is_shut, "the gate is open")
        assert hot.passes()
        until(lambda: "ftfw_gate" not in hot.backup.exec("nft", "list", "tables").stdout, "nothing is left of it")


def test_what_is_for_this_host_passes_but_not_what_is_for_an_address_that_comes_later(shut: Site) -> None:
    for address in NODES["lan"]:
        assert pings(shut.client, address)
    hold_addresses(shut.backup)
    assert not pings(shut.server, VIRTUAL)
    assert not pings(shut.server, VIRTUAL6)
    shut.backup.ftfw("promote")
    assert pings(shut.server, VIRTUAL)
    assert pings(shut.server, VIRTUAL6)


def test_an_address_that_has_left_is_taken_for_virtual(tmp_path: Path) -> None:
    """A node that is demoted before the addresses move has them among its own for a while."""
    with site(tmp_path) as made:
        hold_addresses(made.backup)
        made.backup.kill()
        made.backup.start("backup")
        until(lambda: made.is_shut, "the gate is shut")
        assert pings(made.server, VIRTUAL)
        release_addresses(made.backup)
        own6 = ("nft", "list", "set", "inet", gate_rules.NAME, "own6")
        until(lambda: VIRTUAL6 not in made.backup.exec(*own6).stdout, "the gate has learned it")
        hold_addresses(made.backup)
        assert not pings(made.server, VIRTUAL)


def test_a_backup_shuts_it_when_the_virtual_addresses_leave_that_an_earlier_daemon_had(tmp_path: Path) -> None:
    """After a crash of keepalived and daemon, the addresses stay until keepalived is back and removes them."""
    with site(tmp_path, more=f'{GATED}[keepalived]\naddresses = ["{VIRTUAL}"]\n') as made:
        until(lambda: made.is_shut, "the gate is shut")
        made.backup.kill()
        hold_addresses(made.backup)
        made.backup.start("backup")
        until(lambda: made.backup.status()["synced"], "in sync")
        assert made.passes()
        assert made.backup.status()["gate"]["last_shut_s"] is None
        release_addresses(made.backup)
        until(lambda: made.is_shut, "the gate is shut, as the addresses have left")
        assert not made.passes()
        hold_addresses(made.backup)
        assert not pings(made.server, VIRTUAL)


def test_vrrp_and_neighbour_discovery_pass(shut: Site) -> None:
    shut.backup.nft(SEEN)
    hold_addresses(shut.backup)
    with shut.server.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)) as vrrp:
        vrrp.sendto(bytes(8), (VIRTUAL, 0))
    until(lambda: shut.seen("vrrp") == 1, "VRRP gets in")
    # To the address itself, as a host does that looks whether its neighbour is still there.
    shut.server.exec("ip", "route", "replace", VIRTUAL6, "dev", "way1")
    lladdr = shut.backup.exec("cat", "/sys/class/net/wan/address").stdout.strip()
    shut.server.exec("ip", "neighbour", "replace", VIRTUAL6, "dev", "way1", "lladdr", lladdr, "nud", "probe")
    until(lambda: shut.seen("solicited"), "solicitations get in")
    neighbour = ("ip", "neighbour", "show", VIRTUAL6)
    until(lambda: "REACHABLE" in shut.server.exec(*neighbour).stdout, "and are answered")


@pytest.mark.parametrize("transport", ["multicast", "udp", "tcp"])
def test_a_link_over_a_gated_interface_goes_on(tmp_path: Path, transport: str) -> None:
    links = (lambda _: MULTICAST) if transport == "multicast" else (lambda number: unicast(transport, number))
    with site(tmp_path, more='[takeover]\ngate_interfaces = ["sync", "lan"]\n', links=links) as made:
        until(lambda: made.is_shut and made.backup.status()["synced"], "in sync behind a shut gate")
        made.active.insert(1)
        until(lambda: made.backup.status()["flows"] == 1, "a flow is replicated")
        assert not made.passes()
        assert made.is_shut


def test_a_killed_daemon_leaves_no_gate(shut: Site) -> None:
    assert not shut.passes()
    shut.backup.kill(signal.SIGKILL)
    assert shut.passes()


def test_a_daemon_that_hangs_opens_the_gate_and_shuts_it_when_it_goes_on(shut: Site) -> None:
    assert not shut.passes()
    assert shut.backup.process is not None
    shut.backup.process.send_signal(signal.SIGSTOP)
    until(shut.passes, "the gate opens by itself")
    shut.backup.process.send_signal(signal.SIGCONT)
    until(lambda: not shut.passes(), "the gate is shut again")
    told = shut.backup.status()["gate"]
    assert (told["shut"], told["failed"]) == (True, {"lapsed": 1})


def test_nobody_else_can_take_the_table_away(shut: Site) -> None:
    shut.backup.exec("nft", "flush", "ruleset")
    shut.backup.exec("nft", "delete", "table", "inet", gate_rules.NAME, check=False)
    assert not shut.passes()
    assert shut.backup.status()["gate"]["failed"] == {}


def test_renewing_it_changes_nothing_in_the_ruleset(shut: Site) -> None:
    """A listing begins again when the ruleset changes: a listing of many elements would never end."""
    watching = ("ip", "netns", "exec", shut.backup.namespace, "nft", "monitor")
    with subprocess.Popen(watching, stdout=subprocess.PIPE, text=True) as monitor:
        assert monitor.stdout is not None
        line = ""
        while "begun" not in line:
            shut.backup.exec("nft", "add table inet begun")
            shut.backup.exec("nft", "delete table inet begun")
            line = monitor.stdout.readline()
        shut.backup.nft(SEEN)
        until(lambda: shut.seen("knocks") >= 4, "it is renewed")
        shut.backup.exec("nft", "add table inet ended")
        lines = [line]
        while "ended" not in lines[-1]:
            lines.append(monitor.stdout.readline())
        monitor.kill()
    assert not [line for line in lines if gate_rules.NAME in line]
    assert shut.is_shut


def test_a_table_that_cannot_be_made_does_not_keep_a_node_from_taking_over(tmp_path: Path) -> None:
    with site(tmp_path) as made:
        made.backup.kill()
        made.backup.exec("nft", "add", "table", "inet", gate_rules.NAME)
        made.backup.exec("nft", "add", "chain", "inet", gate_rules.NAME, "wait")
        made.backup.exec("nft", "add", "counter", "inet", gate_rules.NAME, "gate")
        made.backup.start("backup")
        until(lambda: made.backup.status()["gate"]["failed"].get("refused"), "nft refuses")
        assert not made.is_shut
        made.backup.ftfw("promote")
        assert made.backup.status()["role"] == "active"


def test_a_backup_that_follows_nobody_stops_nothing(tmp_path: Path) -> None:
    """Such a backup is a node whose daemon crashed as active and is started where the addresses are."""
    with site(tmp_path) as made:
        for node in (made.active, made.backup):
            node.kill()
        made.backup.start("backup")
        assert made.passes()
        assert not made.is_shut
        assert made.backup.status()["gate"]["last_shut_s"] is None


def test_a_demoted_node_shuts_it_when_the_other_one_is_active(shut: Site) -> None:
    shut.active.ftfw("demote")
    assert shut.is_shut
    shut.backup.ftfw("promote")
    until(lambda: shut.active.status()["gate"]["shut"], "the old active waits behind its gate")
    assert shut.passes()


def test_check_reads_a_ruleset_with_the_table_in_it(shut: Site) -> None:
    shut.backup.nft(SEEN)
    findings = json.loads(shut.backup.ftfw("check", "--json", check=False).stdout)
    (about_rules,) = [finding for finding in findings if finding["subject"] == "ruleset"]
    assert about_rules["level"] == "ok"


# One gate alone, on the loopback of a namespace


@asynccontextmanager
async def alone() -> AsyncIterator[tuple[Gate, Callable[[], bool]]]:
    """Run a gate, and yield it with a function that tells whether a datagram passes it."""
    with ExitStack() as stack:
        made = stack.enter_context(closing(Gate(["lo"], frozenset(), held=lambda _: None)))
        near, far = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        far.bind(("127.0.0.1", 0))
        far.setblocking(False)

        def passes() -> bool:
            near.sendto(b"x", far.getsockname())  # is there when this returns, or nowhere
            try:
                return far.recv(9) == b"x"
            except BlockingIOError:
                return False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            yield made, passes
            nursery.cancel_scope.cancel()


def on_loopback(work: Callable[[Gate, Callable[[], bool]], Awaitable[None]]) -> None:
    async def with_gate() -> None:
        async with alone() as (made, passes):
            assert passes()
            await work(made, passes)

    with namespaces(1) as (only,), only:
        only.run("ip", "link", "set", "lo", "up")
        trio.run(with_gate)


async def wait_for(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await trio.sleep(0.01)


def state(made: Gate) -> tuple[bool, dict[str, int]]:
    status = made.status(trio.current_time())
    return status["shut"], status["failed"]


def test_traffic_does_not_wait_for_ever_for_a_promotion_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "COUNT_S", 0.0)
    monkeypatch.setattr(gate, "PATIENCE_S", 1.0)

    async def work(made: Gate, passes: Callable[[], bool]) -> None:
        made.shut(frozenset())
        await wait_for(lambda: not passes())
        made.wait_for_commit()
        dropped = made.status(trio.current_time())["dropped"]
        until_s = trio.current_time() + 2 * gate.PATIENCE_S
        while trio.current_time() < until_s:
            assert not passes(), "a commit may take its time"
            await trio.sleep(0.05)
        assert made.status(trio.current_time())["dropped"] > dropped
        made.shut(frozenset())
        await wait_for(passes)
        assert state(made) == (False, {"no_promotion": 1})
        assert "without a promotion" in caplog.text
        made.shut(frozenset())
        await wait_for(lambda: not passes())

    on_loopback(work)


def test_after_a_storm_of_changes_it_is_as_the_last_one_left_it() -> None:
    async def work(made: Gate, passes: Callable[[], bool]) -> None:
        for _ in range(100):
            made.shut(frozenset())
            await trio.sleep(0.002)
            made.open()
        assert passes()
        for _ in range(100):
            made.open()
            await trio.sleep(0.002)
            made.shut(frozenset())
        await wait_for(lambda: not passes())
        assert state(made) == (True, {})

    on_loopback(work)


def test_a_gate_that_does_not_hear_to_open_opens_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(made: Gate, passes: Callable[[], bool]) -> None:
        made.shut(frozenset())
        await wait_for(lambda: not passes())
        monkeypatch.setattr(gate_rules, "OPEN", UNHEARD_PORT)
        made.open()
        await wait_for(passes)
        assert state(made) == (False, {"not_opened": 1})

    on_loopback(work)


def test_not_even_when_nft_fails_too_it_stays_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_nft: Nft, _commands: str) -> str:
        raise NftError("Device or resource busy")

    async def work(made: Gate, passes: Callable[[], bool]) -> None:
        made.shut(frozenset())
        await wait_for(lambda: not passes())
        monkeypatch.setattr(gate_rules, "OPEN", UNHEARD_PORT)
        with monkeypatch.context() as broken:
            broken.setattr(Nft, "run", refuse)
            made.open()
            await wait_for(passes)
        assert state(made)[1]["not_opened"] == 1
        assert state(made)[1]["refused"] > 0

    on_loopback(work)


def test_a_long_change_of_the_ruleset_delays_neither_renewing_nor_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def wait(_nft: Nft, _commands: str) -> str:
        go_on.wait(10)
        return ""

    async def work(made: Gate, passes: Callable[[], bool]) -> None:
        made.shut(frozenset())
        await wait_for(lambda: not passes())
        try:
            monkeypatch.setattr(Nft, "run", wait)
            until_s = trio.current_time() + 2 * gate_rules.TIMEOUT_S
            while trio.current_time() < until_s:
                assert not passes()
                await trio.sleep(0.05)
            made.open()
            assert passes()
        finally:
            go_on.set()

    on_loopback(work)
