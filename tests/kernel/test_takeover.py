"""What follows an injection: a kernel that follows the store, timers, nothing stale, GRE kept alive."""

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio

from ftfw.daemon import after_takeover, commit, gre_keeper, hot_kernel, leftover_entries, ordered_injection
from ftfw.kernel import uapi
from ftfw.kernel.attributes import u16, u32
from ftfw.kernel.create import ENDING_S, PINNED_S, Timeouts
from ftfw.kernel.flow_model import Flow
from ftfw.kernel.injector import RESOLVE_BATCH, InjectionOutcome, Injector, in_order
from ftfw.replication.store import Store
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
    labels,
    mark,
    master,
    original,
    ports,
    reply,
    snat,
    tcp,
    zone,
)
from tests.kernel.namespaces import LIMIT_S, Capture, Namespace, selector
from tests.kernel.test_expectations import FTP, PLAIN, put_expectation
from tests.kernel.test_round_trip import LABEL_RULES, LABELS, comparable

pytestmark = pytest.mark.kernel

Pair = tuple[Namespace, Namespace]
TCP, UDP, GRE = 6, 17, 47
GRE_HEADER = bytes(4)


def udp(port: int, rest: bytes = b"") -> bytes:
    return both(UDP, port, 53) + alive() + rest


def sports(flows: list[Flow]) -> list[object]:
    return sorted((flow.original["sport"] for flow in flows), key=str)


async def table(namespace: Namespace) -> dict[object, Flow]:
    """The kernel's flows by source port (or GRE key)."""
    flows = (await namespace.snapshot()).flows()
    return {flow.original.get("sport", flow.original.get("src_key")): flow for flow in flows}


async def follow(namespace: Namespace, store: Store) -> InjectionOutcome:
    outcome = InjectionOutcome()
    with namespace:
        await hot_kernel.apply_to_kernel(store, namespace.injector, outcome)
    return outcome


def left(flow: Flow) -> int:
    assert flow.timeout is not None
    return flow.timeout


async def test_a_hot_kernel_follows_the_store(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    active.put(udp(1))
    active.put(udp(2))
    active.put(FTP + snat(OUTSIDE, 7))
    put_expectation(active, PLAIN)
    outcome = await follow(backup, capture.take())
    assert (outcome.created, outcome.failed, outcome.remedied) == (4, {}, {})
    assert all(left(flow) > PINNED_S - 3 for flow in (await table(backup)).values())
    (expected,) = (await backup.snapshot()).decoded_expectations()
    assert expected.timeout is not None
    assert expected.timeout > PINNED_S - 3

    active.put(both(UDP, 1, 53), kind=uapi.CT_DELETE, flags=0)
    active.change(both(UDP, 2, 53) + mark(5))
    active.put(PLAIN, kind=uapi.EXP_DELETE, flags=0)
    outcome = await follow(backup, capture.take())
    assert (outcome.created, outcome.updated, outcome.deleted, outcome.failed) == (0, 1, 2, {})
    there = await table(backup)
    assert set(there) == {2, 5000}
    assert there[2].mark == 5
    assert left(there[2]) > PINNED_S - 3
    assert not (await backup.snapshot()).expectations

    assert await follow(backup, capture.take()) == InjectionOutcome()  # nothing is done twice


async def test_a_hot_kernel_loses_a_master_with_all_that_is_its(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    active.put(FTP)
    put_expectation(active, PLAIN)
    await follow(backup, capture.take())
    active.put(both(TCP, 5000, 21), kind=uapi.CT_DELETE, flags=0)
    await capture.until(lambda store: not store.expectations and not store.flow_count())
    outcome = await follow(backup, capture.store)
    assert not outcome.failed
    store = await backup.snapshot()
    assert (store.flow_count(), len(store.expectations)) == (0, 0)


async def test_a_tuple_that_is_used_again_becomes_the_new_flow(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    active.put(both(TCP, 5000, 21) + alive() + tcp("TIME_WAIT") + snat(OUTSIDE, 7) + mark(1))
    await follow(backup, capture.take())
    active.put(both(TCP, 5000, 21), kind=uapi.CT_DELETE, flags=0)
    active.put(both(TCP, 5000, 21) + alive() + tcp("SYN_SENT") + snat(OUTSIDE, 8) + helper("ftp"))
    await follow(backup, capture.take())
    assert comparable(await backup.flow()) == comparable(next(capture.store.flows()))
    assert (await backup.flow()).mark is None


async def test_a_master_that_is_created_anew_keeps_what_it_expects(pair: Pair) -> None:
    active, backup = pair
    backup.nft(LABEL_RULES)
    capture = Capture(active, journal=True)
    active.put(FTP)
    put_expectation(active, PLAIN)
    await follow(backup, capture.take())
    backup.change(both(TCP, 5000, 21) + labels(LABELS))  # cannot be taken away again
    active.change(both(TCP, 5000, 21) + mark(1))
    outcome = await follow(backup, capture.take())
    assert (outcome.deleted, outcome.failed) == (1, {})
    assert len((await backup.snapshot()).expectations) == 1


async def test_refresh_pins(pair: Pair) -> None:
    """Timers are wound up again, those of GRE too although they cannot be set."""
    active, backup = pair
    active.put(udp(1))
    active.put(both(TCP, 2, 80) + alive() + tcp() + mark(3))
    active.put(both(GRE, 5, 5) + alive())
    store = await active.snapshot()
    await backup.commit(store)
    assert max(map(left, (await table(backup)).values())) < PINNED_S - 3
    with backup:
        await hot_kernel.refresh_pins(store, backup.injector, InjectionOutcome())
    there = await table(backup)
    assert set(there) == {1, 2, 5}
    assert min(map(left, there.values())) > PINNED_S - 3


async def test_restoring_timeouts_gives_each_timer_what_its_state_would(pair: Pair) -> None:
    active, backup = pair
    active.put(udp(1))
    active.put(udp(2))
    active.put(both(TCP, 3, 80) + alive() + tcp())
    active.put(both(TCP, 4, 80) + alive(timeout=50) + tcp("TIME_WAIT"))
    active.put(both(GRE, 5, 5) + alive())
    active.put(FTP)
    put_expectation(active, PLAIN, 60)
    store = await active.snapshot()
    follower = Store(journal=True)
    follower.begin_snapshot()
    follower.add_snapshot(await active.dump())
    follower.end_snapshot()
    await follow(backup, follower)
    backup.put(udp(6) + u32(uapi.CTA_TIMEOUT, PINNED_S))  # an earlier daemon's
    backup.change(both(UDP, 2, 53) + u32(uapi.CTA_TIMEOUT, 77))  # as a packet has set it
    with backup:
        await after_takeover.restore_timeouts(store, backup.injector, selector(), outcome := InjectionOutcome())
    assert outcome == InjectionOutcome()
    there = await table(backup)
    defaults = Timeouts()
    for sport, seconds in (
        (1, defaults.udp_stream),
        (2, 77),
        (3, defaults.tcp_established),
        (4, 50),
        (5, defaults.gre_stream),
        (6, defaults.udp_stream),
        (5000, defaults.tcp_established),
    ):
        assert seconds - 3 <= left(there[sport]) <= seconds, sport
    (expected,) = (await backup.snapshot()).decoded_expectations()
    assert expected.timeout is not None
    assert expected.timeout <= 60


async def test_restoring_timeouts_takes_what_an_earlier_daemon_left_for_its_own(pair: Pair) -> None:
    """A hot backup was killed and started as active: it holds nothing, its kernel has two weeks for everything."""
    active, backup = pair
    capture = Capture(active, journal=True)
    active.put(udp(1))
    active.put(both(TCP, 2, 80) + alive() + tcp("FIN_WAIT") + mark(3))
    active.put(both(GRE, 5, 5) + alive())
    active.put(FTP + zone(9))
    put_expectation(active, PLAIN + u16(uapi.CTA_EXPECT_ZONE, 9))
    await follow(backup, capture.take())
    with backup:
        await after_takeover.restore_timeouts(Store(), backup.injector, selector(), outcome := InjectionOutcome())
    assert outcome == InjectionOutcome()
    there = await table(backup)
    defaults = Timeouts()
    for sport, seconds in (
        (1, defaults.udp_stream),
        (2, ENDING_S),
        (5, defaults.gre_stream),
        (5000, defaults.tcp_established),
    ):
        assert seconds - 3 <= left(there[sport]) <= seconds, sport
    assert there[2].mark == 3
    (expected,) = (await backup.snapshot()).decoded_expectations()
    assert expected.timeout is not None
    assert expected.timeout <= 300


async def test_restoring_timeouts_puts_in_what_somebody_has_removed(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    active.put(FTP)
    put_expectation(active, PLAIN)
    active.put(both(TCP, 5001, 20000) + alive() + tcp() + master(CLIENT, SERVER, TCP, ports(5000, 21)))
    active.put(udp(1))
    active.put(both(UDP, 2, 53) + alive() + snat(OUTSIDE, 7))
    await follow(backup, capture.take())
    backup.run("conntrack", "-F")
    backup.put(both(UDP, 3, 53) + alive() + snat(OUTSIDE, 7))  # traffic that came since: it keeps its place
    with backup:
        await after_takeover.restore_timeouts(capture.store, backup.injector, selector(), outcome := InjectionOutcome())
    assert (outcome.created, outcome.deleted, outcome.failed) == (4, 0, {"exists": 1})
    there = await table(backup)
    assert set(there) == {1, 3, 5000, 5001}
    assert there[5001].master == there[5000].original
    assert left(there[1]) <= Timeouts().udp_stream
    assert len((await backup.snapshot()).expectations) == 1


async def test_what_was_refused_is_tried_again_at_a_promotion(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    active.put(FTP)
    await follow(backup, capture.take())
    backup.put(both(TCP, 5000, 21), kind=uapi.CT_DELETE, flags=0)
    put_expectation(active, PLAIN)
    capture.take().take_changes()
    capture.store.put_back(set(capture.store.expectations))  # and not the master, which was read along
    outcome = await follow(backup, capture.store)
    assert outcome.failed == {"expectation_not_found": 1}
    backup.put(FTP)
    again = InjectionOutcome()
    await hot_kernel.commit_remaining(capture.store, backup.injector, again, outcome.refused)
    assert (again.created, again.failed) == (1, {})
    assert len((await backup.snapshot()).expectations) == 1


async def test_restoring_timeouts_does_not_bring_back_an_expectation_that_was_met(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    active.put(FTP)
    put_expectation(active, PLAIN)
    await follow(backup, capture.take())
    backup.put(PLAIN, kind=uapi.EXP_DELETE, flags=0)  # as its flow does when it comes
    with backup:
        await after_takeover.restore_timeouts(capture.store, backup.injector, selector(), InjectionOutcome())
    assert not (await backup.snapshot()).expectations


async def snapshot_without_masters(pair: Pair) -> tuple[Store, list[bytes]]:
    """A store in the middle of a snapshot that has brought what needs a master, and the masters' part."""
    active, _ = pair
    active.put(FTP)
    active.put(both(TCP, 5001, 20000) + alive() + tcp() + master(CLIENT, SERVER, TCP, ports(5000, 21)))
    put_expectation(active, PLAIN)
    dumped = await active.dump()
    masters = [message for message in dumped if b"ftp\0" in message and message[5] == uapi.CT_NEW >> 8]
    assert len(masters) == 1
    store = Store(journal=True)
    store.begin_snapshot()
    store.add_snapshot([message for message in dumped if message not in masters])
    return store, masters


async def test_what_needs_a_master_waits_for_the_snapshots_end(pair: Pair) -> None:
    _, backup = pair
    store, masters = await snapshot_without_masters(pair)
    assert await follow(backup, store) == InjectionOutcome()
    store.add_snapshot(masters)
    store.end_snapshot()
    outcome = await follow(backup, store)
    assert (outcome.created, outcome.failed, outcome.remedied) == (3, {}, {})
    assert (await table(backup))[5001].master == (await table(backup))[5000].original


async def test_a_promotion_in_a_snapshot_waits_for_no_master(pair: Pair) -> None:
    _, backup = pair
    store, _ = await snapshot_without_masters(pair)
    outcome = InjectionOutcome()
    with backup:
        await hot_kernel.commit_remaining(store, backup.injector, outcome, set())
    assert outcome.remedied == {"master_missing": 1}
    assert outcome.failed == {"expectation_not_found": 1}
    assert set(await table(backup)) == {5001}


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
    active.put(FTP)
    put_expectation(active, PLAIN)
    active.put(both(TCP, 5002, 21) + alive() + tcp() + helper("ftp"))
    other = expectation(master=expect_master(CLIENT, SERVER, TCP, ports(5002, 21)), dport=20001)
    put_expectation(active, other)
    await follow(backup, capture.take())
    active.put(other, kind=uapi.EXP_DELETE, flags=0)
    store = await active.snapshot()
    with backup:
        await leftover_entries.purge(
            store, backup.injector, selector(), outcome := InjectionOutcome(), keep_held=keep_held
        )
    assert not outcome.failed
    there = [expected.expected["dport"] for expected in (await backup.snapshot()).decoded_expectations()]
    assert there == ([20000] if keep_held else [])


async def test_commit_remaining_brings_what_came_last(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    active.put(udp(1))
    await follow(backup, capture.take())
    active.put(udp(2))
    outcome = InjectionOutcome()
    await hot_kernel.commit_remaining(capture.take(), backup.injector, outcome, set())
    assert (outcome.created, set(await table(backup))) == (1, {1, 2})


async def test_progress_tells_of_everything_that_is_tried(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "PROGRESS_S", 0.0)
    active, backup = pair
    for port in range(3):
        active.put(udp(port))
    store = await active.snapshot()
    told: list[dict[str, int]] = []

    async def progress(step: dict[str, int]) -> None:
        told.append(step)
        await trio.lowlevel.checkpoint()

    outcome = InjectionOutcome()
    await commit.commit(store, backup.injector, outcome, progress)
    assert told[-1] == {"done": 3, "total": 3}
    assert outcome.created == 3


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
    backup.injector = Injector(backup.requests, Timeouts(gre=3, gre_stream=3))
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


@pytest.mark.parametrize("work", ["refresh_pins", "restore_timeouts"])
async def test_a_gre_flow_is_not_lost_when_its_new_timer_is_interrupted(
    pair: Pair, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    active.put(both(GRE, 5, 5) + alive())
    await follow(backup, capture.take())
    delete = backup.injector.delete
    with backup, trio.CancelScope() as scope:

        async def delete_and_end(keys: Iterable[bytes], outcome: InjectionOutcome) -> None:
            await delete(keys, outcome)
            scope.cancel()

        monkeypatch.setattr(backup.injector, "delete", delete_and_end)
        if work == "refresh_pins":
            await hot_kernel.refresh_pins(capture.store, backup.injector, InjectionOutcome())
        else:
            await after_takeover.restore_timeouts(capture.store, backup.injector, selector(), InjectionOutcome())
    assert scope.cancelled_caught
    assert set(await table(backup)) == {5}


async def test_a_read_only_sysctl_costs_gre_its_counters_and_nothing_else(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_path: Path, _text: str) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    active, backup = pair
    active.put(udp(1))
    active.put(both(GRE, 5, 5) + alive())
    store = await active.snapshot()
    monkeypatch.setattr(Path, "write_text", refuse)
    outcome = await backup.commit(store)
    assert (outcome.created, outcome.failed) == (2, {})
    assert "nf_conntrack_acct = 1" in caplog.text


async def test_sorting_lets_others_work(pair: Pair) -> None:
    active, _ = pair
    active.put(FTP)
    active.put(both(TCP, 5001, 20000) + alive() + tcp() + master(CLIENT, SERVER, TCP, ports(5000, 21)))
    (related,) = [flow for flow in (await active.snapshot()).rich.items() if b"ftp\0" not in flow[1]]
    key, value = related
    many = [(key.replace((5001).to_bytes(2, "big"), n.to_bytes(2, "big")), value) for n in range(6000, 8000)]
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        assert len((await ordered_injection.sort_flows(many)).related) == 2000
        assert turns >= 2000 // ordered_injection.SORTED_AT_ONCE // 2
        turns = 0
        assert len(await in_order(many)) == 2000
        assert turns >= 2000 // RESOLVE_BATCH
        nursery.cancel_scope.cancel()


async def test_gre_without_counters_would_not_be_known_to_live(pair: Pair) -> None:
    """Entries count only if they were made while nf_conntrack_acct was set: a commit sees to that."""
    _, backup = pair
    await gre_pair(pair)
    listed = backup.run("conntrack", "-L", "-p", "gre")
    assert "packets=0" in listed
