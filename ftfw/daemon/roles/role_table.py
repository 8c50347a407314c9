"""Holds the table of roles: (state, event) → state, action.  Pure; docs/keepalived.md shows the same table.

The wanted role is a level: while a change is under way, promote and demote only decide what follows it, and the last of
them counts.
"""

from enum import Enum
from typing import Final


class RoleState(Enum):
    """Names a role, or a change of role under way."""

    BACKUP = "backup"
    PROMOTING = "promoting"
    RECALLED = "promoting, recalled"  # the commit continues, but backup is wanted by now
    ACTIVE = "active"
    DEMOTING = "demoting"
    RETURNING = "demoting, recalled"  # streaming ends, but active is wanted by now


class RoleEvent(Enum):
    """Names an event: a command or keepalived wants a role, or the action under way is done."""

    PROMOTE = "promote"
    DEMOTE = "demote"
    DONE = "done"


class Action(Enum):
    """Names an action of the node; the event DONE follows COMMIT and STOP."""

    COMMIT = "commit"  # end a backup's work, put its store into the kernel
    STREAM = "stream"  # begin an active's work
    STOP = "stop"  # end an active's work
    LISTEN = "listen"  # begin a backup's work


AT_REST: Final = {RoleState.BACKUP: Action.LISTEN, RoleState.ACTIVE: Action.STREAM}
"""Maps each role to the action that begins it."""

TRANSITIONS: Final[dict[tuple[RoleState, RoleEvent], tuple[RoleState, Action | None]]] = {
    (RoleState.BACKUP, RoleEvent.PROMOTE): (RoleState.PROMOTING, Action.COMMIT),
    (RoleState.BACKUP, RoleEvent.DEMOTE): (RoleState.BACKUP, None),
    (RoleState.PROMOTING, RoleEvent.PROMOTE): (RoleState.PROMOTING, None),
    (RoleState.PROMOTING, RoleEvent.DEMOTE): (RoleState.RECALLED, None),
    (RoleState.PROMOTING, RoleEvent.DONE): (RoleState.ACTIVE, Action.STREAM),
    (RoleState.RECALLED, RoleEvent.PROMOTE): (RoleState.PROMOTING, None),
    (RoleState.RECALLED, RoleEvent.DEMOTE): (RoleState.RECALLED, None),
    (RoleState.RECALLED, RoleEvent.DONE): (RoleState.BACKUP, Action.LISTEN),
    (RoleState.ACTIVE, RoleEvent.PROMOTE): (RoleState.ACTIVE, None),
    (RoleState.ACTIVE, RoleEvent.DEMOTE): (RoleState.DEMOTING, Action.STOP),
    (RoleState.DEMOTING, RoleEvent.PROMOTE): (RoleState.RETURNING, None),
    (RoleState.DEMOTING, RoleEvent.DEMOTE): (RoleState.DEMOTING, None),
    (RoleState.DEMOTING, RoleEvent.DONE): (RoleState.BACKUP, Action.LISTEN),
    (RoleState.RETURNING, RoleEvent.PROMOTE): (RoleState.RETURNING, None),
    (RoleState.RETURNING, RoleEvent.DEMOTE): (RoleState.DEMOTING, None),
    (RoleState.RETURNING, RoleEvent.DONE): (RoleState.ACTIVE, Action.STREAM),  # it streams its own table again
}
