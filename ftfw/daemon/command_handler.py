"""Executes the commands that come through the control socket."""

from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import trio

from ftfw.control.client import ControlError
from ftfw.control.notification_words import STATES, TYPES
from ftfw.control.server import Progress
from ftfw.daemon.keepalived_task import KeepalivedTask
from ftfw.daemon.role_changer import WAITING_MAX
from ftfw.daemon.role_runner import RoleRunner
from ftfw.daemon.roles.keepalived_fifo import Notification
from ftfw.daemon.roles.role_table import RoleEvent
from ftfw.daemon.status import NodeStatus
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.netlink import dump_expectations, dump_flows
from ftfw.replication.store import Store


class CommandHandler:
    """Executes commands on the parts of one node."""

    def __init__(
        self, *, roles: RoleRunner, keepalived: KeepalivedTask, status: NodeStatus, selector: Selector
    ) -> None:
        self._roles = roles
        self._keepalived = keepalived
        self._status = status
        self._selector = selector

    async def execute(self, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Execute a request and return its result.  Raises ControlError if the command fails or is unknown."""
        match request:
            case {"command": "status", **how}:
                status = self._status
                counts = await status.count_entries() if how.get("count", True) else status.known_counts()
                return status.describe(*counts)
            case {"command": "ready"}:
                return {"ready": self._status.ready(trio.current_time())}
            case {"command": "promote" | "demote" as wanted}:
                return await self._roles.change(RoleEvent(wanted), progress)
            case {"command": "resync" | "scrub" as command}:
                return self._resync() if command == "resync" else self._scrub()
            case {"command": "show", "what": "flows" | "expectations" as what}:
                return {"entries": await self._show(what)}
            case {"command": "notify", "type": str(kind), "name": str(name), "state": str(state)}:
                return await self._notify(Notification((kind, name), state), request["arrival"], progress)
        raise ControlError(f"unknown command {request.get('command')!r}; this daemon may be older than its client")

    async def _notify(self, notification: Notification, arrival: int, progress: Progress) -> dict[str, Any]:
        (kind, _), state = notification
        if kind not in TYPES or state not in STATES:
            raise ControlError(
                f"found {kind} and {state}; expected one of {', '.join(TYPES)} and of {', '.join(STATES)}"
            )
        before = self._roles.role
        wanted = self._keepalived.record_hook(notification, arrival)
        if wanted is None:
            why = (
                f"{' '.join(notification.subject)} changes nothing:"
                " it is not in keepalived.instances, keepalived.fifo notifies of it, or a later notification has come"
            )
            return self._roles.describe(before) | {"warnings": [why]}
        if await self._roles.changer.reach(wanted, progress) is None:
            why = f"accepted without waiting: {WAITING_MAX} commands already wait for a change of role"
            return self._roles.describe(before) | {"warnings": [why]}
        return self._roles.describe(before)

    def _resync(self) -> dict[str, Any]:
        standby, streaming = self._roles.backup_role, self._roles.active_role
        if standby is not None and self._roles.member.backup is None:
            raise ControlError("this node is being promoted; a snapshot from the active would come too late")
        if standby is not None:
            standby.backup.request_snapshot(trio.current_time())
        elif streaming is not None:
            streaming.active.resync_backups(trio.current_time())
        return {"role": self._roles.role}

    def _scrub(self) -> dict[str, Any]:
        standby, streaming = self._roles.backup_role, self._roles.active_role
        if standby is not None:
            standby.backup.request_compare(trio.current_time())
        elif streaming is not None:
            streaming.active.request_compare()
        return {"role": self._roles.role}

    async def _show(self, what: str) -> Iterator[dict[str, Any]]:
        standby = self._roles.backup_role
        store = standby.store if standby is not None else await self._kernel_store()
        found = store.flows() if what == "flows" else store.decoded_expectations()
        return (each.as_dict() for each in found)

    async def _kernel_store(self) -> Store:
        """Return the entries of this kernel that an active streams, as a backup would hold them."""
        store = Store()
        store.begin_snapshot()
        for dump in (dump_flows, dump_expectations):
            async with aclosing(dump()) as batches:
                async for batch in batches:
                    store.add_snapshot(self._selector.dumped(batch).messages)
        store.end_snapshot()
        return store
