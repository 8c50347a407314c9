import sys

import pytest

from ftfw.replication import messages
from ftfw.replication.limits import FRESH_S, HEARTBEAT_S
from ftfw.replication.member import Member
from ftfw.replication.messages import Facts, Heartbeat
from tests.unit.playbook import STREAM, active, backup, begin, events, heartbeat, present

OTHER = b"o" * 32


def said(member: Member) -> list[messages.Message]:
    return [messages.unpack(body) for body in member.bodies_to_send()]


def test_a_node_says_nothing_before_its_first_role() -> None:
    member = Member("fw2")
    member.receive(STREAM, heartbeat(0), 0.0)
    assert (member.get_timer(), said(member), member.role) == (None, [], "backup")
    assert [peer.name for peer in member.peers.actives(0.0)] == ["fw1"]


def test_a_node_between_two_roles_shows_itself_as_a_backup() -> None:
    member = Member("fw2")
    member.begin_role(backup())
    member.leave_role(5.0)
    assert member.get_timer() == 5.0
    for now in (5.0, 5.0 + HEARTBEAT_S / 2, 5.0 + HEARTBEAT_S):
        member.handle_timer(now)
    assert said(member) == [present(), present()]
    member.begin_role(active())
    assert (member.role, member.backup) == ("active", None)


def test_the_role_that_a_node_has_is_the_one_that_speaks() -> None:
    member, engine = Member("fw2"), backup()
    member.begin_role(engine)
    assert member.get_timer() == engine.get_timer()
    member.handle_timer(0.0)
    assert said(member) == [present()]


def test_a_stream_is_applied_if_it_is_the_followed_one_and_counted_if_not() -> None:
    member, engine = Member("fw2"), backup()
    member.begin_role(engine)
    member.receive(STREAM, heartbeat(0), 0.0)
    member.receive(STREAM, begin(1), 0.0)
    member.receive(OTHER, events(1), 0.0)
    assert (engine.applied, member.dropped) == (1, {"not_followed": 1})


def test_an_active_takes_nothing_from_another_active() -> None:
    member, engine = Member("fw2"), active()
    member.begin_role(engine)
    member.receive(OTHER, heartbeat(0), 0.0)
    member.receive(OTHER, events(1), 0.0)
    assert (engine.backups, member.dropped) == ({}, {})


def test_a_second_active_is_followed_only_when_the_first_is_not_heard_any_more() -> None:
    member, engine = Member("fw3"), backup()
    member.begin_role(engine)
    member.receive(STREAM, heartbeat(0), 0.0)
    member.receive(OTHER, heartbeat(0, name="fw2"), FRESH_S - 0.01)
    assert engine.active_name == "fw1"
    member.receive(OTHER, heartbeat(0, name="fw2"), FRESH_S)
    assert (engine.active_name, engine.epoch) == ("fw2", OTHER)


def test_an_active_that_becomes_a_backup_is_left() -> None:
    member, engine = Member("fw2"), backup()
    member.begin_role(engine)
    member.receive(STREAM, heartbeat(0), 0.0)
    member.receive(STREAM, present("fw3"), 0.0)
    assert engine.epoch == STREAM
    member.receive(STREAM, present("fw1"), 0.0)
    assert engine.epoch is None


def test_a_node_of_the_other_byte_order_is_counted_and_not_followed() -> None:
    member, engine = Member("fw2"), backup()
    member.begin_role(engine)
    foreign = "big" if sys.byteorder == "little" else "little"
    member.receive(
        STREAM, Heartbeat(name="fw1", role="active", byte_order=foreign, sequence=0, oldest=0, version="1"), 0.0
    )
    assert (engine.epoch, member.dropped, member.peers.known) == (None, {"byte_order": 1}, {})


@pytest.mark.parametrize("role", ["active", "backup"])
def test_a_new_epoch_begins_a_new_stream_of_an_active_and_leaves_a_backup_as_it_is(role: str) -> None:
    member = Member("fw1")
    member.begin_role(active() if role == "active" else backup())
    member.begin_epoch(OTHER, 1.0)
    assert member.role == role
    if member.active is not None:
        assert (member.active.epoch, member.active.sequence) == (OTHER, 0)


def test_facts_of_who_was_not_heard_are_not_kept() -> None:
    member = Member("fw1")
    member.receive(b"e", Facts("fw2", {"mode": "hot"}), 1.0)
    assert member.peers.known == {}
