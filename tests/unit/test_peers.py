import logging
import sys

import pytest

from ftfw.replication.limits import CONFLICT_S, PEER_LOST_S, PEERS_MAX
from ftfw.replication.messages import Heartbeat
from ftfw.replication.peers import Peers

FOREIGN = "big" if sys.byteorder == "little" else "little"


def heartbeat(byte_order: str = sys.byteorder, name: str = "fw1") -> Heartbeat:
    return Heartbeat(name=name, role="active", byte_order=byte_order, sequence=1, oldest=1, version="1")


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_one_active_is_no_conflict() -> None:
    peers = Peers()
    assert not peers.conflict("active", 0.0)
    peers.record("fw1", "backup", b"e", 0.0)
    assert not peers.conflict("active", CONFLICT_S)
    peers.record("fw1", "active", b"e", CONFLICT_S)
    assert not peers.conflict("backup", 2 * CONFLICT_S)


def test_two_actives_are_a_conflict_shouted_once_each_time_it_begins(caplog: pytest.LogCaptureFixture) -> None:
    peers = Peers()
    for now in (0.0, 0.4, 0.8, 1.2):
        peers.record("fw1", "active", b"e", now)
        assert peers.conflict("active", now) is (now >= CONFLICT_S)
    [shouted] = errors(caplog)
    assert "fw1 is active as well as this node" in shouted
    assert "ftfw demote" in shouted
    peers.record("fw1", "backup", b"e", 1.3)
    assert not peers.conflict("active", 1.3)
    peers.record("fw1", "active", b"e", 2.0)
    peers.record("fw1", "active", b"e", 2.6)
    assert peers.conflict("active", 2.6)
    assert len(errors(caplog)) == 2


def test_a_conflict_is_found_by_a_third_of_the_heartbeats() -> None:
    peers = Peers()
    peers.conflict("active", 0.0)
    for now in (0.3, 0.6):
        peers.record("fw1", "active", b"e", now)
    assert not peers.conflict("active", 0.6)
    peers.record("fw1", "active", b"e", 0.9)
    assert peers.conflict("active", 0.9)


def test_taking_over_from_a_node_that_was_active_to_the_last_is_no_conflict() -> None:
    peers = Peers()
    peers.record("fw1", "active", b"e", 0.0)
    peers.record("fw1", "active", b"e", 9.9)
    assert not peers.conflict("backup", 9.9)
    assert not any(peers.conflict("active", now) for now in (10.0, 10.5, 11.0, 12.0, 13.0))


def test_a_node_that_is_told_to_stop_a_moment_later_is_no_conflict() -> None:
    peers = Peers()
    assert not peers.conflict("active", 0.0)
    peers.record("fw1", "active", b"e", 0.1)
    assert not peers.conflict("active", 0.2)
    peers.record("fw1", "backup", b"e", 0.3)
    assert not peers.conflict("active", 1.0)


def test_a_takeover_of_two_others_is_no_conflict_for_a_backup_until_both_stay_active(
    caplog: pytest.LogCaptureFixture,
) -> None:
    peers = Peers()
    peers.record("fw2", "active", b"e", 0.0)
    peers.record("fw2", "active", b"e", 5.0)
    peers.record("fw1", "active", b"f", 5.1)
    peers.record("fw1", "active", b"f", 6.0)
    assert not peers.conflict("backup", 6.0)
    peers.record("fw2", "active", b"e", 6.1)
    assert peers.conflict("backup", 6.1)
    assert "fw1 and fw2 are active;" in errors(caplog)[0]


def test_a_peer_that_is_not_heard_is_no_rival() -> None:
    peers = Peers()
    for now in (0.0, CONFLICT_S):
        peers.record("fw1", "active", b"e", now)
        peers.conflict("active", now)
    assert peers.rivals("active", PEER_LOST_S) == ["fw1"]
    assert peers.rivals("active", PEER_LOST_S + CONFLICT_S) == []


def test_a_peer_is_known_as_last_heard() -> None:
    peers = Peers()
    peers.record("fw1", "backup", b"e", 0.0)
    peers.record("fw1", "active", b"f", 2.0)
    [peer] = peers.known.values()
    assert (peer.name, peer.role, peer.epoch, peer.heard_at, peer.since) == ("fw1", "active", b"f", 2.0, 2.0)


def test_a_bounded_number_of_peers_is_known_those_heard_last() -> None:
    peers = Peers()
    for number in range(PEERS_MAX):
        peers.record(f"fw{number}", "backup", b"e", 0.0)
    peers.record("fw0", "backup", b"e", 1.0)
    peers.record("another", "backup", b"e", 1.0)
    assert len(peers.known) == PEERS_MAX
    assert peers.known.keys() >= {"fw0", "another"}


def test_no_more_byte_orders_are_complained_of_than_peers_are_known(caplog: pytest.LogCaptureFixture) -> None:
    peers = Peers()
    for number in range(2 * PEERS_MAX):
        assert not peers.fits(heartbeat(FOREIGN, f"fw{number}"))
    assert len(errors(caplog)) == PEERS_MAX


def test_a_node_of_the_other_byte_order_is_refused_with_a_reason_given_once(caplog: pytest.LogCaptureFixture) -> None:
    peers = Peers()
    assert peers.fits(heartbeat())
    assert not errors(caplog)
    assert [peers.fits(heartbeat(FOREIGN)) for _ in range(3)] == [False] * 3
    assert not peers.fits(heartbeat(FOREIGN, "fw3"))
    assert len(errors(caplog)) == 2
    assert f"fw1 is a {FOREIGN}-endian machine" in errors(caplog)[0]


def test_facts_outlive_a_role_and_say_nothing_of_one() -> None:
    peers = Peers()
    peers.record("fw2", "active", b"one", 1.0)
    peers.record_facts("fw2", {"mode": "hot"}, 2.0)
    peers.record("fw2", "backup", b"one", 3.0)
    peer = peers.known["fw2"]
    assert (peer.role, peer.facts, peer.told_at, peer.since) == ("backup", {"mode": "hot"}, 2.0, 3.0)
    peers.record("fw2", "backup", b"two", 4.0)
    assert (peers.known["fw2"].since, peers.known["fw2"].facts) == (4.0, {"mode": "hot"})
