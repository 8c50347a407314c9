"""Change roles one after the other: callers may want a role at any time, and one task carries out the changes."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from ftfw.control.server import Progress
from ftfw.daemon.roles.role_table import AT_REST, TRANSITIONS, Action, RoleEvent, RoleState
from ftfw.replication.state_tables import LocalProtocolError

Perform = Callable[[Action], Awaitable[None]]

WAITING_MAX: Final = 256  # callers that wait for a change; further callers do not wait, and their events count


@dataclass(slots=True, eq=False)
class _Waiting:
    wanted: RoleState
    progress: Progress | None
    over: trio.Event = field(default_factory=trio.Event)
    reached: bool = False


class RoleChanger:
    """Follows the table of roles, and calls `perform` for each of its actions.

    Of all events that arrive while an action is carried out, the last one decides the next action.
    """

    def __init__(self, role: str, perform: Perform) -> None:
        self.state = RoleState(role)
        self.asked = False  # a role was wanted since the start
        self._perform = perform
        self._due = deque([AT_REST[self.state]])
        self._waiting: list[_Waiting] = []
        self._something_due = trio.Event()

    @property
    def at_rest(self) -> bool:
        """Return whether no change is under way."""
        return self.state in AT_REST and not self._due

    def accept(self, event: RoleEvent) -> None:
        """Accept an event, and do not wait for its effect.

        Raises LocalProtocolError if the table of roles has no such event in this state.
        """
        found = TRANSITIONS.get((self.state, event))
        if found is None:
            raise LocalProtocolError("role changer", self.state, event)
        self.asked = self.asked or event is not RoleEvent.DONE
        self.state, action = found
        if action is not None:
            self._due.append(action)
            self._something_due.set()

    async def reach(self, event: RoleEvent, progress: Progress | None = None) -> bool | None:
        """Promote or demote, wait until no change is under way, and return whether the node has the wanted role then.

        Return None at once if WAITING_MAX callers wait already; the event counts nevertheless.
        """
        if len(self._waiting) >= WAITING_MAX:
            self.accept(event)
            return None
        waiting = _Waiting(RoleState.ACTIVE if event is RoleEvent.PROMOTE else RoleState.BACKUP, progress)
        self._waiting.append(waiting)
        self.accept(event)
        if self.at_rest:
            self._release_waiting()
        await waiting.over.wait()
        return waiting.reached

    async def report(self, told: dict[str, Any]) -> None:
        """Report the progress of an action to all callers that wait for its end."""
        for waiting in list(self._waiting):
            if waiting.progress is not None:
                await waiting.progress(told)
        await trio.lowlevel.checkpoint()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out actions until cancelled; this counts as started when the work of the first role has begun."""
        while True:
            while self._due:
                action = self._due[0]
                await self._perform(action)
                self._due.popleft()
                if action in (Action.COMMIT, Action.STOP):
                    self.accept(RoleEvent.DONE)
            self._release_waiting()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            self._something_due = trio.Event()
            await self._something_due.wait()

    def _release_waiting(self) -> None:
        for waiting in self._waiting:
            waiting.reached = waiting.wanted is self.state
            waiting.over.set()
        self._waiting.clear()
