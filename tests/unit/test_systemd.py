import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from ftfw.daemon.systemd import SystemdNotifier, one_line

Heard = Callable[[], list[str]]


def listen(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.bind(address)
    return made


def all_of(listener: socket.socket) -> list[str]:
    """Return every datagram that is there."""
    found = []
    while True:
        try:
            found.append(listener.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def heard(path: str) -> Iterator[Heard]:
    with listen(path) as listener:
        yield lambda: all_of(listener)


@pytest.fixture
def clock() -> MockClock:
    return MockClock()


async def test_readiness_comes_first_and_the_status_when_it_changes(path: str, heard: Heard, clock: MockClock) -> None:
    status = "backup, in sync"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SystemdNotifier({"NOTIFY_SOCKET": path}).run, lambda: status)
        await wait_all_tasks_blocked()
        assert heard() == ["READY=1\nSTATUS=backup, in sync"]
        clock.jump(1)
        await wait_all_tasks_blocked()
        assert heard() == ["WATCHDOG=1"]
        status = "active, in sync"
        clock.jump(1)
        await wait_all_tasks_blocked()
        assert heard() == ["WATCHDOG=1\nSTATUS=active, in sync"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("usec", "ticks"), [("600000", 5), ("3000000", 1), ("30000000", 1)])
async def test_the_watchdog_is_fed_three_times_as_often_as_it_asks(
    path: str, heard: Heard, clock: MockClock, usec: str, ticks: int
) -> None:
    environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": usec, "WATCHDOG_PID": str(os.getpid())}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SystemdNotifier(environment).run, lambda: "well")
        await wait_all_tasks_blocked()
        heard()
        for _ in range(11):  # 1.1 s
            clock.jump(0.1)
            await wait_all_tasks_blocked()
        assert heard() == ["WATCHDOG=1"] * ticks
        nursery.cancel_scope.cancel()


async def test_another_process_s_watchdog_sets_no_pace(path: str, heard: Heard, clock: MockClock) -> None:
    environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SystemdNotifier(environment).run, lambda: "well")
        await wait_all_tasks_blocked()
        heard()
        clock.jump(0.5)
        await wait_all_tasks_blocked()
        assert heard() == []
        nursery.cancel_scope.cancel()


async def test_a_hung_loop_feeds_no_watchdog_and_feeds_it_once_when_it_goes_on(path: str, heard: Heard) -> None:
    environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000"}

    async def fed() -> list[str]:
        with trio.fail_after(10):
            while not (found := heard()):
                await trio.lowlevel.checkpoint()
        return found

    async with trio.open_nursery() as nursery:
        nursery.start_soon(SystemdNotifier(environment).run, lambda: "well")
        assert await fed() == ["READY=1\nSTATUS=well"]
        assert await fed() == ["WATCHDOG=1"]
        time.sleep(0.5)  # noqa: ASYNC251  the loop hangs: five feeds are due, and a thread would send them
        assert heard() == []
        assert await fed() == ["WATCHDOG=1"]
        nursery.cancel_scope.cancel()


async def test_a_daemon_that_cannot_describe_itself_feeds_no_watchdog(
    path: str, heard: Heard, clock: MockClock
) -> None:
    described = iter(["well"])
    with pytest.RaisesGroup(RuntimeError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(SystemdNotifier({"NOTIFY_SOCKET": path}).run, lambda: next(described))
            await wait_all_tasks_blocked()
            clock.jump(1)
    assert heard() == ["READY=1\nSTATUS=well"]


async def test_an_abstract_address_is_understood() -> None:
    name = f"ftfw-{secrets.token_hex(8)}"
    with listen(f"\0{name}") as listener:
        SystemdNotifier({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert all_of(listener) == ["STOPPING=1"]


def test_a_reload_has_a_beginning_and_an_end_even_if_it_fails(path: str, heard: Heard) -> None:
    with suppress(ZeroDivisionError), SystemdNotifier({"NOTIFY_SOCKET": path}).reloading():
        (begun,) = heard()
        words, usec = begun.split("\nMONOTONIC_USEC=")
        assert words == "RELOADING=1"
        assert int(usec) > 0
        raise ZeroDivisionError
    assert heard() == ["READY=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
async def test_without_systemd_nothing_is_said_and_nothing_keeps_running(environment: dict[str, str]) -> None:
    with trio.fail_after(5):
        await SystemdNotifier(environment).run(lambda: "well")


def test_a_systemd_that_is_gone_is_told_in_the_log_and_survived(path: str, caplog: pytest.LogCaptureFixture) -> None:
    SystemdNotifier({"NOTIFY_SOCKET": path}).stopping()
    assert "systemd does not get STOPPING=1: No such file or directory" in caplog.text


@pytest.mark.parametrize(
    ("conflict", "synced", "why_not", "line"),
    [
        (False, True, None, "active, in sync"),
        (False, False, None, "active, not in sync"),
        (False, None, None, "active, no peer is heard"),
        (False, False, "not in sync: fw2", "active; not in sync: fw2"),
        (True, True, None, "active; conflict: more than one node is active"),
    ],
)
def test_the_status_in_a_line(*, conflict: bool, synced: bool | None, why_not: str | None, line: str) -> None:
    assert one_line("active", conflict=conflict, synced=synced, why_not=why_not) == line
