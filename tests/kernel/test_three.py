"""An active and two backups on one network that loses and dies.  `./dev soak` runs this in full size."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.load import BATCHES, LOSSY, begin, cut_off_under_load, equal, flows_of
from tests.kernel.pair import Node, group, until

pytestmark = pytest.mark.kernel


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    with group(tmp_path, names=("fw1", "fw2", "fw3")) as (active, *backups):
        active.start("active")
        for backup in backups:
            backup.start("backup")
        for backup in backups:
            until(lambda backup=backup: backup.status()["synced"], f"{backup.name} is in sync")  # type: ignore[misc]
        yield [active, *backups]


def test_a_fifth_of_all_frames_lost_costs_neither_backup_anything(nodes: list[Node]) -> None:
    active, *backups = nodes
    snapshots = [backup.status()["stream"]["snapshots"] for backup in backups]
    for node in nodes:
        node.nft(LOSSY)
    for batch in range(BATCHES):
        begin(active, batch)
    equal(flows_of(BATCHES), active, *backups)
    assert active.status()["stream"]["resent"] > 0
    for backup, before in zip(backups, snapshots, strict=True):
        assert backup.status()["stream"]["gaps"] == 0
        assert backup.status()["stream"]["snapshots"] == before


def test_an_outage_under_load_is_made_up_for_by_both(nodes: list[Node]) -> None:
    active, *backups = nodes
    begin(active, 0)
    batches = cut_off_under_load(active)
    assert not any(backup.status()["synced"] for backup in backups)
    active.exec("ip", "link", "set", "sync", "up")
    equal(flows_of(batches), active, *backups)


def test_a_backup_that_is_killed_does_not_hold_the_other_one_up(nodes: list[Node]) -> None:
    active, killed, other = nodes
    for node in nodes:
        node.nft(LOSSY)
    begin(active, 0)
    killed.kill()
    for batch in range(1, BATCHES // 2):
        begin(active, batch)
    equal(flows_of(BATCHES // 2), active, other)
    other.ftfw("resync")  # nor a snapshot, which waits for acknowledgements
    until(lambda: other.status()["stream"]["snapshots"] == 2, "a second snapshot")
    until(lambda: active.status()["synced"], "all backups that are there are in sync")
    killed.start("backup")
    equal(flows_of(BATCHES // 2), active, killed, other)


def test_one_backup_takes_over_and_the_other_follows_it(nodes: list[Node]) -> None:
    failed, successor, follower = nodes
    batches = BATCHES // 4
    for node in nodes:
        node.nft(LOSSY)
    for batch in range(batches):
        begin(failed, batch)
    equal(flows_of(batches), failed, successor, follower)
    held = successor.flows()
    failed.kill()
    successor.ftfw("promote")
    assert successor.flows() == held  # in its kernel now
    begin(successor, batches)
    equal(flows_of(batches + 1), successor, follower)
    failed.start("backup")
    equal(flows_of(batches + 1), successor, failed, follower)
    assert not any(node.status()["conflict"] for node in nodes)
