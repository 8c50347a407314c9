"""The state machines of the protocol, as tables.  Pure; docs/protocol.md has them from here."""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final


class State(Enum):
    """What the store of a backup is worth."""

    IDLE = "idle"  # no active is followed; what is held is the last one's
    ASKING = "asking"  # something may be missing: a comparison or a snapshot is asked for
    COMPARING = "comparing"  # a comparison is under way
    MENDING = "mending"  # some buckets differ, and a snapshot of them is asked for
    FILLING = "filling"  # a snapshot is under way
    COMPLETE = "complete"  # it is the active's table, and nothing was lost since


class Event(Enum):
    """What happens to it."""

    INTRODUCED = "introduced"  # a heartbeat of an active's new epoch
    COMPARE = "compare"  # COMPARE
    EQUAL = "equal"  # a comparison has found no difference
    DIFFERENT = "different"  # it has found some, few enough to be mended
    BEGIN = "begin"  # SNAPSHOT_BEGIN of a whole snapshot, or of one with buckets that are wanted
    PART = "part"  # SNAPSHOT_END, and other buckets are wanted still
    END = "end"  # SNAPSHOT_END
    LOSS = "loss"  # LOST, a gap that cannot be filled, too many differences, or somebody wants a snapshot
    GONE = "gone"  # the active is active no more, or this node is to take over


TRANSITIONS: Final = {
    (State.IDLE, Event.INTRODUCED): State.ASKING,
    (State.IDLE, Event.LOSS): State.IDLE,
    (State.IDLE, Event.GONE): State.IDLE,
    (State.ASKING, Event.INTRODUCED): State.ASKING,
    (State.ASKING, Event.COMPARE): State.COMPARING,
    (State.ASKING, Event.BEGIN): State.FILLING,
    (State.ASKING, Event.END): State.ASKING,  # of a snapshot that was given up
    (State.ASKING, Event.LOSS): State.ASKING,
    (State.ASKING, Event.GONE): State.IDLE,
    (State.COMPARING, Event.INTRODUCED): State.ASKING,
    (State.COMPARING, Event.EQUAL): State.COMPLETE,
    (State.COMPARING, Event.DIFFERENT): State.MENDING,
    (State.COMPARING, Event.LOSS): State.ASKING,
    (State.COMPARING, Event.GONE): State.IDLE,
    (State.MENDING, Event.INTRODUCED): State.ASKING,
    (State.MENDING, Event.COMPARE): State.COMPARING,
    (State.MENDING, Event.BEGIN): State.FILLING,
    (State.MENDING, Event.END): State.MENDING,  # of another backup's
    (State.MENDING, Event.LOSS): State.ASKING,
    (State.MENDING, Event.GONE): State.IDLE,
    (State.FILLING, Event.INTRODUCED): State.ASKING,
    (State.FILLING, Event.PART): State.MENDING,
    (State.FILLING, Event.END): State.COMPLETE,
    (State.FILLING, Event.LOSS): State.ASKING,
    (State.FILLING, Event.GONE): State.IDLE,
    (State.COMPLETE, Event.INTRODUCED): State.ASKING,
    (State.COMPLETE, Event.COMPARE): State.COMPLETE,
    (State.COMPLETE, Event.EQUAL): State.COMPLETE,
    (State.COMPLETE, Event.DIFFERENT): State.MENDING,
    (State.COMPLETE, Event.BEGIN): State.COMPLETE,  # another backup's
    (State.COMPLETE, Event.END): State.COMPLETE,
    (State.COMPLETE, Event.LOSS): State.ASKING,
    (State.COMPLETE, Event.GONE): State.IDLE,
}


class Reading(Enum):
    """What an active reads its kernel's table for; the events go between."""

    NOTHING = "nothing"
    COMPARISON = "comparison"
    SNAPSHOT = "snapshot"


class Frame(Enum):
    """The frames of a stream that begin or end this."""

    COMPARE = "COMPARE"
    LAST_DIGESTS = "last DIGESTS"
    SNAPSHOT_BEGIN = "SNAPSHOT_BEGIN"
    SNAPSHOT_END = "SNAPSHOT_END"


READINGS: Final = {
    (Reading.NOTHING, Frame.COMPARE): Reading.COMPARISON,
    (Reading.COMPARISON, Frame.LAST_DIGESTS): Reading.NOTHING,
    (Reading.NOTHING, Frame.SNAPSHOT_BEGIN): Reading.SNAPSHOT,
    (Reading.SNAPSHOT, Frame.SNAPSHOT_END): Reading.NOTHING,
}


def as_markdown(transitions: Mapping[tuple[Any, Any], Enum], first: Enum) -> Iterator[str]:
    """A table and its diagram, line by line; `first` is the state to begin in."""
    states, events = type(first), list(dict.fromkeys(event for _, event in transitions))
    yield "| state | " + " | ".join(event.value for event in events) + " |"
    yield "|---|" + "---|" * len(events)
    for state in states:
        following = (transitions.get((state, event)) for event in events)
        yield f"| {state.value} | " + " | ".join(found.value if found else "" for found in following) + " |"
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    for state in states:
        yield f'    state "{state.value}" as {state.name.lower()}'
    yield f"    [*] --> {first.name.lower()}"
    for (state, event), found in transitions.items():
        if found is not state:
            yield f"    {state.name.lower()} --> {found.name.lower()}: {event.value}"
    yield "```"
