"""What a backup's store is worth, as a table.  Pure; docs/protocol.md has it from here."""

from collections.abc import Iterator
from enum import Enum
from typing import Final


class State(Enum):
    """What the store of a backup is worth."""

    IDLE = "idle"  # no active is followed; what is held is the last one's
    ASKING = "asking"  # something is missing, and a snapshot is asked for
    FILLING = "filling"  # a snapshot is under way
    COMPLETE = "complete"  # it is in, and nothing was lost since


class Event(Enum):
    """What happens to it."""

    INTRODUCED = "introduced"  # a heartbeat of an active's new epoch
    BEGIN = "begin"  # SNAPSHOT_BEGIN
    END = "end"  # SNAPSHOT_END
    LOSS = "loss"  # LOST, a gap that cannot be filled, or somebody wants a snapshot
    GONE = "gone"  # the active is active no more, or this node is to take over


TRANSITIONS: Final = {
    (State.IDLE, Event.INTRODUCED): State.ASKING,
    (State.IDLE, Event.LOSS): State.IDLE,
    (State.IDLE, Event.GONE): State.IDLE,
    (State.ASKING, Event.INTRODUCED): State.ASKING,
    (State.ASKING, Event.BEGIN): State.FILLING,
    (State.ASKING, Event.END): State.ASKING,  # of a snapshot that was given up
    (State.ASKING, Event.LOSS): State.ASKING,
    (State.ASKING, Event.GONE): State.IDLE,
    (State.FILLING, Event.INTRODUCED): State.ASKING,
    (State.FILLING, Event.BEGIN): State.FILLING,  # anew: the active was interrupted
    (State.FILLING, Event.END): State.COMPLETE,
    (State.FILLING, Event.LOSS): State.ASKING,
    (State.FILLING, Event.GONE): State.IDLE,
    (State.COMPLETE, Event.INTRODUCED): State.ASKING,
    (State.COMPLETE, Event.BEGIN): State.COMPLETE,  # another backup's
    (State.COMPLETE, Event.END): State.COMPLETE,
    (State.COMPLETE, Event.LOSS): State.ASKING,
    (State.COMPLETE, Event.GONE): State.IDLE,
}


def as_markdown() -> Iterator[str]:
    """The table and its diagram, line by line."""
    yield "| state | " + " | ".join(event.value for event in Event) + " |"
    yield "|---|" + "---|" * len(Event)
    for state in State:
        following = (TRANSITIONS.get((state, event)) for event in Event)
        yield f"| {state.value} | " + " | ".join(found.value if found else "" for found in following) + " |"
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {State.IDLE.value}"
    for (state, event), found in TRANSITIONS.items():
        if found is not state:
            yield f"    {state.value} --> {found.value}: {event.value}"
    yield "```"
