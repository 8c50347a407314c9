"""Somebody on the link, with a node's address, against real daemons.  `./dev soak` runs this in full size."""

import json
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import NamedTuple

import pytest

from ftfw.security.frames import HEADER_SIZE, MAGIC
from tests.kernel.load import BATCH, SOAK, begin, equal, flows_of, in_sync
from tests.kernel.pair import Node, pair, until
from tests.kernel.volley import Flood, Volley, recorded, stranger

pytestmark = pytest.mark.kernel

THIRD = 500  # of a window: so many datagrams of a kind are under way at a time, which the receiver's buffer holds
WINDOWS = 667 if SOAK else 30
RECORDED = 20  # frames of an epoch
FLOOD_PER_S = 100_000 if SOAK else 20_000
FLOOD_S = 30.0 if SOAK else 1.0
PAUSE_S = 0.5  # between two batches of flows
LAG_MAX_S = 1.0
COUNTER = slice(56, 64)  # of a frame

COUNTED = """
table inet counted {
    chain c {
        type filter hook input priority filter
        udp dport 3780 counter
    }
}
"""


def delivered(node: Node) -> int:
    """Datagrams that have come in for the daemon, as nftables counts them since `COUNTED` was loaded."""
    listed = json.loads(node.exec("nft", "-j", "list", "table", "inet", "counted").stdout)
    (rule,) = (each["rule"] for each in listed["nftables"] if "rule" in each)
    (packets,) = (part["counter"]["packets"] for part in rule["expr"] if "counter" in part)
    return int(packets)


class Books(NamedTuple):
    """What a node's daemon says has become of the datagrams."""

    read: int
    unread: int  # the kernel has dropped them
    refused: Counter[str]  # of those read, by reason

    @property
    def taken(self) -> int:
        return self.read + self.unread

    @classmethod
    def of(cls, node: Node) -> "Books":
        link = node.status()["link"]
        refused = Counter(link["dropped"])
        return cls(link["received"], refused.pop("kernel", 0), refused)


def overflowed(node: Node) -> int:
    """Datagrams that did not fit a socket's buffer, of all sockets in the node's namespace."""
    names, values = (
        line.split()[1:] for line in node.exec("cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Udp:")
    )
    return int(dict(zip(names, values, strict=True))["RcvbufErrors"])


def mutated(random: Random, frame: bytes) -> tuple[bytes, str]:
    """A frame with one bit changed, and the reason for which that is refused."""
    place = random.randrange(len(frame))
    found = bytearray(frame)
    found[place] ^= 1 << random.randrange(8)
    if place < len(MAGIC) or place in range(4, 8):
        return bytes(found), "kernel"  # no frame, or under an unknown key
    return bytes(found), "version" if place < 4 else "forged"


def invented(random: Random, frame: bytes) -> tuple[bytes, str]:
    """A real header, and anything behind it."""
    body = random.randbytes(random.randrange(300))
    return frame[:HEADER_SIZE] + body, "short" if len(body) < 16 else "forged"


def settled(target: Node, peer: Node) -> Books:
    """The books when nothing comes in any more, the peer's link being cut.  They name everything that was delivered."""
    peer.exec("ip", "link", "set", "sync", "down")
    until(lambda: Books.of(target).taken == delivered(target), "all that was delivered was read, or dropped unread")
    return Books.of(target)


def test_forged_mutated_and_recorded_datagrams_change_nothing_and_each_is_counted(tmp_path: Path) -> None:
    random = Random(1)
    with pair(tmp_path) as (active, backup):
        old = []
        for batch in range(2):  # two epochs that have ended
            active.start("active")
            old += recorded(active, RECORDED, lambda batch=batch: begin(active, batch))  # type: ignore[misc]
            active.kill()
        backup.nft(COUNTED)
        backup.start("backup")  # first: whatever the active sends is delivered
        active.start("active")
        live = recorded(active, RECORDED, lambda: begin(active, 2))
        equal(flows_of(3), active, backup)
        before, flows, snapshots = Books.of(backup), backup.flows(), backup.status()["stream"]["snapshots"]
        assert set(before.refused) <= {"unproved"}  # what came before the active had answered the challenge

        expected: Counter[str] = Counter()
        with stranger(active, 1) as hostile:
            for _ in range(WINDOWS):
                window = [(random.choice(old), "unproved") for _ in range(THIRD)]
                window += [make(random, random.choice(live)) for make in (mutated, invented) for _ in range(THIRD)]
                Volley([datagram for datagram, _ in window]).send_all(hostile)
                expected.update(reason for _, reason in window)
                until(lambda: Books.of(backup).taken >= before.taken + expected.total(), "the window is taken")

        after, sent = settled(backup, active), active.status()["link"]["sent"]
        assert backup.flows() == flows
        assert overflowed(backup) == 0
        assert delivered(backup) == expected.total() + sent
        assert after.unread == expected.pop("kernel")
        assert after.refused == expected + before.refused
        assert after.read - after.refused.total() == sent - before.refused.total()  # accepted: what the active has sent
        print(f"{delivered(backup)} delivered: {after}")

        active.exec("ip", "link", "set", "sync", "up")
        begin(active, 3)
        equal(flows_of(4), active, backup)
        assert backup.status()["stream"]["snapshots"] == snapshots


class Lags(threading.Thread):
    """Looks, all the time, how old the oldest frame is that the active's only backup has not acknowledged."""

    def __init__(self, active: Node) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._active = active
        self._stopped = threading.Event()

    def __enter__(self) -> "Lags":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        while not self._stopped.wait(0.01):
            self.seconds += [peer["lag_s"] for peer in self._active.status()["peers"]]

    def percentile(self, percent: int) -> float:
        return quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


@pytest.mark.parametrize(
    ("flooded", "per_s"), [("backup", FLOOD_PER_S), ("active", FLOOD_PER_S), ("backup", float("inf"))]
)
def test_replication_goes_on_under_a_flood_of_forged_frames(tmp_path: Path, flooded: str, per_s: float) -> None:
    random = Random(1)
    with pair(tmp_path) as (active, backup):
        target, peer, number = (backup, active, 1) if flooded == "backup" else (active, backup, 2)
        target.nft(COUNTED)
        for node in (target, peer):  # whatever the peer sends is delivered
            node.start("active" if node is active else "backup")
        begin(active, 0)
        equal(flows_of(1), active, backup)
        (frame,) = recorded(peer, 1, lambda: None)
        counter = int.from_bytes(frame[COUNTER], "big")
        forged = [
            frame[: COUNTER.start] + (counter + ahead).to_bytes(8, "big") + random.randbytes(random.randrange(16, 300))
            for ahead in range(4096)
        ]
        snapshots = backup.status()["stream"]["snapshots"]

        begun, batches = time.monotonic(), 1
        with stranger(peer, number) as hostile, Flood(hostile, forged, per_s) as flood, Lags(active) as lags:
            while time.monotonic() < begun + FLOOD_S:
                begin(active, batches)
                batches += 1
                in_sync(flows_of(batches), backup)
                time.sleep(PAUSE_S)
            seconds = time.monotonic() - begun
        equal(flows_of(batches), active, backup)
        stream = backup.status()["stream"]
        assert (stream["gaps"], stream["snapshots"]) == (0, snapshots)
        resent = active.status()["stream"]["resent"]

        books, sent = settled(target, peer), peer.status()["link"]["sent"]
        assert delivered(target) == flood.sent + sent
        assert books.unread == overflowed(target)
        assert 0 < books.refused["forged"] <= flood.sent
        assert books.read - books.refused.total() <= sent  # accepted: nothing but what the peer has sent
        print(
            f"{flooded}: {flood.sent / seconds:.0f} forged frames a second for {seconds:.0f} s,"
            f" {books.unread / flood.sent:.1%} dropped unread; {BATCH * batches} flows begun; {resent} frames resent;"
            f" lag p50 {lags.percentile(50):.3f} s, p99 {lags.percentile(99):.3f} s, max {max(lags.seconds):.3f} s"
            f" ({len(lags.seconds)} looks)"
        )
    if SOAK and per_s <= FLOOD_PER_S:
        assert lags.percentile(99) <= LAG_MAX_S
