"""Real daemons over a link that loses, dies and lies.  `./dev soak` runs this in full size."""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import trio

from ftfw import keyfile
from ftfw.replication import messages
from ftfw.seal import EPOCH_SIZE, Sealer
from tests.kernel.crowd import end_many, inject_many
from tests.kernel.pair import Node, pair, until

pytestmark = pytest.mark.kernel

Pair = tuple[Node, Node]
SOAK = bool(os.environ.get("FTFW_SOAK"))
BATCH = 1000  # flows that begin at once
BATCHES = 60 if SOAK else 12
OUTAGE_S = 60.0 if SOAK else 3.0
HOSTILE = 1_000_000 if SOAK else 45_000  # datagrams
ROUNDS = 50 if SOAK else 4
ETHERNET_IP_UDP = 42  # bytes before a frame, as a packet socket sees it
IP_MULTICAST = bytes((225, 0, 0, 50))

LOSSY = """
table inet lossy {
    chain c {
        type filter hook input priority raw
        udp dport 3780 numgen random mod 100 < 20 counter drop
    }
}
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as (active, backup):
        active.start("active")
        backup.start("backup")
        until(lambda: backup.status()["synced"], "in sync")
        yield active, backup


def begin(node: Node, batch: int) -> None:
    """A batch of flows begins, and half of the one before ends."""
    before = node.status()["kernel"]["events"]
    node.inside(lambda: trio.run(inject_many, BATCH, batch * BATCH))
    if batch:
        node.inside(lambda: trio.run(end_many, BATCH // 2, (batch - 1) * BATCH))
    until(lambda: node.status()["kernel"]["events"] >= before + BATCH, "the batch is streamed")


def flows_of(batches: int) -> int:
    return batches * BATCH - (batches - 1) * (BATCH // 2)


def equal(active: Node, backup: Node, count: int) -> None:
    until(lambda: (s := backup.status())["synced"] and s["flows"] == count, f"{count} flows in sync")
    assert active.kernel_count() >= count
    assert backup.flows() == active.flows()


def test_a_fifth_of_all_frames_lost_each_way_costs_nothing(nodes: Pair) -> None:
    active, backup = nodes
    snapshots = backup.status()["stream"]["snapshots"]
    for node in nodes:
        node.nft(LOSSY)
    for batch in range(BATCHES):
        begin(active, batch)
    equal(active, backup, flows_of(BATCHES))
    assert active.status()["stream"]["resent"] > 0
    assert backup.status()["stream"]["gaps"] == 0
    assert backup.status()["stream"]["snapshots"] == snapshots


def test_an_outage_under_load_is_made_up_for(nodes: Pair) -> None:
    active, backup = nodes
    begin(active, 0)
    active.exec("ip", "link", "set", "sync", "down")
    end = time.monotonic() + OUTAGE_S
    batches = 1
    while time.monotonic() < end:
        begin(active, batches)
        batches += 1
    assert not backup.status()["synced"]
    assert backup.ftfw("status", "--ready", check=False).returncode == 0  # it was, when the active was last heard
    active.exec("ip", "link", "set", "sync", "up")
    equal(active, backup, flows_of(batches))


def captured(node: Node, count: int) -> list[bytes]:
    """Frames that this node sends now."""

    def capture() -> list[bytes]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as listening:
            listening.bind(("sync", 0))
            listening.settimeout(10)
            found: list[bytes] = []
            while len(found) < count:
                packet = listening.recv(2048)
                if packet[30:34] == IP_MULTICAST:
                    found.append(packet[ETHERNET_IP_UDP:])
            return found

    return node.inside(capture)


def test_forged_mutated_and_recorded_datagrams_change_nothing(nodes: Pair, tmp_path: Path) -> None:
    active, backup = nodes
    begin(active, 0)
    equal(active, backup, BATCH)
    frames = captured(active, 30)
    sealer = Sealer(keyfile.read(tmp_path / "link.key"), name="fw1", epoch=secrets.token_bytes(EPOCH_SIZE))
    recorded = sealer.seal(messages.heartbeat("fw1", "active", 7, 7))  # as of a process that has long ended
    before, flows = backup.status(), backup.flows()

    def hostile() -> None:
        random = Random(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("203.0.113.1"))
            for _ in range(HOSTILE // 3):
                frame = random.choice(frames)
                mutated = bytearray(frame)
                mutated[random.randrange(len(frame))] ^= 1 << random.randrange(8)
                for datagram in (bytes(mutated), recorded, frame[:64] + random.randbytes(random.randrange(300))):
                    sender.sendto(datagram, ("225.0.0.50", 3780))

    active.inside(hostile)

    def counted() -> int:
        now: dict[str, int] = backup.status()["link"]["dropped"]
        then: dict[str, int] = before["link"]["dropped"]
        return sum(now.values()) - sum(then.values())

    # Nothing is left uncounted: what was not refused here did not fit the socket's buffer, and is counted there.
    until(lambda: counted() >= HOSTILE // 3 * 3, "all of them counted")
    dropped = backup.status()["link"]["dropped"]
    assert dropped["forged"] > 0
    assert dropped["unproved"] > 0
    assert backup.flows() == flows
    begin(active, 1)
    equal(active, backup, flows_of(2))
    assert backup.status()["stream"]["snapshots"] == before["stream"]["snapshots"]


def test_either_node_is_killed_under_load_and_started_again(nodes: Pair) -> None:
    active, backup = nodes
    for number in range(ROUNDS):
        begin(active, number)
        victim, role = ((active, "active"), (backup, "backup"))[number % 2]
        victim.kill()
        victim.start(role)
        equal(active, backup, flows_of(number + 1))
