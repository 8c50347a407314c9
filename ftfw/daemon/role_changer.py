"""Changes of role, one after the other: whoever wants a role says so at any time, and one task does the work."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from ftfw.control.server import Progress
from ftfw.daemon.roles.role_table import AT_REST, TRANSITIONS, Action, RoleEvent, RoleState

Perform = Callable[[Action], Awaitable[None]]

WAITING_MAX: Final = 256  # for the end of a change; what more of them want is taken, and not waited for


@dataclass(slots=True, eq=False)
class _Waiting:
    wanted: RoleState
    progress: Progress | None
    over: trio.Event = field(default_factory=trio.Event)
    reached: bool = False


class Changes:
    """Goes through `roles.TRANSITIONS`, and has `perform` carry out its actions.

    However many events come while an action is under way, what follows it is decided by the last one.
    """

    def __init__(self, role: str, perform: Perform) -> None:
        self.state = RoleState(role)
        self.asked = False  # whether anybody has wanted a role since the start
        self._perform = perform
        self._due = deque([AT_REST[self.state]])
        self._waiting: list[_Waiting] = []
        self._something_due = trio.Event()

    @property
    def at_rest(self) -> bool:
        """Whether no change is under way."""
        return self.state in AT_REST and not self._due

    def take(self, event: RoleEvent) -> None:
        """Take in what happened or is wanted, without waiting for what comes of it."""
        self.asked = self.asked or event is not RoleEvent.DONE
        self.state, action = TRANSITIONS[self.state, event]
        if action is not None:
            self._due.append(action)
            self._something_due.set()

    async def reach(self, event: RoleEvent, progress: Progress | None = None) -> bool | None:
        """Promote or demote, and wait until no change is under way; whether the role is that one then.

        None if WAITING_MAX wait already: the event is taken all the same.
        """
        if len(self._waiting) >= WAITING_MAX:
            self.take(event)
            return None
        waiting = _Waiting(RoleState.ACTIVE if event is RoleEvent.PROMOTE else RoleState.BACKUP, progress)
        self._waiting.append(waiting)
        self.take(event)
        if self.at_rest:
            self._tell_all()
        await waiting.over.wait()
        return waiting.reached

    async def report(self, told: dict[str, Any]) -> None:
        """Hand an action's progress to all who wait for it."""
        for waiting in list(self._waiting):
            if waiting.progress is not None:
                await waiting.progress(told)
        await trio.lowlevel.checkpoint()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; started when the first role's work has begun."""
        while True:
            while self._due:
                action = self._due[0]
                await self._perform(action)
                self._due.popleft()
                if action in (Action.COMMIT, Action.STOP):
                    self.take(RoleEvent.DONE)
            self._tell_all()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            self._something_due = trio.Event()
            await self._something_due.wait()

    def _tell_all(self) -> None:
        for waiting in self._waiting:
            waiting.reached = waiting.wanted is self.state
            waiting.over.set()
        self._waiting.clear()
