"""The roles as one table: (state, event) → state, action.  Pure; docs/keepalived.md has it from here.

What is wanted is a level: while a change is under way, promote and demote only turn what becomes of it, and the last
of them counts.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final


class State(Enum):
    """A role, or the way to one."""

    BACKUP = "backup"
    PROMOTING = "promoting"
    RECALLED = "promoting, recalled"  # the commit goes on, but backup is wanted by now
    ACTIVE = "active"
    DEMOTING = "demoting"
    RETURNING = "demoting, recalled"  # streaming ends, but active is wanted by now


class Event(Enum):
    """What happens: a command or keepalived wants a role, or the action under way is done."""

    PROMOTE = "promote"
    DEMOTE = "demote"
    DONE = "done"


class Action(Enum):
    """What is to be done; `done` follows COMMIT and STOP, and ends a change."""

    COMMIT = "commit"  # stop listening, put what is held into the kernel
    STREAM = "stream"  # begin an active's work
    STOP = "stop"  # end an active's work
    LISTEN = "listen"  # begin a backup's work


AT_REST: Final = {State.BACKUP: Action.LISTEN, State.ACTIVE: Action.STREAM}  # by what one gets there

TRANSITIONS: Final[dict[tuple[State, Event], tuple[State, Action | None]]] = {
    (State.BACKUP, Event.PROMOTE): (State.PROMOTING, Action.COMMIT),
    (State.BACKUP, Event.DEMOTE): (State.BACKUP, None),
    (State.PROMOTING, Event.PROMOTE): (State.PROMOTING, None),
    (State.PROMOTING, Event.DEMOTE): (State.RECALLED, None),
    (State.PROMOTING, Event.DONE): (State.ACTIVE, Action.STREAM),
    (State.RECALLED, Event.PROMOTE): (State.PROMOTING, None),
    (State.RECALLED, Event.DEMOTE): (State.RECALLED, None),
    (State.RECALLED, Event.DONE): (State.BACKUP, Action.LISTEN),
    (State.ACTIVE, Event.PROMOTE): (State.ACTIVE, None),
    (State.ACTIVE, Event.DEMOTE): (State.DEMOTING, Action.STOP),
    (State.DEMOTING, Event.PROMOTE): (State.RETURNING, None),
    (State.DEMOTING, Event.DEMOTE): (State.DEMOTING, None),
    (State.DEMOTING, Event.DONE): (State.BACKUP, Action.LISTEN),
    (State.RETURNING, Event.PROMOTE): (State.RETURNING, None),
    (State.RETURNING, Event.DEMOTE): (State.DEMOTING, None),
    (State.RETURNING, Event.DONE): (State.ACTIVE, Action.STREAM),  # its own table is what it goes on with
}


def as_markdown() -> Iterator[str]:
    """The table, line by line."""
    yield "| state | " + " | ".join(event.value for event in Event) + " |"
    yield "|---|" + "---|" * len(Event)
    for state in State:
        cells = []
        for event in Event:
            following, action = TRANSITIONS.get((state, event), (None, None))
            cells.append((following.value if following else "") + (f": **{action.value}**" if action else ""))
        yield f"| {state.value} | " + " | ".join(cells) + " |"
