import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
import trio
from trio.testing import MockClock

from ftfw.link import link_base
from ftfw.link.link_base import INTERFACE_LOOK_S, SURVIVED, Link, Received, socket_address, survived
from ftfw.system.interfaces import Interface

RUNNING = Interface(index=2, up=True, running=True, multicast=True, mtu=1500)


class Trying(Link):
    """A link whose socket can be opened once `error` is None."""

    def __init__(self, error: int | None = None, *, pinned_to: str | None = None) -> None:
        super().__init__(name="trying", port=3780, pinned_to=pinned_to, version=4)
        self.error = error
        self.made = 0
        self._update_socket()

    @property
    def trouble(self) -> str | None:
        return self._fault

    def _make(self) -> socket.socket:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        self.made += 1
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, frame: bytes) -> None:
        raise NotImplementedError

    def admit(self, key_ids: Iterable[bytes]) -> None:
        raise NotImplementedError

    async def run(self, _: Received) -> None:
        await self._keep_open()


@asynccontextmanager
async def running(link: Link) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, lambda _: link_base.BatchOrigin(0, None))
        yield
        nursery.cancel_scope.cancel()
    link.close()


class Interfaces:
    """Says which state the interface `sync` has; an errno is raised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, state: Interface | int | None) -> None:
        self.state = state
        monkeypatch.setattr(link_base, "interface", self.read)

    def read(self, name: str) -> Interface | None:
        assert name == "sync"
        if isinstance(self.state, int):
            raise OSError(self.state, os.strerror(self.state))
        return self.state


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    caplog.clear()
    return lines


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errno.EADDRINUSE, "end the program that has port 3780 there, or set `port` of this [[link]] on all nodes"),
        (errno.EADDRNOTAVAIL, "add the address to an interface of this host, or correct this [[link]]"),
        (errno.EACCES, "run ftfw as root, or with CAP_NET_ADMIN, and CAP_NET_BIND_SERVICE for a port below 1024"),
        (errno.EPERM, "run ftfw as root, or with CAP_NET_ADMIN, and CAP_NET_BIND_SERVICE for a port below 1024"),
        (errno.EAFNOSUPPORT, "enable IPv6 in the kernel, or use IPv4 addresses in this [[link]]"),
        (errno.EIO, "look at the interface and its addresses, or correct this [[link]]"),
    ],
)
async def test_a_socket_that_cannot_be_opened_is_told_once_and_opened_later(
    error: int, remedy: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    link = Trying(error)
    async with running(link):
        await trio.sleep(10 * INTERFACE_LOOK_S)
        why = f"{os.strerror(error)}; {remedy}"
        troubles = [link.trouble]
        assert told(caplog) == [f"WARNING trying: down: {why}"]
        link.error = None
        await trio.sleep(2 * INTERFACE_LOOK_S)
        assert [*troubles, link.trouble] == [why, None]
        assert link.made == 1
        assert told(caplog) == ["INFO trying: up"]
    assert autojump_clock.current_time() >= 12 * INTERFACE_LOOK_S


async def test_the_interface_is_named_first_and_a_new_one_gets_a_new_socket(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    interfaces = Interfaces(monkeypatch, None)
    link = Trying(pinned_to="sync")
    async with running(link):
        for state, line, made in (
            (None, "WARNING trying: down: there is no interface sync; create it, or correct `interface` of this", 0),
            (
                Interface(index=2, up=False, running=False, multicast=True, mtu=1500),
                "WARNING trying: down: interface sync is down; `ip link set sync up`",
                1,
            ),
            (
                Interface(index=2, up=True, running=False, multicast=True, mtu=1500),
                "WARNING trying: down: interface sync has no carrier; look at the cable and at the other end",
                1,
            ),
            (RUNNING, "INFO trying: up", 1),
            (None, "WARNING trying: down: there is no interface sync; create it, or correct `interface` of this", 1),
            (Interface(index=3, up=True, running=True, multicast=True, mtu=1500), "INFO trying: up", 2),
        ):
            interfaces.state = state
            await trio.sleep(2 * INTERFACE_LOOK_S)
            (found,) = told(caplog)
            assert found.startswith(line)
            assert link.made == made
    assert autojump_clock.current_time() >= 12 * INTERFACE_LOOK_S


async def test_an_interface_that_cannot_be_looked_at_leaves_an_open_socket_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    interfaces = Interfaces(monkeypatch, RUNNING)
    link = Trying(pinned_to="sync")
    async with running(link):
        interfaces.state = errno.EMFILE
        await trio.sleep(4 * INTERFACE_LOOK_S)
        interfaces.state = RUNNING
        await trio.sleep(2 * INTERFACE_LOOK_S)
        assert link.trouble is None
        assert link.made == 1
    assert told(caplog) == []
    assert autojump_clock.current_time() >= 6 * INTERFACE_LOOK_S


def test_errors_of_links_have_names_and_others_rise() -> None:
    assert {survived(OSError(code, "")) for code in SURVIVED} == {errno.errorcode[code].lower() for code in SURVIVED}
    with pytest.raises(OSError, match="Bad file"):
        survived(OSError(errno.EBADF, os.strerror(errno.EBADF)))


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "fe80::1%sync"])
def test_a_socket_s_address_has_no_scope(address: str) -> None:
    assert socket_address(ip_address(address), 3780) == (address.partition("%")[0], 3780)
