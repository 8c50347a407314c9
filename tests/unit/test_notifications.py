"""What keepalived says, and what follows from it."""

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.control.notification_words import MASTER, STATES
from ftfw.daemon.roles.role_table import Event
from ftfw.daemon.roles.vrrp_states import (
    ADOPTION_S,
    DISAGREEMENT_S,
    LINE_MAX,
    Fifo,
    Instances,
    Notification,
    Truth,
)

VI_1, VI_2, FW = ("INSTANCE", "VI_1"), ("INSTANCE", "VI_2"), ("GROUP", "FW")

names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
notifications = st.builds(
    Notification, st.tuples(st.sampled_from(["INSTANCE", "GROUP"]), names), st.sampled_from(STATES)
)


def line(notification: Notification, *, quoted: bool = True, priority: int | None = 150) -> bytes:
    (kind, name), state = notification
    name = f'"{name}"' if quoted else name
    return f"{kind} {name} {state}{'' if priority is None else f' {priority}'}\n".encode()


# The FIFO


def read(*pieces: bytes) -> tuple[list[Notification], Counter[str]]:
    fifo = Fifo()
    return [found for piece in pieces for found in fifo.take(piece)], fifo.dropped


@given(st.data(), st.lists(notifications, max_size=5))
def test_lines_are_read_however_they_are_cut(data: st.DataObject, said: list[Notification]) -> None:
    quoted = [data.draw(st.booleans()) or '"' in each.subject[1] for each in said]
    whole = b"".join(line(each, quoted=q) for each, q in zip(said, quoted, strict=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(*pieces) == (said, Counter())


@given(st.lists(st.binary(max_size=3 * LINE_MAX), max_size=5))
def test_rubbish_is_counted_and_what_follows_is_read(pieces: list[bytes]) -> None:
    fifo = Fifo()
    for piece in pieces:
        list(fifo.take(piece))
        assert len(fifo._rest) <= LINE_MAX
    list(fifo.take(b"\n"))
    assert list(fifo.take(line(Notification(FW, MASTER)))) == [Notification(FW, MASTER)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'INSTANCE "VI 1" MASTER 150\n', Notification(("INSTANCE", "VI 1"), MASTER)),
        (b"GROUP FW BACKUP 0\n", Notification(FW, "BACKUP")),
        (b'GROUP "FW" STOP\r\n', Notification(FW, "STOP")),
        (b'INSTANCE "INSTANCE" DELETED 1\n', Notification(("INSTANCE", "INSTANCE"), "DELETED")),
    ],
)
def test_both_ways_of_quoting(text: bytes, found: Notification) -> None:
    assert read(text) == ([found], Counter())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'INSTANCE "VI_1" MASTER_RX_LOWER_PRI 150\n', "no_state"),
        (b'INSTANCE "VI_1" MASTER_PRIORITY 90\n', "no_state"),
        (b"VS [192.0.2.1]:tcp:80 UP\n", "no_notification"),
        (b"INSTANCE VI_1\n", "no_notification"),
        (b"\n", "no_notification"),
        (b"x" * (LINE_MAX + 1) + b"\n", "line_too_long"),
    ],
)
def test_what_is_no_state_is_counted(text: bytes, reason: str) -> None:
    assert read(text) == ([], Counter({reason: 1}))


def test_a_line_longer_than_any_is_not_kept_and_the_next_one_is_read() -> None:
    pieces = [b"x" * LINE_MAX] * 3 + [b"\n" + line(Notification(FW, MASTER))]
    assert read(*pieces) == ([Notification(FW, MASTER)], Counter({"line_too_long": 1}))


def test_the_rest_of_a_line_does_not_come_from_another_fifo() -> None:
    fifo = Fifo()
    assert list(fifo.take(b'INSTANCE "VI_1" MAS')) == []
    fifo.cut_off()
    fifo.cut_off()
    assert list(fifo.take(line(Notification(FW, MASTER)))) == [Notification(FW, MASTER)]
    assert fifo.dropped == {"line_cut_off": 1}


# Instances and groups


def wanted(instances: Instances, *said: tuple[tuple[str, str], str]) -> list[Event | None]:
    return [instances.hear(Notification(*each)) for each in said]


def test_one_instance_decides_without_being_named() -> None:
    found = wanted(Instances([], "backup"), *((VI_1, state) for state in ("BACKUP", MASTER, "FAULT", MASTER, "STOP")))
    assert found == [Event.DEMOTE, Event.PROMOTE, Event.DEMOTE, Event.PROMOTE, Event.DEMOTE]


def test_all_that_are_named_have_to_be_master() -> None:
    instances = Instances(["VI_1", "VI_2"], "backup")
    assert wanted(instances, (VI_1, MASTER), (VI_2, MASTER), (VI_1, "BACKUP")) == [
        Event.DEMOTE,
        Event.PROMOTE,
        Event.DEMOTE,
    ]


def test_who_is_not_named_does_not_count() -> None:
    instances = Instances(["FW"], "backup")
    assert wanted(instances, (FW, MASTER), (VI_1, "FAULT")) == [Event.PROMOTE, None]
    assert instances.dropped == {"not_listed": 1}


def test_an_instance_and_a_group_of_one_name_are_two() -> None:
    instances = Instances(["FW"], "backup")
    assert wanted(instances, (FW, MASTER), (("INSTANCE", "FW"), "BACKUP"), (FW, MASTER)) == [
        Event.PROMOTE,
        Event.DEMOTE,
        Event.DEMOTE,
    ]


def test_what_was_deleted_does_not_count_any_more_and_what_is_named_is_missed() -> None:
    assert wanted(Instances([], "backup"), (VI_1, MASTER), (VI_2, "BACKUP"), (VI_2, "DELETED")) == [
        Event.PROMOTE,
        Event.DEMOTE,
        Event.PROMOTE,
    ]
    assert wanted(Instances([], "backup"), (VI_1, MASTER), (VI_1, "DELETED"))[-1] is Event.DEMOTE
    assert wanted(Instances(["VI_1"], "active"), (VI_1, "DELETED")) == [Event.DEMOTE]


def test_until_it_is_heard_of_a_name_is_in_the_first_role() -> None:
    assert wanted(Instances(["VI_1", "VI_2"], "active"), (VI_1, "FAULT"), (VI_1, MASTER)) == [
        Event.DEMOTE,
        Event.PROMOTE,
    ]


def test_a_late_hook_does_not_overrule_the_fifo() -> None:
    instances = Instances([], "backup")
    assert instances.hear(Notification(VI_1, MASTER), hook=1) is Event.PROMOTE
    assert instances.hear(Notification(VI_1, "BACKUP")) is Event.DEMOTE
    assert instances.hear(Notification(VI_1, MASTER), hook=2) is None
    assert instances.hear(Notification(VI_2, "BACKUP"), hook=3) is Event.DEMOTE
    assert instances.dropped == {"hook_overruled": 1}


def test_of_hooks_the_one_that_came_last_counts_in_whatever_order_they_are_read() -> None:
    instances = Instances(["VI_1", "VI_2"], "active")
    assert instances.hear(Notification(VI_1, MASTER), hook=5) is Event.PROMOTE
    assert instances.hear(Notification(VI_1, "BACKUP"), hook=4) is None
    assert instances.hear(Notification(VI_2, "FAULT"), hook=3) is Event.DEMOTE  # the last of this one
    assert instances.hear(Notification(VI_2, MASTER), hook=6) is Event.PROMOTE
    assert instances.dropped == {"hook_overtaken": 1}


@given(
    st.lists(
        st.builds(Notification, st.sampled_from([VI_1, VI_2, FW, ("INSTANCE", "FW")]), st.sampled_from(STATES)),
        min_size=1,
    ),
    st.sets(st.sampled_from(["VI_1", "VI_2", "FW"])),
    st.sampled_from(["active", "backup"]),
)
def test_only_the_last_word_of_each_counts(said: list[Notification], listed: set[str], role: str) -> None:
    instances = Instances(listed, role)
    found = [each for each in map(instances.hear, said) if each is not None]
    counted = [each for each in said if not listed or each.subject[1] in listed]
    last = {subject: state for subject, state in counted if state}
    there = {subject[1]: state for subject, state in last.items() if state != "DELETED"}
    unheard = listed - {subject[1] for subject in last}
    master = (
        bool(there or (unheard and role == "active"))
        and all(state in (MASTER, "DELETED") for state in last.values())
        and all(name in there or (name in unheard and role == "active") for name in listed)
    )
    assert len(found) == len(counted)
    assert found[-1:] == ([Event.PROMOTE if master else Event.DEMOTE] if counted else [])


# Virtual addresses

LAN, WAN = ip_address("192.0.2.1"), ip_address("2001:db8::1")
BOTH = frozenset({LAN.packed, WAN.packed, b"\x7f\x00\x00\x01"})


def test_a_role_without_the_addresses_is_told_when_it_lasts() -> None:
    truth = Truth([LAN, WAN])
    truth.learn(frozenset({LAN.packed}))
    assert not truth.look("active", 10)
    assert not truth.look("active", 10 + DISAGREEMENT_S / 2)
    assert truth.look("active", 10 + DISAGREEMENT_S)
    assert truth.disagreement == "this node is active without 2001:db8::1"
    assert not truth.look("active", 20)
    truth.learn(BOTH)
    assert truth.look("active", 21)
    assert not truth.disagreement
    assert truth.here == ["192.0.2.1", "2001:db8::1"]


def test_addresses_on_a_backup_are_told_when_that_lasts() -> None:
    truth = Truth([LAN])
    truth.learn(BOTH)
    assert not truth.look("backup", 0)
    assert truth.look("backup", DISAGREEMENT_S)
    assert truth.disagreement == "this node is backup, and 192.0.2.1 is here"


def test_while_the_role_changes_nothing_is_said() -> None:
    truth = Truth([LAN])
    truth.learn(BOTH)
    assert not truth.look("backup", 0)
    assert not truth.look(None, DISAGREEMENT_S)
    assert not truth.look("active", 2 * DISAGREEMENT_S)


def test_all_addresses_have_to_last_on_a_backup() -> None:
    truth = Truth([LAN, WAN])
    truth.learn(frozenset({LAN.packed}))
    assert not truth.lasts("backup", 0)
    assert not truth.lasts("backup", ADOPTION_S)
    truth.learn(BOTH)
    assert not truth.lasts("backup", 10)
    assert truth.lasts("backup", 10 + ADOPTION_S)
    assert not truth.lasts(None, 20)
    assert not truth.lasts("backup", 21)
    truth.learn(frozenset())
    assert not truth.lasts("backup", 21 + ADOPTION_S)
    assert not Truth([]).lasts("backup", 0)


def test_without_addresses_there_is_nothing_to_compare() -> None:
    truth = Truth([])
    truth.learn(BOTH)
    assert not truth.look("active", 0)
    assert not truth.look("backup", 100)
    assert truth.here == []
