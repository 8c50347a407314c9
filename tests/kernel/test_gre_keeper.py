"""Injected GRE flows live on, on a real kernel."""

import socket
from contextlib import suppress

import pytest
import trio

from ftfw.daemon import gre_keeper
from ftfw.kernel.create import Timeouts
from ftfw.kernel.flow_model import Flow
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.replication.store import Store
from tests.kernel.entries import (
    CLIENT,
    OUTSIDE,
    SERVER,
    alive,
    original,
    ports,
    reply,
)
from tests.kernel.namespaces import LIMIT_S, Capture, Namespace, left, selector

pytestmark = pytest.mark.kernel

Pair = tuple[Namespace, Namespace]
TCP, UDP, GRE = 6, 17, 47
GRE_HEADER = bytes(4)

ESTABLISHED_GRE_ONLY = """
table inet gre {
    chain c {
        type filter hook output priority filter
        meta l4proto gre ct state new drop
    }
}
"""


async def gre_pair(pair: Pair) -> Store:
    """Two GRE flows in the store, about to run out, and committed to a backup that passes no new ones."""
    active, backup = pair
    for end in (SERVER, OUTSIDE):
        flow = original(CLIENT, end, GRE, ports(0, 0)) + reply(end, CLIENT, GRE, ports(0, 0))
        active.put(flow + alive(timeout=3))
    backup.loop(ESTABLISHED_GRE_ONLY)
    store = await active.snapshot()
    backup.injector = Injector(backup.requests, lambda: Timeouts(gre=3, gre_stream=3))
    await backup.commit(store)
    return store


async def ends(namespace: Namespace) -> dict[object, int]:
    """The GRE flows' destinations, and how long they have."""
    return {
        flow.original["dst"]: left(flow)
        for flow in (await namespace.snapshot()).flows()
        if flow.protocol == "gre" and flow.original["src"] == CLIENT
    }


async def test_gre_lives_while_packets_come(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed GRE flow cannot renew its timer: it is created again while it is used, and runs out when not."""
    monkeypatch.setattr(gre_keeper, "GRE_CHECK_S", 0.4)
    _, backup = pair
    await gre_pair(pair)
    assert backup.get_sysctl("nf_conntrack_acct") == 0, "left as it was found"
    with backup:
        tunnel = socket.socket(socket.AF_INET, socket.SOCK_RAW, GRE)
        tunnel.bind((CLIENT, 0))

    async def use() -> dict[object, int]:
        with suppress(PermissionError):  # dropped: the flow is being created again this very moment
            tunnel.sendto(GRE_HEADER, (SERVER, 0))
        await trio.sleep(0.05)
        return await ends(backup)

    with tunnel, trio.fail_after(4 * LIMIT_S), backup:
        keeper = gre_keeper.GreKeeper(backup.injector, selector(), InjectionOutcome())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            for _ in range(2):  # until the timer of the flow that is used has been wound up, and once more
                before = now = 3
                while now <= before:
                    before, now = now, (await use()).get(SERVER, 0)
            while OUTSIDE in await use():
                pass
            while SERVER not in await use():
                pass
            # No more packets: it runs out, and the keeper has nothing left to do.
    assert not await ends(backup)


async def test_a_backup_hears_of_the_new_entry(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have another id, so that a compare would count it as different; here its timer tells it from the old one.

    The id is a hash over the entry's address in memory (nf_ct_get_id), which the new entry may have from the old one.
    """
    monkeypatch.setattr(gre_keeper, "GRE_CHECK_S", 0.2)
    _, active = pair
    await gre_pair(pair)
    peer = Capture(active)
    peer.store.begin_snapshot()
    peer.store.add_snapshot(await active.dump())
    peer.store.end_snapshot()
    assert not any(map(is_new, peer.store.flows()))
    with active:
        tunnel = socket.socket(socket.AF_INET, socket.SOCK_RAW, GRE)
        tunnel.bind((CLIENT, 0))
        tunnel.sendto(GRE_HEADER, (SERVER, 0))
    with tunnel, active, trio.fail_after(4 * LIMIT_S):
        keeper = gre_keeper.GreKeeper(active.streamed_injector(), selector(), InjectionOutcome())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            while not any(map(is_new, (await active.snapshot()).flows())):  # noqa: ASYNC110
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    await peer.until(lambda store: any(map(is_new, store.flows())))


def is_new(flow: Flow) -> bool:
    """Whether an entry has the timer that the kernel's own timeouts give it, and not the three seconds from before."""
    return left(flow) > 3
