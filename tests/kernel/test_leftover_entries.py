"""What a backup does with entries from before, on a real kernel."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from ftfw.daemon import leftover_entries
from ftfw.kernel import uapi
from ftfw.kernel.injector import InjectionOutcome
from tests.kernel.entries import (
    CLIENT,
    INNER,
    OUTSIDE,
    SERVER,
    alive,
    both,
    expect_master,
    expectation,
    helper,
    mark,
    original,
    ports,
    reply,
    snat,
    tcp,
    udp,
)
from tests.kernel.namespaces import Capture, HotBackup, Namespace, selector, table
from tests.kernel.test_expectations import FTP, PLAIN, put_expectation

pytestmark = pytest.mark.kernel

Pair = tuple[Namespace, Namespace]
TCP, UDP, GRE = 6, 17, 47


async def test_disable_window_tracking(pair: Pair) -> None:
    """Of what is replicated by TCP window tracking goes, and nothing else."""
    kernel, _ = pair
    kernel.put(both(TCP, 1, 80) + alive() + tcp(flags=(0x03, 0x21)) + mark(3))
    kernel.put(udp(2))
    kernel.put(original(INNER, SERVER, TCP, ports(9, 80)) + reply(SERVER, INNER, TCP, ports(80, 9)) + alive() + tcp())
    before = await table(kernel)
    chosen = selector()
    chosen.excluded = frozenset({ip_address(INNER).packed})
    with kernel:
        await leftover_entries.disable_window_tracking(kernel.injector, chosen)
    after = await table(kernel)
    assert before[1].tcp is not None
    loose = replace(before[1], tcp=before[1].tcp | {"flags_original": 0x0B, "flags_reply": 0x29})
    wanted = before | {1: loose}
    assert {port: replace(flow, timeout=wanted[port].timeout) for port, flow in after.items()} == wanted


@pytest.mark.parametrize(("keep_held", "stays"), [(True, {1, 2, 9}), (False, {9})])
async def test_purge(pair: Pair, keep_held: bool, stays: set[int]) -> None:
    """What is replicated and not held goes; what ends at this host is its own."""
    active, backup = pair
    active.put(udp(1))
    active.put(udp(2, mark(3)))
    store = await active.snapshot()
    await backup.commit(store)
    backup.put(udp(3))
    backup.put(both(TCP, 4, 80) + alive() + tcp() + snat(OUTSIDE, 7))
    backup.put(original(INNER, SERVER, UDP, ports(9, 53)) + reply(SERVER, INNER, UDP, ports(53, 9)) + alive())
    assert set(await table(backup)) == {1, 2, 3, 4, 9}
    chosen = selector()
    chosen.excluded = frozenset({ip_address(INNER).packed})
    with backup:
        await leftover_entries.purge(store, backup.injector, chosen, outcome := InjectionOutcome(), keep_held=keep_held)
    assert set(await table(backup)) == stays
    assert (outcome.deleted, outcome.failed) == (5 - len(stays), {})


@pytest.mark.parametrize("keep_held", [True, False], ids=["hot", "warm"])
async def test_purge_of_expectations(pair: Pair, keep_held: bool) -> None:
    """One that ended while nobody listened would stay for as long as timers are pinned."""
    active, backup = pair
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    active.put(FTP)
    put_expectation(active, PLAIN)
    active.put(both(TCP, 5002, 21) + alive() + tcp() + helper("ftp"))
    other = expectation(master=expect_master(CLIENT, SERVER, TCP, ports(5002, 21)), dport=20001)
    put_expectation(active, other)
    capture.take()
    await hot.apply()
    active.put(other, kind=uapi.EXP_DELETE, flags=0)
    store = await active.snapshot()
    with backup:
        await leftover_entries.purge(
            store, backup.injector, selector(), outcome := InjectionOutcome(), keep_held=keep_held
        )
    assert not outcome.failed
    there = [expected.expected["dport"] for expected in (await backup.snapshot()).decoded_expectations()]
    assert there == ([20000] if keep_held else [])
