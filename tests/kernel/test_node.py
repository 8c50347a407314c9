"""Runs the daemon in this process on a real kernel, while a step of a role change fails or is slow."""

import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio

from ftfw.config.schema import Config, load
from ftfw.control import client
from ftfw.control.client import ControlError
from ftfw.daemon import commit
from ftfw.daemon.node import NodeDaemon
from ftfw.daemon.reload import KeyReload
from ftfw.daemon.roles.role_table import RoleState
from ftfw.daemon.transport import Transport
from ftfw.link.link_base import Link, Received
from ftfw.replication import messages
from ftfw.replication.messages import Heartbeat
from ftfw.security.frames import Opener
from tests.kernel.namespaces import Namespace, namespaces
from tests.unit.conntrack import TCP, conn

pytestmark = pytest.mark.kernel

KEY = b"k" * 32


class Silence(Link):
    """Keeps the sent frames of a link on which no other node sends."""

    trouble = None

    def __init__(self) -> None:
        super().__init__(name="silence", port=0, pinned_to=None, version=4)
        self.frame_limit = 1400
        self.frames: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)

    def admit(self, key_ids: Iterable[bytes]) -> None:
        pass

    async def run(self, _: Received) -> None:
        await trio.sleep_forever()

    def _make(self) -> socket.socket:
        raise NotImplementedError

    def heartbeats(self) -> list[Heartbeat]:
        opener = Opener([KEY])
        found = [messages.unpack(opener.open(frame).body) for frame in self.frames]
        return [message for message in found if isinstance(message, Heartbeat)]


def configuration(directory: Path, more: str = "") -> Config:
    path = directory / "ftfw.toml"
    path.write_text(
        '[node]\nname = "fw1"\n'
        '[[link]]\ntransport = "multicast"\ninterface = "sync"\ngroup = "225.0.0.50"\n'
        f'[security]\nkey_files = ["{directory}/key"]\n[control]\nsocket = "{directory}/control.sock"\n{more}'
    )
    return load(path)


@asynccontextmanager
async def running(directory: Path, more: str = "") -> AsyncIterator[tuple[NodeDaemon, Silence, Path]]:
    config = configuration(directory, more)
    link = Silence()
    node = NodeDaemon(config, Transport([link], [KEY], name="fw1"), "backup", KeyReload(directory, config))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        await until(config.control.socket.exists)
        await command(config.control.socket, "ready")  # commands wait for the first role
        yield node, link, config.control.socket
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await trio.sleep(0.01)


async def command(path: Path, what: str, **arguments: Any) -> dict[str, Any]:
    return await trio.to_thread.run_sync(lambda: client.call(path, what, **arguments))


def in_namespace(work: Callable[[Namespace], Awaitable[None]]) -> None:
    with namespaces(1) as (only,), only:
        trio.run(work, only)


def test_a_commit_that_breaks_off_still_ends_in_an_active_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **_how: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(30, "Read-only file system")

    async def work(namespace: Namespace) -> None:
        monkeypatch.setattr(commit, "commit", broken)
        async with running(tmp_path) as (node, _link, path):
            assert node.roles.backup_role is not None
            node.roles.backup_role.store.apply([conn(TCP).new()])
            done = await command(path, "promote")
            status = await command(path, "status")
            last_commit = node.roles.last_commit
            assert last_commit is not None
            await until(lambda: last_commit["created"] == 1)  # what was held is not given up
            assert len(await namespace.dump()) == 1
        assert (done["role"], done["changed"]) == ("active", True)
        assert any("Read-only" in warning for warning in done["warnings"])
        assert done["last_commit"]["failed"] == {"commit_broke_off": 1}
        assert status["role"] == "active"
        assert status["kernel"]["inject_failed"] == {"commit_broke_off": 1}

    in_namespace(work)


def hold_up_commits(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Have them begin when the event is set."""
    go_on = trio.Event()
    real = commit.commit

    async def slow(*arguments: Any, **how: Any) -> None:
        await go_on.wait()
        await real(*arguments, **how)

    monkeypatch.setattr(commit, "commit", slow)
    return go_on


def test_a_promotion_that_is_recalled_says_so_and_leaves_the_entries_and_no_word_of_an_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(namespace: Namespace) -> None:
        go_on = hold_up_commits(monkeypatch)
        async with running(tmp_path) as (node, link, path), trio.open_nursery() as nursery:
            standby = node.roles.backup_role
            assert standby is not None
            standby.store.apply([conn(TCP).new()])

            async def promote() -> None:
                with pytest.raises(ControlError, match="superseded by a demotion before it was done: this node is bac"):
                    await command(path, "promote")

            nursery.start_soon(promote)
            await until(lambda: node.roles.changer.state is RoleState.PROMOTING)
            nursery.start_soon(command, path, "demote")
            await until(lambda: node.roles.changer.state is RoleState.RECALLED)
            go_on.set()
            await until(lambda: node.roles.backup_role is not standby)
            assert len(await namespace.dump()) == 1
            before = len(link.heartbeats())
            await until(lambda: len(link.heartbeats()) >= before + 3)
            assert {heartbeat.role for heartbeat in link.heartbeats()} == {"backup"}

    in_namespace(work)


def test_what_was_counted_stays_counted_once_through_changes_of_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(_: Namespace) -> None:
        go_on = hold_up_commits(monkeypatch)
        async with running(tmp_path) as (node, _link, path), trio.open_nursery() as nursery:
            standby = node.roles.backup_role
            assert standby is not None
            standby.store.apply([b"not a message of the kernel"])
            standby.outcome.failed["busy"] += 3

            async def counted() -> tuple[dict[str, int], dict[str, int]]:
                kernel = (await command(path, "status"))["kernel"]
                return kernel["inject_failed"], kernel["dropped"]

            once = {"busy": 3}, {"malformed": 1}
            assert await counted() == once
            nursery.start_soon(command, path, "promote")
            await until(lambda: node.roles.member.backup is None)
            assert await counted() == once
            go_on.set()
            await until(lambda: node.roles.role == "active")
            assert await counted() == once
            await command(path, "demote")
            assert await counted() == once

    in_namespace(work)


def test_who_was_the_only_active_is_ready_when_it_is_demoted(tmp_path: Path) -> None:
    async def work(_: Namespace) -> None:
        async with running(tmp_path) as (_node, _link, path):
            found = [(await command(path, "ready"))["ready"]]
            for name in ("promote", "demote"):
                await command(path, name)
                found.append((await command(path, "ready"))["ready"])
            assert found == [False, True, True]

    in_namespace(work)


def test_a_node_in_mid_promotion_is_heard_and_ready_and_shows_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(_: Namespace) -> None:
        go_on = hold_up_commits(monkeypatch)
        async with running(tmp_path) as (node, link, path), trio.open_nursery() as nursery:
            standby = node.roles.backup_role
            assert standby is not None
            standby.store.apply([conn(TCP).new()])
            standby.backup.was_synced = True
            nursery.start_soon(command, path, "promote")
            await until(lambda: node.roles.member.backup is None)
            before = len(link.heartbeats())
            await until(lambda: len(link.heartbeats()) >= before + 3)
            status = await command(path, "status")
            assert (status["role"], status["ready"], status["flows"]) == ("backup", True, 1)
            with pytest.raises(ControlError, match="being promoted"):
                await command(path, "resync")
            go_on.set()
            await until(lambda: node.roles.role == "active")
            assert (await command(path, "status"))["last_commit"]["created"] == 1

    in_namespace(work)


@pytest.mark.parametrize(("kind", "state"), [("GROUP", "WEIRD"), ("GROUP", "MASTER_PRIORITY"), ("TROOP", "BACKUP")])
def test_a_notification_that_is_none_changes_nothing(tmp_path: Path, kind: str, state: str) -> None:
    async def work(_: Namespace) -> None:
        async with running(tmp_path) as (node, _link, path):
            await command(path, "promote")
            with pytest.raises(
                ControlError, match=f"found {kind} and {state}; expected one of INSTANCE, GROUP and of M"
            ):
                await command(path, "notify", type=kind, name="FW", state=state)
            assert node.roles.role == "active"
            assert node.keepalived.status() is None

    in_namespace(work)


@pytest.mark.parametrize("holds", [False, True])
def test_a_node_that_holds_the_addresses_shuts_no_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    own = frozenset({ip_address("192.0.2.1").packed} if holds else ())
    monkeypatch.setattr("ftfw.system.interfaces.addresses", lambda: own)  # its thread may be in another namespace

    async def work(_: Namespace) -> None:
        more = '[takeover]\ngate_interfaces = ["lan"]\n[keepalived]\naddresses = ["192.0.2.1"]\n'
        async with running(tmp_path, more) as (node, _link, _path):
            assert node.roles.backup_role is not None
            assert node.gate is not None
            shut: list[frozenset[bytes]] = []
            monkeypatch.setattr(node.gate, "shut", shut.append)
            node.roles.member.receive(
                b"epoch",
                Heartbeat(name="fw2", role="active", byte_order=sys.byteorder, sequence=0, oldest=0, version=""),
                trio.current_time(),
            )
            node.roles.driver.after_batch()
            assert node.roles.backup_role.backup.epoch == b"epoch"
            assert shut == ([] if holds else [own])

    in_namespace(work)
