import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.control.notification_words import MASTER, STATES
from ftfw.daemon.roles.keepalived_fifo import Notification
from ftfw.daemon.roles.role_table import RoleEvent
from ftfw.daemon.roles.vrrp_states import VrrpStates

VI_1, VI_2, FW = ("INSTANCE", "VI_1"), ("INSTANCE", "VI_2"), ("GROUP", "FW")


def wanted(states: VrrpStates, *said: tuple[tuple[str, str], str]) -> list[RoleEvent | None]:
    return [states.record(Notification(*each)) for each in said]


def test_one_instance_decides_without_being_named() -> None:
    found = wanted(VrrpStates([], "backup"), *((VI_1, state) for state in ("BACKUP", MASTER, "FAULT", MASTER, "STOP")))
    assert found == [RoleEvent.DEMOTE, RoleEvent.PROMOTE, RoleEvent.DEMOTE, RoleEvent.PROMOTE, RoleEvent.DEMOTE]


def test_all_that_are_named_have_to_be_master() -> None:
    states = VrrpStates(["VI_1", "VI_2"], "backup")
    assert wanted(states, (VI_1, MASTER), (VI_2, MASTER), (VI_1, "BACKUP")) == [
        RoleEvent.DEMOTE,
        RoleEvent.PROMOTE,
        RoleEvent.DEMOTE,
    ]


def test_who_is_not_named_does_not_count() -> None:
    states = VrrpStates(["FW"], "backup")
    assert wanted(states, (FW, MASTER), (VI_1, "FAULT")) == [RoleEvent.PROMOTE, None]
    assert states.dropped == {"not_listed": 1}


def test_an_instance_and_a_group_of_one_name_are_two() -> None:
    states = VrrpStates(["FW"], "backup")
    assert wanted(states, (FW, MASTER), (("INSTANCE", "FW"), "BACKUP"), (FW, MASTER)) == [
        RoleEvent.PROMOTE,
        RoleEvent.DEMOTE,
        RoleEvent.DEMOTE,
    ]


def test_what_was_deleted_does_not_count_any_more_and_what_is_named_is_missed() -> None:
    assert wanted(VrrpStates([], "backup"), (VI_1, MASTER), (VI_2, "BACKUP"), (VI_2, "DELETED")) == [
        RoleEvent.PROMOTE,
        RoleEvent.DEMOTE,
        RoleEvent.PROMOTE,
    ]
    assert wanted(VrrpStates([], "backup"), (VI_1, MASTER), (VI_1, "DELETED"))[-1] is RoleEvent.DEMOTE
    assert wanted(VrrpStates(["VI_1"], "active"), (VI_1, "DELETED")) == [RoleEvent.DEMOTE]


def test_until_it_is_heard_of_a_name_is_in_the_first_role() -> None:
    assert wanted(VrrpStates(["VI_1", "VI_2"], "active"), (VI_1, "FAULT"), (VI_1, MASTER)) == [
        RoleEvent.DEMOTE,
        RoleEvent.PROMOTE,
    ]


def test_a_late_hook_does_not_overrule_the_fifo() -> None:
    states = VrrpStates([], "backup")
    assert states.record(Notification(VI_1, MASTER), hook=1) is RoleEvent.PROMOTE
    assert states.record(Notification(VI_1, "BACKUP")) is RoleEvent.DEMOTE
    assert states.record(Notification(VI_1, MASTER), hook=2) is None
    assert states.record(Notification(VI_2, "BACKUP"), hook=3) is RoleEvent.DEMOTE
    assert states.dropped == {"hook_overruled": 1}


def test_of_hooks_the_one_that_came_last_counts_in_whatever_order_they_are_read() -> None:
    states = VrrpStates(["VI_1", "VI_2"], "active")
    assert states.record(Notification(VI_1, MASTER), hook=5) is RoleEvent.PROMOTE
    assert states.record(Notification(VI_1, "BACKUP"), hook=4) is None
    assert states.record(Notification(VI_2, "FAULT"), hook=3) is RoleEvent.DEMOTE  # the last of this one
    assert states.record(Notification(VI_2, MASTER), hook=6) is RoleEvent.PROMOTE
    assert states.dropped == {"hook_overtaken": 1}


@given(
    st.lists(
        st.builds(Notification, st.sampled_from([VI_1, VI_2, FW, ("INSTANCE", "FW")]), st.sampled_from(STATES)),
        min_size=1,
    ),
    st.sets(st.sampled_from(["VI_1", "VI_2", "FW"])),
    st.sampled_from(["active", "backup"]),
)
def test_only_the_last_word_of_each_counts(said: list[Notification], listed: set[str], role: str) -> None:
    states = VrrpStates(listed, role)
    found = [each for each in map(states.record, said) if each is not None]
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
    assert found[-1:] == ([RoleEvent.PROMOTE if master else RoleEvent.DEMOTE] if counted else [])


@pytest.mark.parametrize("names", [[], ["VI_1", "VI_2"]])
def test_assumed_masters_are_what_the_first_notification_does_not_decide_alone(names: list[str]) -> None:
    states = VrrpStates(names, "backup")
    states.assume_master()
    assert states.record(Notification(VI_1, MASTER)) is RoleEvent.PROMOTE
    assert states.record(Notification(VI_2, "BACKUP")) is RoleEvent.DEMOTE
