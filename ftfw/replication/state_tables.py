"""The state machines of replication, as tables: (state, event) → state.  Pure; docs/protocol.md shows them."""

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar


class LocalProtocolError(RuntimeError):
    """Tells that an engine was asked for something that its state does not allow: an error in ftfw, never a peer's.

    A peer's errors are counted by reason instead.
    """

    def __init__(self, role: str, state: Enum, event: Enum) -> None:
        super().__init__(f"{role}: {event.value!r} is not possible while {state.value!r}")
        self.role = role
        self.state = state
        self.event = event


class BackupState(Enum):
    """Tells how far the store of a backup is the active's table."""

    IDLE = "idle"  # no active is followed; the store holds the last one's entries
    ASKING = "asking"  # something may be missing: a compare or a snapshot is asked for
    COMPARING = "comparing"  # a compare is under way
    REPAIRING = "repairing"  # some buckets differ, and a snapshot of them is asked for
    FILLING = "filling"  # a snapshot is under way
    COMPLETE = "complete"  # the store is the active's table, and nothing was lost since


class BackupEvent(Enum):
    """Names what may happen to a backup's store."""

    INTRODUCED = "introduced"  # a heartbeat of an active's new epoch
    COMPARE = "compare"  # COMPARE
    EQUAL = "equal"  # a compare has found no difference
    DIFFERENT = "different"  # a compare has found differences, few enough to be repaired
    BEGIN = "begin"  # SNAPSHOT_BEGIN of a whole snapshot, or of one with buckets that are wanted
    PART = "part"  # SNAPSHOT_END, and other buckets are still wanted
    END = "end"  # SNAPSHOT_END
    LOSS = "loss"  # LOST, a gap that cannot be filled, too many differences, or a request for a snapshot
    GONE = "gone"  # the active is active no more, or this node is to take over


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
    """Why an active reads its kernel's table; events are streamed meanwhile."""

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
