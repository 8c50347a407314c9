from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ftfw.daemon.roles.role_table import AT_REST, TRANSITIONS, Action, RoleEvent, RoleState

WANTED = {RoleEvent.PROMOTE: RoleState.ACTIVE, RoleEvent.DEMOTE: RoleState.BACKUP}
wishes = st.sampled_from([RoleEvent.PROMOTE, RoleEvent.DEMOTE])


def as_markdown() -> Iterator[str]:
    """Yield the lines of the table as the page shows it."""
    yield "| state | " + " | ".join(event.value for event in RoleEvent) + " |"
    yield "|---|" + "---|" * len(RoleEvent)
    for state in RoleState:
        cells = []
        for event in RoleEvent:
            following, action = TRANSITIONS.get((state, event), (None, None))
            cells.append((following.value if following else "") + (f": **{action.value}**" if action else ""))
        yield f"| {state.value} | " + " | ".join(cells) + " |"


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/keepalived.md").read_text()
    found = page.partition("<!-- roles -->\n")[2].partition("<!-- /roles -->")[0]
    assert found.splitlines() == list(as_markdown())


def test_every_wish_is_taken_in_every_state_and_only_a_change_gets_done() -> None:
    for state in RoleState:
        assert all((state, wish) in TRANSITIONS for wish in WANTED)
        assert ((state, RoleEvent.DONE) in TRANSITIONS) is (state not in AT_REST)


@given(role=st.sampled_from(list(AT_REST)), events=st.lists(st.sampled_from(list(RoleEvent))))
def test_whatever_happens_work_is_begun_and_ended_in_turn_and_the_last_wish_is_met(
    role: RoleState, events: list[RoleEvent]
) -> None:
    state = role
    working: Action | None = AT_REST[role]
    last = role
    for event in [*events, RoleEvent.DONE, RoleEvent.DONE]:
        if event is RoleEvent.DONE and state in AT_REST:
            continue  # nothing is under way that could be done
        state, action = TRANSITIONS[state, event]
        last = WANTED.get(event, last)
        if action in (Action.COMMIT, Action.STOP):
            assert working is {Action.COMMIT: Action.LISTEN, Action.STOP: Action.STREAM}[action]
            working = None
        elif action is not None:
            assert working is None
            working = action
    assert state is last
    assert working is AT_REST[last]
