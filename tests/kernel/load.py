"""Flows that begin and end on a node by the thousand, and whether others hold them.  `./dev soak`: in full size."""

import os
import time

import trio

from tests.kernel.crowd import end_many, inject_many
from tests.kernel.pair import Node, until

SOAK = bool(os.environ.get("FTFW_SOAK"))
BATCH = 1000  # flows that begin at once
BATCHES = 60 if SOAK else 12
OUTAGE_S = 60.0 if SOAK else 3.0

LOSSY = """
table inet lossy {
    chain c {
        type filter hook input priority raw
        udp dport 3780 numgen random mod 100 < 20 counter drop
    }
}
"""


def begin(node: Node, batch: int) -> None:
    """A batch of flows begins, and half of the one before ends."""
    before = node.status()["kernel"]["events"]
    node.inside(lambda: trio.run(inject_many, BATCH, batch * BATCH))
    if batch:
        node.inside(lambda: trio.run(end_many, BATCH // 2, (batch - 1) * BATCH))
    until(lambda: node.status()["kernel"]["events"] >= before + BATCH, "the batch is streamed")


def flows_of(batches: int) -> int:
    return batches * BATCH - (batches - 1) * (BATCH // 2)


def cut_off_under_load(node: Node) -> int:
    """Batches that begin while the node's link is down, behind the first one; returns how many there are by then."""
    node.exec("ip", "link", "set", "sync", "down")
    for batch in range(1, BATCHES):
        begin(node, batch)
        time.sleep(OUTAGE_S / BATCHES)
    return BATCHES


def in_sync(count: int, backup: Node) -> None:
    """Wait until a backup is in sync and holds so many flows."""
    until(
        lambda: (s := backup.status())["synced"] and s["flows"] == count,
        f"{count} flows in sync on {backup.name}",
    )


def equal(count: int, active: Node, *backups: Node) -> None:
    """Wait until each backup is in sync with so many flows; then they are those of the active's kernel."""
    for backup in backups:
        in_sync(count, backup)
    assert active.kernel_count() >= count
    flows = active.flows()
    assert all(backup.flows() == flows for backup in backups)
