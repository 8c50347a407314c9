"""Tests FIFO, hooks, track_file and virtual addresses without a keepalived."""

import logging
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ftfw.config import schema
from ftfw.control.notification_words import MASTER
from ftfw.daemon.keepalived_task import KeepalivedTask, NodeState
from ftfw.daemon.roles.address_monitor import ADOPTION_S
from ftfw.daemon.roles.keepalived_fifo import WRITER_MISSED_S, Notification
from ftfw.daemon.roles.role_table import RoleEvent

ADDRESS = ip_address("192.0.2.1")


class Daemon:
    """Holds the task, the roles that it wanted, and the state of the node that it sees."""

    def __init__(self, path: Path, **more: object) -> None:
        self.path = path
        self.wanted: list[RoleEvent] = []
        self.now = NodeState("backup", ready=False, free=False)
        keys = schema.KeepalivedSection.model_validate(more | ({"fifo": str(path)} if path.name else {}))
        self.keepalived = KeepalivedTask(keys, "backup", want=self.wanted.append)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keepalived.run, lambda: self.now)
            yield
            nursery.cancel_scope.cancel()

    def write(self, data: bytes) -> None:
        """Write to the FIFO as keepalived does."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        os.write(descriptor, data)
        os.close(descriptor)

    async def opened(self) -> None:
        await until(lambda: (self.keepalived.status() or {})["fifo"] == "open" and self.path.exists())

    async def wants(self, *events: RoleEvent) -> None:
        await until(lambda: len(self.wanted) >= len(events))
        assert self.wanted == list(events)
        self.wanted.clear()


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await trio.sleep(0.01)


async def test_the_fifo_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "run" / "fifo")
    async with daemon.running():
        await daemon.opened()
        assert stat.filemode(daemon.path.stat().st_mode) == "prw-------"


async def test_whether_anybody_has_the_fifo_open_is_known_and_told_when_nobody_has_for_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.001  # what is written is there at once, and read a little later
    caplog.set_level(logging.INFO)
    daemon = Daemon(tmp_path / "fifo")

    def writer() -> bool | None:
        status = daemon.keepalived.status()
        assert status is not None
        there: bool | None = status["fifo_writer"]
        return there

    def told() -> list[str]:
        return [each.message for each in caplog.records if each.levelno == logging.WARNING]

    async with daemon.running():
        await daemon.opened()
        await until(lambda: writer() is False)
        assert told() == []
        await trio.sleep(2 * WRITER_MISSED_S)
        (missed,) = told()
        assert "no process has had it open for writing for 30 s" in missed
        assert "`systemctl reload keepalived`" in missed
        keepalived = os.open(daemon.path, os.O_RDWR | os.O_NONBLOCK)
        await until(lambda: writer() is True)
        assert "keepalived has opened it" in caplog.text
        os.write(keepalived, b'GROUP "FW" MASTER 0\n')
        await daemon.wants(RoleEvent.PROMOTE)
        os.close(keepalived)
        await until(lambda: writer() is False)
        daemon.write(b'GROUP "FW" BACKUP 0\n')  # one that comes for a moment is heard as well
        await daemon.wants(RoleEvent.DEMOTE)
        assert len(told()) == 1


async def test_several_lines_at_once_are_one_wish_and_a_line_may_come_in_two(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "fifo")
    async with daemon.running():
        await daemon.opened()
        daemon.write(b'INSTANCE "VI_1" MASTER 150\nINSTANCE VI_1 BACKUP 150\nINSTANCE "VI_1" MAS')
        await daemon.wants(RoleEvent.DEMOTE)
        daemon.write(b"TER 150\n")
        await daemon.wants(RoleEvent.PROMOTE)


async def test_what_was_written_before_the_daemon_came_is_read(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "fifo")
    os.mkfifo(daemon.path)
    keepalived = os.open(daemon.path, os.O_RDWR | os.O_NONBLOCK)
    os.write(keepalived, b'GROUP "FW" MASTER 0\n')
    async with daemon.running():
        await daemon.wants(RoleEvent.PROMOTE)
    os.close(keepalived)


async def test_a_fifo_that_was_made_anew_is_read_after_the_rest_of_the_old_one(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "fifo")
    async with daemon.running():
        await daemon.opened()
        old = os.open(daemon.path, os.O_RDWR | os.O_NONBLOCK)
        daemon.path.unlink()
        os.mkfifo(daemon.path)
        os.write(old, b'INSTANCE "VI_1" STOP 150\nINSTANCE')
        os.close(old)
        new = os.open(daemon.path, os.O_RDWR | os.O_NONBLOCK)  # open until it is read: so it is not lost
        os.write(new, b'INSTANCE "VI_1" MASTER 150\n')
        await daemon.wants(RoleEvent.DEMOTE, RoleEvent.PROMOTE)
        os.close(new)
    status = daemon.keepalived.status()
    assert status is not None
    assert status["dropped"] == {"line_cut_off": 1}


async def test_a_fifo_that_was_removed_is_made_again(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "fifo")
    async with daemon.running():
        await daemon.opened()
        daemon.path.unlink()
        await until(daemon.path.exists)
        await daemon.opened()
        keepalived = os.open(daemon.path, os.O_RDWR | os.O_NONBLOCK)
        os.write(keepalived, b'INSTANCE "VI_1" MASTER 150\n')
        await daemon.wants(RoleEvent.PROMOTE)
        os.close(keepalived)


async def test_what_is_no_fifo_is_told_once_and_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    daemon = Daemon(tmp_path / "fifo")
    daemon.path.write_text("not a pipe")
    async with daemon.running():
        await until(lambda: "not a FIFO" in (daemon.keepalived.status() or {})["fifo"])
        daemon.path.unlink()
        await daemon.opened()
    assert len([each for each in caplog.records if "exists and is not a FIFO; move it away" in each.message]) == 1


async def test_a_hook_has_a_say_until_the_fifo_has(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "fifo")
    master = Notification(("INSTANCE", "VI_1"), MASTER)
    assert daemon.keepalived.record_hook(master, 1) is RoleEvent.PROMOTE
    async with daemon.running():
        await daemon.opened()
        daemon.write(b'INSTANCE "VI_1" BACKUP 150\n')
        await daemon.wants(RoleEvent.DEMOTE)
        assert daemon.keepalived.record_hook(master, 2) is None
        status = daemon.keepalived.status()
        assert status is not None
        assert status["instances"] == {"INSTANCE VI_1": "BACKUP"}
        assert status["dropped"] == {"hook_overruled": 1}


async def test_without_keepalived_there_is_no_status_of_it() -> None:
    assert Daemon(Path()).keepalived.status() is None


async def test_the_track_file_says_whether_this_node_is_ready(tmp_path: Path) -> None:
    file = tmp_path / "run" / "ready"
    daemon = Daemon(Path(), track_file=str(file))
    async with daemon.running():
        await until(file.exists)
        assert file.read_text() == "1\n"
        daemon.now = NodeState("backup", ready=True, free=False)
        await until(lambda: file.read_text() == "0\n")
        daemon.now = NodeState("backup", ready=False, free=False)
        await until(lambda: file.read_text() == "1\n")
        daemon.now = NodeState("backup", ready=True, free=False)
        await until(lambda: file.read_text() == "0\n")
    assert file.read_text() == "1\n"  # a backup without a daemon
    assert [each.name for each in file.parent.iterdir()] == ["ready"]


async def test_an_active_that_ends_stays_ready(tmp_path: Path) -> None:
    file = tmp_path / "ready"
    daemon = Daemon(Path(), track_file=str(file))
    daemon.now = NodeState("active", ready=True, free=False)
    async with daemon.running():
        await until(file.exists)
    assert file.read_text() == "0\n"


async def test_a_track_file_that_cannot_be_written_is_told_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    daemon = Daemon(Path(), track_file=str(tmp_path / "file" / "ready"), addresses=[str(ADDRESS)])
    daemon.keepalived.learn_addresses(frozenset({ADDRESS.packed}))
    async with daemon.running():
        await until(lambda: "set keepalived.track_file" in caplog.text)
        await until(lambda: (daemon.keepalived.status() or {})["disagreement"] is not None)


async def test_a_disagreement_is_told_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    daemon = Daemon(Path(), addresses=[str(ADDRESS)])
    held = [daemon.keepalived.holds_addresses]
    daemon.keepalived.learn_addresses(frozenset({ADDRESS.packed}))
    assert [*held, daemon.keepalived.holds_addresses] == [False, True]
    async with daemon.running():
        await until(lambda: "this node is backup, and 192.0.2.1 is here: check that" in caplog.text)
        daemon.now = NodeState("active", ready=True, free=False)
        await until(lambda: "agree again" in caplog.text)
    status = daemon.keepalived.status() or {}
    assert (status["disagreement"], status["addresses_here"]) == (None, ["192.0.2.1"])
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1


async def test_a_free_backup_with_all_addresses_wants_to_be_active_once_and_says_why(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    daemon = Daemon(Path(), addresses=[str(ADDRESS)], instances=["VI_1", "VI_2"])
    daemon.keepalived.learn_addresses(frozenset({ADDRESS.packed}))
    async with daemon.running():
        await trio.sleep(2 * ADOPTION_S)
        assert daemon.wanted == []  # another one is active, or somebody has wanted a role
        daemon.now = NodeState("backup", ready=True, free=True)
        await until(lambda: bool(daemon.wanted))
        daemon.now = NodeState("backup", ready=True, free=False)
        await trio.sleep(2 * ADOPTION_S)
    assert daemon.wanted == [RoleEvent.PROMOTE]
    assert autojump_clock.current_time() > 4 * ADOPTION_S
    (told,) = (each for each in caplog.records if each.levelno == logging.WARNING)
    assert told.message.startswith(
        "192.0.2.1: all on this host for 3 s, without a notification of keepalived since this daemon"
    )
    # The first instance that is heard of does not speak for the other one.
    assert daemon.keepalived.record_hook(Notification(("INSTANCE", "VI_1"), MASTER), 1) is RoleEvent.PROMOTE
    assert daemon.keepalived.record_hook(Notification(("INSTANCE", "VI_2"), "BACKUP"), 2) is RoleEvent.DEMOTE
