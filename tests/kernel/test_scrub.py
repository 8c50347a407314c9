"""Compares between real daemons find and repair changes without an event; an outage costs what changed in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.kernel.crowd import end_many, inject_many
from tests.kernel.pair import Node, flow_arguments, pair, until

pytestmark = pytest.mark.kernel

Pair = tuple[Node, Node]
EVENTS = "net.netfilter.nf_conntrack_events"
CROWD = 20_000
CHANGES = 100
AWAY = """
table inet away {
    chain c {
        type filter hook input priority raw
        udp dport 3780 drop
    }
}
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as (active, backup):
        active.start("active")
        active.inside(lambda: trio.run(inject_many, CROWD))
        backup.start("backup")
        until(lambda: backup.status()["synced"], "in sync")
        yield active, backup


def silently(node: Node, *arguments: str) -> None:
    """Have the kernel do something of which it tells nobody: entries that are made now have no events, ever."""
    node.exec("sysctl", "-q", "-w", f"{EVENTS}=0")
    node.exec("conntrack", *arguments)
    node.exec("sysctl", "-q", "-w", f"{EVENTS}=1")


def scrubbed(backup: Node) -> dict[str, int]:
    """Start a compare, and return how many entries compares have repaired since the start, by kind."""
    before: dict[str, Any] = backup.status()["stream"]
    backup.ftfw("scrub")
    until(
        lambda: (s := backup.status())["synced"] and s["stream"]["compared"] > before["compared"],
        "compared, and in sync",
    )
    repaired: dict[str, int] = backup.status()["stream"]["repaired"]
    return repaired


def test_a_scrub_finds_repairs_and_counts_what_no_event_told(nodes: Pair) -> None:
    active, backup = nodes
    assert scrubbed(backup) == {"missing": 0, "stale": 0, "different": 0}
    flow = ("-p", "tcp", "-s", "192.0.2.9", "-d", "198.51.100.9", "--sport", "999", "--dport", "80")
    silently(active, "-I", *flow, "--timeout", "600", "--state", "ESTABLISHED")
    assert backup.status()["flows"] == CROWD
    assert scrubbed(backup) == {"missing": 1, "stale": 0, "different": 0}
    assert backup.flows() == active.flows()
    silently(active, "-U", *flow, "--mark", "7")
    assert scrubbed(backup) == {"missing": 1, "stale": 0, "different": 1}
    assert backup.flows() == active.flows()
    silently(active, "-D", *flow)
    assert scrubbed(backup) == {"missing": 1, "stale": 1, "different": 1}
    assert backup.flows() == active.flows()
    assert backup.status()["stream"]["snapshots"] == 1
    assert "found 1 missing, 0 stale and 0 different entries" in backup.log.read_text()


def test_who_waits_for_a_scrub_or_a_resync_is_told_what_came_of_it(nodes: Pair) -> None:
    active, backup = nodes
    silently(active, "-I", *flow_arguments(3), "--timeout", "600", "--state", "ESTABLISHED")
    held = f"{CROWD + 1} flows, 0 expectations"
    assert backup.ftfw("scrub", "--wait").stdout == f"compared: {held}; repaired: 1 missing, 0 stale, 0 different\n"
    assert backup.ftfw("resync", "--wait").stdout == f"the snapshot is complete: {held}\n"
    assert backup.status()["stream"]["snapshots"] == 2
    assert active.ftfw("resync", "--wait").stdout.startswith("a snapshot is requested; ")
    active.kill()
    alone = backup.ftfw("resync", "--wait", check=False)
    assert (alone.returncode, "found no active that could answer" in alone.stderr) == (1, True)


def test_an_outage_costs_what_changed_and_not_the_table(nodes: Pair) -> None:
    active, backup = nodes
    snapshot = active.status()["link"]["bytes_sent"]
    for node in nodes:
        node.nft(AWAY)
    until(lambda: active.status()["synced"] is None, "the backup is not waited for")
    active.inside(lambda: trio.run(inject_many, CHANGES, CROWD))
    active.inside(lambda: trio.run(end_many, CHANGES))
    until(lambda: active.status()["kernel"]["events"] >= CROWD + 2 * CHANGES, "streamed")
    sent = active.status()["link"]["sent"]
    until(lambda: active.status()["link"]["sent"] > sent + 3, "heartbeats later, what nobody waits for is let go")
    before = active.status()["link"]["bytes_sent"]
    for node in nodes:
        node.exec("nft", "delete", "table", "inet", "away")
    until(lambda: backup.status()["synced"], "in sync again")
    cost = active.status()["link"]["bytes_sent"] - before
    print(f"{cost} bytes, the snapshot had {snapshot}")
    stream = backup.status()["stream"]
    assert backup.flows() == active.flows()
    assert (stream["snapshots"], stream["gaps"]) == (1, 1)
    assert cost < snapshot / 4
