"""Runs two real daemons over a link that loses frames and fails, and kills them.  `./dev soak` runs this longer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.load import BATCHES, LOSSY, SOAK, begin, cut_off_under_load, equal, flows_of
from tests.kernel.pair import Node, pair, until

pytestmark = pytest.mark.kernel

Pair = tuple[Node, Node]
ROUNDS = 50 if SOAK else 4


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as (active, backup):
        active.start("active")
        backup.start("backup")
        until(lambda: backup.status()["synced"], "in sync")
        yield active, backup


def test_a_fifth_of_all_frames_lost_each_way_costs_nothing(nodes: Pair) -> None:
    active, backup = nodes
    snapshots = backup.status()["stream"]["snapshots"]
    for node in nodes:
        node.nft(LOSSY)
    for batch in range(BATCHES):
        begin(active, batch)
    equal(flows_of(BATCHES), active, backup)
    assert active.status()["stream"]["resent"] > 0
    assert backup.status()["stream"]["gaps"] == 0
    assert backup.status()["stream"]["snapshots"] == snapshots


def test_an_outage_under_load_is_made_up_for(nodes: Pair) -> None:
    active, backup = nodes
    begin(active, 0)
    batches = cut_off_under_load(active)
    assert not backup.status()["synced"]
    assert backup.ftfw("status", "--ready", check=False).returncode == 0  # it was, when the active was last heard
    active.exec("ip", "link", "set", "sync", "up")
    equal(flows_of(batches), active, backup)


def test_either_node_is_killed_under_load_and_started_again(nodes: Pair) -> None:
    active, backup = nodes
    for number in range(ROUNDS):
        begin(active, number)
        victim, role = ((active, "active"), (backup, "backup"))[number % 2]
        victim.kill()
        victim.start(role)
        equal(flows_of(number + 1), active, backup)
