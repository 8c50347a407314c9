"""Runs two real daemons over each kind of link, and over two links, while links fail and strangers send."""

import errno
import secrets
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from ftfw.config.schema import UnicastLink
from ftfw.link.datagram import BATCH
from ftfw.link.link_base import REMEDIES, BatchOrigin
from ftfw.link.udp import Udp
from ftfw.security.frames import MAGIC, VERSION
from tests.kernel.crowd import inject_many
from tests.kernel.namespaces import namespaces
from tests.kernel.pair import MULTICAST, Node, address, connect, flow_arguments, pair, run, unicast, until

pytestmark = pytest.mark.kernel

Pair = tuple[Node, Node]
MULTICAST_6 = MULTICAST.replace("225.0.0.50", "ff02::50")
PORT = 3780


def replicates(active: Node, backup: Node, number: int) -> None:
    """Wait until a new flow has come to the backup, which then is in sync."""
    active.insert(number)
    wanted = 10000 + number
    until(
        lambda: backup.status()["synced"] and wanted in {flow["original"]["sport"] for flow in backup.flows()},
        f"flow {number} on {backup.name}",
    )


def start(active: Node, backup: Node) -> None:
    active.start("active")
    backup.start("backup")
    replicates(active, backup, 0)


def link(node: Node, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = node.status()["links"][number]
    return found


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_pair_replicates_over(tmp_path: Path, transport: str, version: int) -> None:
    with pair(tmp_path, links=lambda number: unicast(transport, number, version=version)) as (active, backup):
        start(active, backup)
        for node in (active, backup):
            until(lambda node=node: link(node)["up"], "the link is up")  # type: ignore[misc]
            assert node.status()["peers"]
        assert active.flows() == backup.flows()
        active.exec("conntrack", "-D", *flow_arguments(0))
        until(lambda: backup.status()["flows"] == 0, "the destroy")
        assert backup.status()["stream"]["gaps"] == 0


def test_a_pair_replicates_over_multicast_ipv6(tmp_path: Path) -> None:
    with pair(tmp_path, links=lambda _: MULTICAST_6) as (active, backup):
        start(active, backup)
        assert link(backup)["name"] == "multicast ff02::50 on sync"
        until(lambda: link(backup)["up"], "the link is up")


def two(tmp_path: Path, first: str, second: str) -> Any:
    def links(number: int) -> str:
        return "".join(
            MULTICAST.replace("sync", interface)
            if transport == "multicast"
            else unicast(transport, number, interface=interface)
            for transport, interface in ((first, "sync"), (second, "spare"))
        )

    return pair(tmp_path, links=links, interfaces=("sync", "spare"))


@pytest.mark.parametrize(("first", "second"), [("multicast", "udp"), ("udp", "tcp"), ("tcp", "multicast")])
def test_losing_one_of_two_links_loses_nothing(tmp_path: Path, first: str, second: str) -> None:
    with two(tmp_path, first, second) as (active, backup):
        start(active, backup)
        until(lambda: link(backup, 0)["up"] and link(backup, 1)["up"], "both are up")
        active.exec("ip", "link", "set", "sync", "down")
        replicates(active, backup, 1)
        until(lambda: not link(active, 0)["up"] and not link(backup, 0)["up"], "the first is down")
        assert link(active, 1)["up"]
        assert link(backup, 1)["up"]
        replicates(active, backup, 2)
        active.exec("ip", "link", "set", "sync", "up")
        until(lambda: link(active, 0)["up"] and link(backup, 0)["up"], "the first is back")
        backup.exec("ip", "link", "delete", "spare")
        until(lambda: not link(active, 1)["up"] and not link(backup, 1)["up"], "the second is gone")
        replicates(active, backup, 3)
        stream = backup.status()["stream"]
        assert (stream["gaps"], stream["snapshots"]) == (0, 1)
        connect((active, backup), "spare")
        until(lambda: link(active, 1)["up"] and link(backup, 1)["up"], "the second is another one, and up")
        active.exec("ip", "link", "set", "sync", "down")
        replicates(active, backup, 4)


def test_a_link_that_is_cut_where_nobody_sees_it_is_down(tmp_path: Path) -> None:
    with two(tmp_path, "udp", "tcp") as (active, backup):
        start(active, backup)
        until(lambda: link(backup, 0)["up"] and link(backup, 1)["up"], "both are up")
        rules = "table inet cut { chain c { type filter hook input priority 0; udp dport 3780 drop; }; }"
        for node in (active, backup):
            node.exec("nft", rules)
        until(lambda: not link(active, 0)["up"] and not link(backup, 0)["up"], "the first is down")
        replicates(active, backup, 1)
        for node in (active, backup):
            node.exec("nft", "delete table inet cut")
        until(lambda: link(active, 0)["up"] and link(backup, 0)["up"], "the first is back")


@pytest.mark.parametrize("links", [MULTICAST, MULTICAST_6, "udp", "tcp"])
def test_the_only_link_recovers_on_an_interface_made_anew(tmp_path: Path, links: str) -> None:
    with pair(tmp_path, links=lambda n: links if "[[" in links else unicast(links, n)) as (active, backup):
        start(active, backup)
        run("ip", "-n", active.namespace, "link", "delete", "sync")
        until(lambda: not link(active)["up"] and not link(backup)["up"], "it is down")
        until(lambda: "no interface sync" in active.log.read_text(), "the log tells")
        connect((active, backup), "sync")
        until(lambda: link(active)["up"] and link(backup)["up"], "it is up")
        replicates(active, backup, 1)
        assert f"{link(active)['name']}: up" in active.log.read_text()


# A link that cannot be opened at start


@contextmanager
def taken(node: Node) -> Iterator[None]:
    """Hold the link's UDP port on a node's address of the interface `sync`."""
    with node.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as holder:
        holder.bind((address("sync", 1), PORT))
        yield


def without_interface(node: Node) -> None:
    run("ip", "-n", node.namespace, "link", "delete", "sync")


def without_address(node: Node) -> None:
    node.exec("ip", "address", "delete", f"{address('sync', 1)}/26", "dev", "sync")


def with_address(node: Node) -> None:
    node.exec("ip", "address", "add", f"{address('sync', 1)}/26", "dev", "sync")


@pytest.mark.parametrize("transport", ["multicast", "udp", "tcp"])
def test_a_link_without_its_interface_keeps_no_daemon_from_starting_and_is_opened_later(
    tmp_path: Path, transport: str
) -> None:
    with two(tmp_path, transport, "udp") as (active, backup):
        without_interface(active)
        start(active, backup)
        assert not link(active)["up"]
        assert link(active)["trouble"].startswith("there is no interface sync; create it")
        until(lambda: link(active, 1)["up"], "the other link is up")
        connect((active, backup), "sync")
        until(lambda: link(active)["up"] and link(backup)["up"], "the link is up")
        until(lambda: link(active)["trouble"] is None, "no trouble")
        assert active.log.read_text().count("there is no interface sync") == 1
        active.exec("ip", "link", "set", "spare", "down")
        replicates(active, backup, 1)


@pytest.mark.parametrize("transport", ["multicast", "udp", "tcp"])
def test_a_daemon_whose_only_link_has_no_interface_serves_commands_and_is_in_sync_later(
    tmp_path: Path, transport: str
) -> None:
    links = (lambda _: MULTICAST) if transport == "multicast" else (lambda number: unicast(transport, number))
    with pair(tmp_path, links=links) as (active, backup):
        without_interface(backup)
        active.start("active")
        backup.start("backup")
        status = backup.status()
        assert (status["synced"], status["links"][0]["up"]) == (False, False)
        trouble = "there is no interface sync; create it, or correct `interface` of this [[link]]"
        assert status["links"][0]["trouble"] == trouble
        assert f"down: {trouble}" in backup.log.read_text()
        connect((active, backup), "sync")
        replicates(active, backup, 1)
        until(lambda: link(backup)["trouble"] is None, "no trouble")
        assert backup.log.read_text().count("there is no interface sync") == 1
        assert backup.kill(signal.SIGTERM) == 0  # it is the process that was started without the interface


@pytest.mark.parametrize("links", [MULTICAST, MULTICAST_6, "udp"])
def test_an_interface_that_comes_with_a_smaller_mtu_carries_a_snapshot(tmp_path: Path, links: str) -> None:
    with pair(tmp_path, links=lambda n: links if "[[" in links else unicast(links, n)) as (active, backup):
        without_interface(active)
        active.start("active")
        backup.start("backup")
        active.inside(lambda: trio.run(inject_many, 3000))
        connect((active, backup), "sync")
        for node in (active, backup):
            node.exec("ip", "link", "set", "sync", "mtu", "1280")
        until(lambda: backup.status()["synced"] and backup.status()["flows"] == 3000, "the snapshot")
        assert "send_emsgsize" not in active.status()["link"]["dropped"]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("interface", [True, False])
def test_a_link_without_its_address_is_opened_when_the_address_comes(
    tmp_path: Path, transport: str, interface: bool
) -> None:
    def links(number: int) -> str:
        text = unicast(transport, number)
        return text if interface else text.replace('interface = "sync"\n', "")

    with pair(tmp_path, links=links) as (active, backup):
        without_address(active)
        active.start("active")
        backup.start("backup")
        assert link(active)["trouble"].startswith("Cannot assign requested address; add the address to an interface")
        with_address(active)
        replicates(active, backup, 1)
        until(lambda: link(active)["trouble"] is None, "no trouble")
        assert active.log.read_text().count("Cannot assign requested address") == 1


def test_a_link_whose_port_is_taken_is_opened_when_the_port_is_free(tmp_path: Path) -> None:
    with pair(tmp_path, links=lambda number: unicast("udp", number)) as (active, backup):
        with taken(active):
            active.start("active")
            backup.start("backup")
            assert link(active)["trouble"] == (
                "Address already in use; end the program that has port 3780 there,"
                " or set `port` of this [[link]] on all nodes"
            )
        replicates(active, backup, 1)


PRIVILEGED = """
from ftfw.config.schema import UnicastLink
from ftfw.link.udp import Udp
print(Udp(UnicastLink(transport="udp", bind="127.0.0.1", peers=["127.0.0.2"], port=80)).trouble)
"""


def test_a_missing_capability_is_told_with_the_remedy() -> None:
    with namespaces(1) as (only,):
        only.run("ip", "link", "set", "lo", "up")
        told = only.run("setpriv", "--bounding-set=-net_bind_service", sys.executable, "-c", PRIVILEGED)
        assert told.strip() == f"Permission denied; {REMEDIES[errno.EACCES]}"


# TCP: who dials, and who is let in


def connections(node: Node) -> list[tuple[str, str]]:
    """Return the established connections of the link, as (own port, peer's port)."""
    listed = node.exec("ss", "-Htn", "state", "established", "( sport = 3780 or dport = 3780 )").stdout
    ends = [line.split()[2:4] for line in listed.splitlines()]
    return [(own.rpartition(":")[2], peer.rpartition(":")[2]) for own, peer in ends]


@pytest.mark.parametrize("names", [("fw1", "fw2"), ("fw2", "fw1")])
@pytest.mark.parametrize("second_first", [False, True])
def test_the_smaller_name_dials_whoever_starts_first(
    tmp_path: Path, names: tuple[str, str], second_first: bool
) -> None:
    with pair(tmp_path, names=names, links=lambda number: unicast("tcp", number)) as nodes:
        active, backup = reversed(nodes) if second_first else nodes
        smaller, larger = sorted(nodes, key=lambda node: node.name)

        def settled() -> bool:
            found = connections(smaller)
            return [peer_port for _, peer_port in found] == [str(PORT)]

        start(active, backup)
        until(settled, "one connection, dialled by the smaller name")
        for node in (smaller, larger):
            node.kill()
            node.start("active" if node is active else "backup")
            until(settled, f"the same after {node.name} has restarted")
            replicates(active, backup, 1 if node is smaller else 2)


def test_a_peer_that_vanishes_without_a_word_is_found_out(tmp_path: Path) -> None:
    with pair(tmp_path, links=lambda number: unicast("tcp", number)) as (active, backup):
        start(active, backup)
        rules = "tcp dport 3780 drop; tcp sport 3780 drop;"
        backup.exec("nft", f"table inet cut {{ chain c {{ type filter hook input priority 0; {rules} }}; }}")
        until(lambda: not link(active)["up"] and not link(backup)["up"], "both have found out")
        backup.exec("nft", "delete table inet cut")
        until(lambda: link(active)["up"] and link(backup)["up"], "connected again")
        replicates(active, backup, 1)


@contextmanager
def clients(node: Node, source: str, target: str, count: int = 1) -> Iterator[list[socket.socket]]:
    """Open `count` connections from a node's address to the other node's link."""

    def dial() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.bind((source, 0))
        made.settimeout(20)
        made.connect((target, PORT))
        return made

    opened = [node.inside(dial) for _ in range(count)]
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


def is_closed(client: socket.socket) -> bool:
    """Wait until the other end closes without having sent anything."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


GARBAGE = {
    "four GiB": struct.pack(">I", 0xFFFFFFFF),
    "nothing": struct.pack(">I", 0),
    "a web request": b"GET / HTTP/1.1\r\nHost: firewall\r\n\r\n",
    "no frame": struct.pack(">I", 200) + secrets.token_bytes(200),
    "a frame under no key": struct.pack(">I", 200) + b"FW\x01\x00" + secrets.token_bytes(196),
}


def test_clients_that_send_garbage_are_dropped_and_cost_nothing(tmp_path: Path) -> None:
    with pair(tmp_path, links=lambda number: unicast("tcp", number)) as (active, backup):
        start(active, backup)
        for garbage in GARBAGE.values():
            with clients(backup, address("sync", 2), address("sync", 1)) as (client,):
                client.sendall(garbage)
                assert is_closed(client)
        until(lambda: link(active)["dropped"].get("tcp_garbage") == len(GARBAGE), "each is counted")
        assert link(active)["up"]
        replicates(active, backup, 1)
        assert backup.status()["stream"]["gaps"] == 0


def test_clients_that_send_nothing_get_nothing_and_are_few(tmp_path: Path) -> None:
    with pair(tmp_path, links=lambda number: unicast("tcp", number)) as (active, backup):
        start(active, backup)
        with clients(backup, address("sync", 2), address("sync", 1), 10) as opened:
            until(lambda: link(active)["dropped"].get("tcp_too_many") == 6, "more than four are refused")
            replicates(active, backup, 1)
            assert all(is_closed(client) for client in opened)
            until(lambda: link(active)["dropped"].get("tcp_silent") == 4, "the others have had their time")
        assert link(active)["up"]
        assert backup.status()["stream"]["gaps"] == 0


def test_clients_from_another_address_are_refused_at_once(tmp_path: Path) -> None:
    with pair(tmp_path, links=lambda number: unicast("tcp", number)) as (active, backup):
        start(active, backup)
        backup.exec("ip", "address", "add", f"{address('sync', 9)}/26", "dev", "sync")
        with clients(backup, address("sync", 9), address("sync", 1)) as (client,):
            assert is_closed(client)
        until(lambda: link(active)["dropped"].get("tcp_stranger") == 1, "counted")


# UDP: what the kernel drops


def test_a_foreign_programs_datagrams_never_reach_the_daemon(tmp_path: Path) -> None:
    with pair(tmp_path, links=lambda number: unicast("udp", number)) as (active, backup):
        backup.start("backup")

        def shout() -> None:
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                for size in (0, 1, 7, 100, 1400):
                    sender.sendto(secrets.token_bytes(size), (address("sync", 2), PORT))
                    sender.sendto(b"FW\x01\x00" + secrets.token_bytes(size), (address("sync", 2), PORT))

        active.inside(shout)
        until(lambda: link(backup)["dropped"].get("kernel") == 10, "the kernel has dropped them")
        assert link(backup)["received"] == 0


def loopback(own: str, *peers: str) -> UnicastLink:
    return UnicastLink.model_validate({"transport": "udp", "bind": own, "peers": peers, "port": PORT})


def test_each_peer_gets_each_frame_and_one_that_is_away_costs_the_others_none() -> None:
    with namespaces(1) as (only,):
        only.run("ip", "link", "set", "lo", "up")
        near, far = (only.bound(socket.SOCK_DGRAM, address, PORT) for address in ("127.0.0.2", "127.0.0.3"))
        with only, closing(Udp(loopback("127.0.0.1", "192.0.2.1", "127.0.0.2", "127.0.0.3"))) as udp, near, far:
            udp.send(b"frame")
            assert near.recv(100) == far.recv(100) == b"frame"
        assert (udp.trouble, udp.sent, sum(udp.dropped.values())) == (None, 2, 1)


def test_a_flood_is_read_in_bounded_batches_between_which_others_have_their_turn() -> None:
    batches: list[int] = []
    turns: list[int] = []

    async def somebody_else() -> None:
        while True:
            turns.append(len(batches))
            await trio.lowlevel.checkpoint()

    def received(frames: list[bytes]) -> BatchOrigin:
        batches.append(len(frames))
        return BatchOrigin(0, None)

    async def work() -> None:
        udp = Udp(loopback("127.0.0.1", "127.0.0.2"))
        with closing(udp), closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for _ in range(1000):
                sender.sendto(MAGIC + bytes([VERSION]) + bytes(500), ("127.0.0.1", PORT))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(udp.run, received)
                nursery.start_soon(somebody_else)
                with trio.fail_after(10):
                    while sum(batches) < 1000:
                        await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert udp.received == 1000

    with namespaces(1) as (only,):
        only.run("ip", "link", "set", "lo", "up")
        with only:
            trio.run(work)
    assert max(batches) <= BATCH
    assert max(later - earlier for earlier, later in pairwise(turns)) <= 2


def test_a_frame_longer_than_the_mtu_allows_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    received: list[bytes] = []

    def take(frames: list[bytes]) -> BatchOrigin:
        received.extend(frames)
        return BatchOrigin(0, None)

    async def work() -> None:
        udp = Udp(loopback("127.0.0.1", "127.0.0.2").model_copy(update={"mtu": 1500}))
        head = MAGIC + bytes([VERSION])
        whole = head + bytes(1400)
        with closing(udp), closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(udp.run, take)
                for frame in (head + bytes(3000), whole, head + bytes(1498), whole):
                    sender.sendto(frame, ("127.0.0.1", PORT))
                with trio.fail_after(10):
                    while len(received) < 2:
                        await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert received == [whole, whole]
        assert udp.dropped == {"truncated": 2}

    with namespaces(1) as (only,):
        only.run("ip", "link", "set", "lo", "up")
        with only:
            trio.run(work)
    (told,) = caplog.messages
    assert "dropped a frame longer than 1500 bytes" in told
    assert told.endswith("set `mtu` of the [[link]] to 1500 on every node")
