"""Defines the state machines of replication as tables: (state, event) → state.  Pure; docs/protocol.md shows them."""

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar


class LocalProtocolError(RuntimeError):
    """Raised if an event is not possible in a state: a bug in ftfw.  A peer's errors are counted by reason instead."""

    def __init__(self, role: str, state: Enum, event: Enum) -> None:
        super().__init__(f"{role}: {event.value!r} is not possible while {state.value!r}")
        self.role = role
        self.state = state
        self.event = event


class BackupState(Enum):
    """Names how far the store of a backup agrees with the active's table."""

    IDLE = "idle"  # no active is followed; the store holds the last one's entries
    ASKING = "asking"  # something may be missing: a compare or a snapshot is requested
    COMPARING = "comparing"  # a compare is under way
    REPAIRING = "repairing"  # some buckets differ, and a snapshot of them is requested
    FILLING = "filling"  # a snapshot is under way
    COMPLETE = "complete"  # the store was made equal to the active's table, and nothing was lost since


class BackupEvent(Enum):
    """Names what may happen to a backup's store."""

    INTRODUCED = "introduced"  # a heartbeat of an active's new epoch
    COMPARE = "compare"  # COMPARE was received
    EQUAL = "equal"  # a compare has found no difference
    DIFFERENT = "different"  # a compare has found differences, few enough to be repaired
    BEGIN = "begin"  # SNAPSHOT_BEGIN, or the last SCOPE of a snapshot that has wanted buckets
    PART = "part"  # SNAPSHOT_END was applied, and other buckets are still wanted
    END = "end"  # SNAPSHOT_END was applied, and no bucket is wanted
    LOSS = "loss"  # LOST, a gap that cannot be filled, too many differences, or a request for a snapshot
    GONE = "gone"  # the active has become a backup, or this node takes over


BACKUP_TRANSITIONS: Final = {
    (BackupState.IDLE, BackupEvent.INTRODUCED): BackupState.ASKING,
    (BackupState.IDLE, BackupEvent.LOSS): BackupState.IDLE,
    (BackupState.IDLE, BackupEvent.GONE): BackupState.IDLE,
    (BackupState.ASKING, BackupEvent.INTRODUCED): BackupState.ASKING,
    (BackupState.ASKING, BackupEvent.COMPARE): BackupState.COMPARING,
    (BackupState.ASKING, BackupEvent.BEGIN): BackupState.FILLING,
    (BackupState.ASKING, BackupEvent.END): BackupState.ASKING,  # of a snapshot that was given up
    (BackupState.ASKING, BackupEvent.LOSS): BackupState.ASKING,
    (BackupState.ASKING, BackupEvent.GONE): BackupState.IDLE,
    (BackupState.COMPARING, BackupEvent.INTRODUCED): BackupState.ASKING,
    (BackupState.COMPARING, BackupEvent.EQUAL): BackupState.COMPLETE,
    (BackupState.COMPARING, BackupEvent.DIFFERENT): BackupState.REPAIRING,
    (BackupState.COMPARING, BackupEvent.LOSS): BackupState.ASKING,
    (BackupState.COMPARING, BackupEvent.GONE): BackupState.IDLE,
    (BackupState.REPAIRING, BackupEvent.INTRODUCED): BackupState.ASKING,
    (BackupState.REPAIRING, BackupEvent.COMPARE): BackupState.COMPARING,
    (BackupState.REPAIRING, BackupEvent.BEGIN): BackupState.FILLING,
    (BackupState.REPAIRING, BackupEvent.END): BackupState.REPAIRING,  # of another backup's snapshot
    (BackupState.REPAIRING, BackupEvent.LOSS): BackupState.ASKING,
    (BackupState.REPAIRING, BackupEvent.GONE): BackupState.IDLE,
    (BackupState.FILLING, BackupEvent.INTRODUCED): BackupState.ASKING,
    (BackupState.FILLING, BackupEvent.PART): BackupState.REPAIRING,
    (BackupState.FILLING, BackupEvent.END): BackupState.COMPLETE,
    (BackupState.FILLING, BackupEvent.LOSS): BackupState.ASKING,
    (BackupState.FILLING, BackupEvent.GONE): BackupState.IDLE,
    (BackupState.COMPLETE, BackupEvent.INTRODUCED): BackupState.ASKING,
    (BackupState.COMPLETE, BackupEvent.COMPARE): BackupState.COMPLETE,
    (BackupState.COMPLETE, BackupEvent.EQUAL): BackupState.COMPLETE,
    (BackupState.COMPLETE, BackupEvent.DIFFERENT): BackupState.REPAIRING,
    (BackupState.COMPLETE, BackupEvent.BEGIN): BackupState.COMPLETE,  # of another backup's snapshot
    (BackupState.COMPLETE, BackupEvent.END): BackupState.COMPLETE,
    (BackupState.COMPLETE, BackupEvent.LOSS): BackupState.ASKING,
    (BackupState.COMPLETE, BackupEvent.GONE): BackupState.IDLE,
}


class Reading(Enum):
    """Names why an active reads its kernel's table; events are streamed during a reading."""

    NOTHING = "nothing"
    COMPARE = "compare"
    SNAPSHOT = "snapshot"


class ReadingEvent(Enum):
    """Names the frames of a stream that begin or end a reading."""

    COMPARE = "COMPARE"
    LAST_DIGESTS = "last DIGESTS"
    SNAPSHOT_BEGIN = "SNAPSHOT_BEGIN"
    SNAPSHOT_END = "SNAPSHOT_END"


READING_TRANSITIONS: Final = {
    (Reading.NOTHING, ReadingEvent.COMPARE): Reading.COMPARE,
    (Reading.COMPARE, ReadingEvent.LAST_DIGESTS): Reading.NOTHING,
    (Reading.NOTHING, ReadingEvent.SNAPSHOT_BEGIN): Reading.SNAPSHOT,
    (Reading.SNAPSHOT, ReadingEvent.SNAPSHOT_END): Reading.NOTHING,
}

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def next_state(role: str, transitions: Mapping[tuple[S, E], S], state: S, event: E) -> S:
    """Return the state that follows `state` after `event`.  Raises LocalProtocolError if the table has none."""
    found = transitions.get((state, event))
    if found is None:
        raise LocalProtocolError(role, state, event)
    return found
