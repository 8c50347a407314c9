"""Takeovers with a real keepalived under live traffic: what is lost, and what the ends get to see of it."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.pair import LIMIT_S, Node, until
from tests.kernel.talk import PORT, TCP_FLOWS
from tests.kernel.vrrp import Router, with_preemption
from tests.kernel.world import (
    FLOWS,
    World,
    advertising,
    come_back,
    holds,
    in_sync,
    kill,
    ports,
    power_cut,
    power_up,
    world,
)

pytestmark = pytest.mark.kernel

OWN_PORT = 7022


async def nothing_lost(made: World) -> None:
    """Neither RST nor ICMP error was sent by anybody, and every flow goes on."""
    assert made.talked().errors == []
    assert await made.lost() == []


@pytest.mark.parametrize("mode", ["warm", "hot"])
async def test_a_power_cut_and_another_after_coming_back_lose_nothing(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path, mode=mode) as made:
        first, second = made.both
        power_cut(first)
        second.is_("active")
        made.talked()
        power_up(first)
        come_back(first, TCP_FLOWS)
        power_cut(second)
        first.is_("active")
        await nothing_lost(made)
        assert not any("conflict" in router.node.log.read_text() for router in made.both)


async def test_without_ftfw_a_power_cut_loses_all(tmp_path: Path) -> None:
    async with world(tmp_path, daemon=False) as made:
        first, second = made.both
        power_cut(first)
        until(second.has_addresses, "the other one is MASTER")
        until(lambda: len({name[:6] for name in made.state().broken}) >= TCP_FLOWS, "no TCP connection lives")
        state = made.talked()
        assert {name.split(",")[0] for name in state.broken} >= {f"TCP {number}" for number in range(TCP_FLOWS)}
        assert any("RST" in error for error in state.errors)
        assert len(await made.phase("prove", limit_s=2.0)) == len(FLOWS)


@pytest.mark.parametrize("mode", ["warm", "hot"])
async def test_a_killed_daemon_comes_back_where_the_addresses_are_and_a_graceful_stop_follows(
    tmp_path: Path, mode: str
) -> None:
    async with world(tmp_path, mode=mode) as made:
        first, second = made.both
        first.node.kill()
        made.talked()
        entries = first.node.kernel_count()
        first.node.start("backup")  # as systemd does; keepalived says nothing to it
        first.is_("active")
        assert "this node becomes active" in first.node.log.read_text()
        assert first.node.kernel_count() >= entries - 2
        assert first.node.status()["gate"]["dropped"] == 0
        in_sync(first, second)
        first.node.insert(1)
        until(lambda: "sport=10001" in second.node.ftfw("show", "flows").stdout, "a new flow is streamed")
        first.stop_keepalived()
        second.is_("active")
        first.is_("backup")
        holds(first, TCP_FLOWS)
        assert not any("conflict" in router.node.log.read_text() for router in made.both)
        await nothing_lost(made)


async def test_a_daemon_killed_and_not_started_again_costs_nothing_when_its_node_fails_too(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        first, second = made.both
        first.node.kill()
        made.talked()
        power_cut(first)
        second.is_("active")
        await nothing_lost(made)


async def test_a_killed_keepalived_costs_nothing_nor_does_its_return(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        first, second = made.both
        first.kill_keepalived()
        second.is_("active")
        until(lambda: second.node.status()["conflict"], "both are active, and say so")
        made.talked()
        first.start_keepalived()
        first.is_("backup")
        holds(first, TCP_FLOWS)
        assert not second.node.status()["conflict"]
        second.stop_keepalived()
        first.is_("active")
        await nothing_lost(made)


async def test_keepalived_and_daemon_killed_there_and_back_with_connections_to_the_firewalls_themselves(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as made:
        with ExitStack() as stack:
            own = [connected(stack, router, number) for number, router in enumerate(made.both, start=2)]
            for failing, other in (made.both, made.both[::-1]):
                kill(failing)
                other.is_("active")
                made.talked()
                come_back(failing, TCP_FLOWS)
            for router, (near, far) in zip(made.both, own, strict=True):
                assert f"dport={OWN_PORT}" in router.node.exec("conntrack", "-L").stdout  # not purged
                near.send(b"still there")
                assert far.recv(99) == b"still there"
            await nothing_lost(made)


def connected(stack: ExitStack, router: Router, number: int) -> tuple[socket.socket, socket.socket]:
    """A connection of the client to an address of a firewall's own: both its ends."""
    client = Node("client", router.node.namespace.replace(router.node.name, "client"), router.node.workdir)
    address = (f"192.0.2.{number}", OWN_PORT)
    with router.node.inside(lambda: socket.create_server(address)) as listener:
        near = stack.enter_context(client.inside(lambda: socket.create_connection(address, LIMIT_S)))
        far = stack.enter_context(listener.accept()[0])
    far.settimeout(LIMIT_S)
    return near, far


async def test_a_backup_that_joins_during_a_takeover_is_the_next_to_take_over(tmp_path: Path) -> None:
    async with world(tmp_path, crowd=30_000) as made:
        first, second = made.both
        kill(first)
        first.node.start("backup")
        second.is_("active")
        first.start_keepalived()
        holds(first, 30_000)
        kill(second)
        first.is_("active")
        commit = first.node.status()["last_commit"]
        assert commit["created"] + commit["updated"] > 30_000
        await nothing_lost(made)


async def test_a_promotion_in_the_middle_of_a_snapshot_goes_on_with_what_was_there_before(tmp_path: Path) -> None:
    async with world(tmp_path, crowd=5_000) as made:
        first, second = made.both
        slow_down(first)
        second.node.ftfw("resync")
        until(lambda: "is coming in" in (second.node.status()["why_not_synced"] or ""), "a snapshot is under way")
        power_cut(first)
        second.is_("active")
        assert "a snapshot was under way" in second.node.log.read_text()
        assert second.node.status()["last_commit"]["created"] > 5_000
        await nothing_lost(made)


async def test_a_promotion_in_the_middle_of_the_first_snapshot_saves_what_has_come(tmp_path: Path) -> None:
    async with world(tmp_path, crowd=5_000) as made:
        first, second = made.both
        slow_down(first)
        second.node.kill()
        second.node.start("backup")
        until(lambda: second.node.status()["flows"] > 1_000, "some of it has come")
        power_cut(first)
        second.is_("active")
        commit = second.node.status()["last_commit"]["created"]
        assert 1_000 < commit < 5_000
        assert f"{commit} flows and" in second.node.log.read_text()
        saved = second.node.exec("conntrack", "-L", "-p", "tcp", "--dport", str(PORT)).stdout.count("ESTABLISHED")
        made.talked()
        lost = {name.split(",")[0] for name in made.state().broken if name.startswith("TCP")}
        assert len(lost) == TCP_FLOWS - saved


def slow_down(router: Router) -> None:
    """So that a snapshot takes a while."""
    queue = ("tbf", "rate", "100kbit", "burst", "3kb", "latency", "5s")
    router.node.exec("tc", "qdisc", "add", "dev", "sync", "root", *queue)


async def test_preempt_storm_with_takeovers_faster_than_snapshots_loses_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, crowd=30_000, edits=[with_preemption, advertising(0.03)]) as made:
        first, second = made.both
        for _ in range(8):
            ports(first, "down", ["wan"])
            until(second.has_addresses, "it goes there")
            ports(first, "up", ["wan"])
            until(first.has_addresses, "and back")
        first.is_("active")
        second.is_("backup")
        await nothing_lost(made)


async def test_a_node_without_any_snapshot_goes_on_with_what_its_kernel_has_from_before(tmp_path: Path) -> None:
    """Segments have passed through the other one meanwhile, of which this kernel's windows know nothing."""
    async with world(tmp_path) as made:
        first, second = made.both
        kill(first)
        second.is_("active")
        made.talked()
        first.link("sync", "down")
        first.node.start("backup")
        first.start_keepalived()
        until(lambda: not first.has_addresses(), "keepalived has taken them away")
        kill(second)
        first.is_("active")
        assert first.node.status()["last_commit"]["created"] == 0
        await nothing_lost(made)
