from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ftfw.daemon.role_changer import WAITING_MAX, RoleChanger
from ftfw.daemon.roles.role_table import AT_REST, Action, RoleEvent, RoleState
from ftfw.replication.state_tables import LocalProtocolError

WANTED = {RoleEvent.PROMOTE: RoleState.ACTIVE, RoleEvent.DEMOTE: RoleState.BACKUP}


class Work:
    """Performs the actions of a node: COMMIT and STOP last until `let_go`."""

    def __init__(self) -> None:
        self.done: list[Action] = []
        self._go_on = trio.Event()

    async def perform(self, action: Action) -> None:
        if action in (Action.COMMIT, Action.STOP):
            await self._go_on.wait()
        self.done.append(action)

    async def let_go(self) -> None:
        self._go_on.set()
        await wait_all_tasks_blocked()
        self._go_on = trio.Event()


@asynccontextmanager
async def changes(role: str) -> AsyncIterator[tuple[RoleChanger, Work, trio.Nursery]]:
    work = Work()
    made = RoleChanger(role, work.perform)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        work.done.clear()
        yield made, work, nursery
        nursery.cancel_scope.cancel()


class Asked:
    """Wants a role, and waits for it."""

    def __init__(self, made: RoleChanger, nursery: trio.Nursery, event: RoleEvent) -> None:
        self.reached: bool | None = None
        self.told: list[dict[str, Any]] = []
        nursery.start_soon(self._ask, made, event)

    async def _ask(self, made: RoleChanger, event: RoleEvent) -> None:
        self.reached = await made.reach(event, self._hear)

    async def _hear(self, told: dict[str, Any]) -> None:
        self.told.append(told)
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("role", "event"), [("active", RoleEvent.PROMOTE), ("backup", RoleEvent.DEMOTE)])
async def test_the_role_that_is_there_is_reached_at_once(role: str, event: RoleEvent) -> None:
    async with changes(role) as (made, work, _):
        assert await made.reach(event)
        assert work.done == []


async def test_a_hundred_alternating_wishes_end_in_the_last_and_cost_one_change_each_way() -> None:
    for last, wanted in enumerate((RoleEvent.DEMOTE, RoleEvent.PROMOTE)):
        async with changes("backup") as (made, work, _):
            for number in range(100 + last):
                made.accept(RoleEvent.PROMOTE if number % 2 == 0 else RoleEvent.DEMOTE)
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            await work.let_go()
            assert made.at_rest
            assert made.state is WANTED[wanted]
            assert work.done == [Action.COMMIT, AT_REST[WANTED[wanted]]]


async def test_who_wanted_something_else_is_told_that_it_was_superseded() -> None:
    async with changes("backup") as (made, work, nursery):
        promoter = Asked(made, nursery, RoleEvent.PROMOTE)
        await wait_all_tasks_blocked()
        demoter = Asked(made, nursery, RoleEvent.DEMOTE)
        await wait_all_tasks_blocked()
        assert (promoter.reached, demoter.reached) == (None, None)  # the commit is under way
        await work.let_go()
        assert (promoter.reached, demoter.reached) == (False, True)
        assert work.done == [Action.COMMIT, Action.LISTEN]


async def test_a_demotion_that_is_taken_back_streams_on_without_a_commit() -> None:
    async with changes("active") as (made, work, nursery):
        demoter = Asked(made, nursery, RoleEvent.DEMOTE)
        await wait_all_tasks_blocked()
        assert not made.at_rest
        made.accept(RoleEvent.PROMOTE)
        await work.let_go()
        assert demoter.reached is False
        assert work.done == [Action.STOP, Action.STREAM]


async def test_a_wish_is_remembered_also_where_it_changes_nothing() -> None:
    async with changes("backup") as (made, _, _):
        assert not made.asked
        made.accept(RoleEvent.DEMOTE)
        assert made.asked


async def test_more_than_may_wait_are_taken_all_the_same() -> None:
    async with changes("backup") as (made, work, nursery):
        waiting = [Asked(made, nursery, RoleEvent.PROMOTE) for _ in range(WAITING_MAX)]
        await wait_all_tasks_blocked()
        assert await made.reach(RoleEvent.DEMOTE) is None
        await work.let_go()
        assert {each.reached for each in waiting} == {False}
        assert made.state is RoleState.BACKUP


async def test_all_who_wait_hear_how_far_it_is() -> None:
    async with changes("backup") as (made, work, nursery):
        first = Asked(made, nursery, RoleEvent.PROMOTE)
        second = Asked(made, nursery, RoleEvent.PROMOTE)
        await wait_all_tasks_blocked()
        await made.report({"done": 1})
        assert first.told == second.told == [{"done": 1}]
        await work.let_go()
        assert first.reached
        assert second.reached


async def test_an_event_that_the_table_lacks_is_an_error_that_names_state_and_event() -> None:
    async with changes("backup") as (made, _, _):
        with pytest.raises(LocalProtocolError, match="role changer: 'done' is not possible while 'backup'"):
            made.accept(RoleEvent.DONE)
        assert made.state is RoleState.BACKUP
