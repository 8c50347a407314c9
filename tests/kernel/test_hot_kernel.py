"""A hot backup's kernel follows the store, on a real kernel."""

from ipaddress import ip_address
from typing import Any

import pytest
import trio

from ftfw.kernel import uapi
from ftfw.kernel.attributes import u32
from ftfw.kernel.create import PINNED_S
from ftfw.kernel.injector import InjectionOutcome
from ftfw.replication.injection_plan import CHANGES_AT_ONCE
from ftfw.replication.store import Store
from tests.kernel.entries import (
    CLIENT,
    INNER,
    OUTSIDE,
    SERVER,
    alive,
    both,
    dnat,
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
    udp,
)
from tests.kernel.namespaces import Capture, HotBackup, Namespace, left, table
from tests.kernel.test_expectations import FTP, PLAIN, put_expectation
from tests.kernel.test_round_trip import LABEL_RULES, LABELS, comparable

pytestmark = pytest.mark.kernel

Pair = tuple[Namespace, Namespace]
TCP, UDP, GRE = 6, 17, 47


async def test_a_hot_kernel_follows_the_store(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    active.put(udp(1))
    active.put(udp(2))
    active.put(FTP + snat(OUTSIDE, 7))
    put_expectation(active, PLAIN)
    capture.take()
    outcome = await hot.apply()
    assert (outcome.created, outcome.failed, outcome.remedied) == (4, {}, {})
    assert all(left(flow) > PINNED_S - 3 for flow in (await table(backup)).values())
    (expected,) = (await backup.snapshot()).decoded_expectations()
    assert expected.timeout is not None
    assert expected.timeout > PINNED_S - 3

    active.put(both(UDP, 1, 53), kind=uapi.CT_DELETE, flags=0)
    active.change(both(UDP, 2, 53) + mark(5))
    active.put(PLAIN, kind=uapi.EXP_DELETE, flags=0)
    capture.take()
    outcome = await hot.apply()
    assert (outcome.created, outcome.updated, outcome.deleted, outcome.failed) == (0, 1, 2, {})
    there = await table(backup)
    assert set(there) == {2, 5000}
    assert there[2].mark == 5
    assert left(there[2]) > PINNED_S - 3
    assert not (await backup.snapshot()).expectations

    capture.take()
    assert await hot.apply() == InjectionOutcome()  # nothing is done twice


async def test_a_hot_kernel_loses_a_master_with_all_that_is_its(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    active.put(FTP)
    put_expectation(active, PLAIN)
    capture.take()
    await hot.apply()
    active.put(both(TCP, 5000, 21), kind=uapi.CT_DELETE, flags=0)
    await capture.until(lambda store: not store.expectations and not store.flow_count())
    outcome = await hot.apply()
    assert not outcome.failed
    store = await backup.snapshot()
    assert (store.flow_count(), len(store.expectations)) == (0, 0)


async def test_a_tuple_that_is_used_again_becomes_the_new_flow(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    active.put(both(TCP, 5000, 21) + alive() + tcp("TIME_WAIT") + snat(OUTSIDE, 7) + mark(1))
    capture.take()
    await hot.apply()
    active.put(both(TCP, 5000, 21), kind=uapi.CT_DELETE, flags=0)
    active.put(both(TCP, 5000, 21) + alive() + tcp("SYN_SENT") + snat(OUTSIDE, 8) + helper("ftp"))
    capture.take()
    await hot.apply()
    assert comparable(await backup.flow()) == comparable(next(capture.store.flows()))
    assert (await backup.flow()).mark is None


async def test_a_master_that_is_created_anew_keeps_what_it_expects(pair: Pair) -> None:
    active, backup = pair
    backup.nft(LABEL_RULES)
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    active.put(FTP)
    put_expectation(active, PLAIN)
    capture.take()
    await hot.apply()
    backup.change(both(TCP, 5000, 21) + labels(LABELS))  # cannot be taken away again
    active.change(both(TCP, 5000, 21) + mark(1))
    capture.take()
    outcome = await hot.apply()
    assert (outcome.deleted, outcome.failed) == (1, {})
    assert len((await backup.snapshot()).expectations) == 1


async def test_refresh_pins(pair: Pair) -> None:
    """Timers are pinned again, those of GRE too although they cannot be set."""
    active, backup = pair
    active.put(udp(1))
    active.put(both(TCP, 2, 80) + alive() + tcp() + mark(3))
    active.put(both(GRE, 5, 5) + alive())
    store = await active.snapshot()
    await backup.commit(store)
    assert max(map(left, (await table(backup)).values())) < PINNED_S - 3
    with backup:
        await HotBackup(backup, store).kernel.refresh_pins()
    there = await table(backup)
    assert set(there) == {1, 2, 5}
    assert min(map(left, there.values())) > PINNED_S - 3


async def test_what_was_refused_is_tried_again_at_a_promotion(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    active.put(FTP)
    capture.take()
    await hot.apply()
    backup.put(both(TCP, 5000, 21), kind=uapi.CT_DELETE, flags=0)
    put_expectation(active, PLAIN)
    capture.store.apply(capture.events.drain(10))  # as they are: the master is not read along
    outcome = await hot.apply()
    assert outcome.failed == {"expectation_not_found": 1}
    backup.put(FTP)
    outcome = await hot.commit_remaining()
    assert (outcome.created, outcome.failed) == (1, {})
    assert len((await backup.snapshot()).expectations) == 1


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
    hot = HotBackup(backup, store)
    assert await hot.apply() == InjectionOutcome()
    store.add_snapshot(masters)
    store.end_snapshot()
    outcome = await hot.apply()
    assert (outcome.created, outcome.failed, outcome.remedied) == (3, {}, {})
    assert (await table(backup))[5001].master == (await table(backup))[5000].original


@pytest.mark.parametrize("applied", [False, True])
async def test_a_promotion_in_a_snapshot_waits_for_no_master(pair: Pair, applied: bool) -> None:
    _, backup = pair
    store, _ = await snapshot_without_masters(pair)
    hot = HotBackup(backup, store)
    if applied:
        await hot.apply()
    store.abort_snapshot()  # as the end of following does
    outcome = await hot.commit_remaining()
    assert outcome.remedied == {"master_missing": 1}
    assert outcome.failed == {"expectation_not_found": 1}
    assert set(await table(backup)) == {5001}


async def test_a_promotion_brings_what_came_last(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    active.put(udp(1))
    capture.take()
    await hot.apply()
    active.put(udp(2))
    capture.take()
    outcome = await hot.commit_remaining()
    assert (outcome.created, set(await table(backup))) == (1, {1, 2})


async def test_a_promotion_waits_for_one_step_and_goes_on_behind_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand changes that are on their way into the kernel must not hold a promotion up."""
    active, backup = pair
    store = Store(journal=True)
    for port in range(3 * CHANGES_AT_ONCE):
        active.put(udp(port))
    active.put(FTP)
    active.put(both(TCP, 5001, 20000) + alive() + tcp() + master(CLIENT, SERVER, TCP, ports(5000, 21)))
    store.begin_snapshot()
    store.add_snapshot(await active.dump())
    store.end_snapshot()
    hot = HotBackup(backup, store)
    create = backup.injector.create
    with trio.CancelScope() as scope:

        async def create_and_end(*arguments: Any, **how: Any) -> None:
            await create(*arguments, **how)
            scope.cancel()

        monkeypatch.setattr(backup.injector, "create", create_and_end)
        await hot.apply()
    assert scope.cancelled_caught
    begun = len(await table(backup))
    assert 0 < begun <= CHANGES_AT_ONCE, "the step that was under way, and no other"
    monkeypatch.undo()
    outcome = await hot.commit_remaining()
    there = await table(backup)
    assert len(there) == 3 * CHANGES_AT_ONCE + 2
    assert (outcome.created, outcome.updated) == (len(there) - begun, 0), "nothing is done twice"
    assert (outcome.failed, outcome.remedied) == ({}, {})


# The backup's own connections

OWN = frozenset({ip_address(INNER).packed})


def own_connection(sport: int, rest: bytes = b"") -> bytes:
    """A connection of the host with the address INNER, as that host tracks it."""
    tuples = original(INNER, SERVER, TCP, ports(sport, 80)) + reply(SERVER, INNER, TCP, ports(80, sport))
    return tuples + alive() + tcp() + rest


def to_own(sport: int, rest: bytes = b"") -> bytes:
    """A connection to the host with the address INNER, which the active translates."""
    tuples = original(CLIENT, OUTSIDE, TCP, ports(sport, 22)) + reply(OUTSIDE, CLIENT, TCP, ports(22, sport))
    return tuples + alive() + tcp() + dnat(INNER, 22) + rest


async def streamed(active: Namespace, *flows: bytes) -> Capture:
    capture = Capture(active, journal=True)
    for flow in flows:
        active.put(flow)
    capture.take()
    return capture


async def test_a_backups_own_connection_through_the_active_stays_as_it_is(pair: Pair) -> None:
    """The active translates it, the backup does not: with the active's entry the backup would drop the answers."""
    active, backup = pair
    capture = await streamed(active, own_connection(1, snat(OUTSIDE, 7)), to_own(2), udp(3))
    backup.put(own_connection(1))
    before = comparable((await table(backup))[1])
    hot = HotBackup(backup, capture.store)
    hot.selector.excluded = OWN
    outcome = await hot.apply()
    assert (outcome.created, outcome.updated, outcome.deleted, outcome.failed) == (1, 0, 0, {})
    there = await table(backup)
    assert set(there) == {1, 3}
    assert comparable(there[1]) == before

    active.change(original(INNER, SERVER, TCP, ports(1, 80)) + mark(5))
    capture.take()
    with backup:
        await hot.kernel.refresh_pins()
    assert await hot.apply() == InjectionOutcome()
    assert left((await table(backup))[1]) < PINNED_S - 3, "its timer is not pinned"

    active.put(original(INNER, SERVER, TCP, ports(1, 80)), kind=uapi.CT_DELETE, flags=0)
    active.put(original(CLIENT, OUTSIDE, TCP, ports(2, 22)), kind=uapi.CT_DELETE, flags=0)
    capture.take()
    assert await hot.apply() == InjectionOutcome()
    assert comparable((await table(backup))[1]) == before, "that it ended on the active changes nothing here"


async def test_another_hosts_connection_is_put_in(pair: Pair) -> None:
    """The control: the same flows where INNER is no address of the backup."""
    active, backup = pair
    capture = await streamed(active, own_connection(1, snat(OUTSIDE, 7)), to_own(2))
    backup.put(own_connection(1))
    outcome = await HotBackup(backup, capture.store).apply()
    assert (outcome.created, outcome.deleted, outcome.failed) == (2, 1, {})
    there = await table(backup)
    assert there[1].reply["dst"] == OUTSIDE
    assert there[2].reply["src"] == INNER


async def test_what_was_held_back_is_put_in_at_a_promotion(pair: Pair) -> None:
    active, backup = pair
    capture = await streamed(active, own_connection(1, snat(OUTSIDE, 7)), to_own(2))
    backup.put(own_connection(1))
    hot = HotBackup(backup, capture.store)
    hot.selector.excluded = OWN
    await hot.apply()
    outcome = await hot.commit_remaining()
    assert (outcome.created, outcome.deleted, outcome.failed) == (2, 1, {})
    there = await table(backup)
    assert there[1].reply["dst"] == OUTSIDE
    assert there[2].reply["src"] == INNER
    assert max(map(left, there.values())) < PINNED_S - 3, (
        "the pass that restores timeouts leaves this host's flows alone"
    )


async def test_expectations_of_an_own_connection_are_held_back_with_it(pair: Pair) -> None:
    active, backup = pair
    control = original(INNER, SERVER, TCP, ports(5000, 21)) + reply(SERVER, INNER, TCP, ports(21, 5000))
    expected = expectation(master=expect_master(INNER, SERVER, TCP, ports(5000, 21)), destination=INNER)
    capture = Capture(active, journal=True)
    active.put(control + alive() + tcp() + helper("ftp"))
    put_expectation(active, expected)
    capture.take()
    hot = HotBackup(backup, capture.store)
    hot.selector.excluded = OWN
    assert await hot.apply() == InjectionOutcome()
    outcome = await hot.commit_remaining()
    assert (outcome.created, outcome.failed) == (2, {})
    assert len((await backup.snapshot()).expectations) == 1


async def test_an_address_that_comes_takes_its_flows_out_and_one_that_goes_puts_them_in(pair: Pair) -> None:
    active, backup = pair
    capture = await streamed(active, own_connection(1, snat(OUTSIDE, 7)), own_connection(2), to_own(3), udp(4))
    hot = HotBackup(backup, capture.store)
    await hot.apply()
    assert set(await table(backup)) == {1, 2, 3, 4}
    backup.change(original(INNER, SERVER, TCP, ports(2, 80)) + u32(uapi.CTA_TIMEOUT, 77))  # as a packet sets it

    hot.selector.excluded = OWN
    outcome = await hot.apply()
    assert (outcome.deleted, outcome.created, outcome.failed) == (2, 0, {})
    assert set(await table(backup)) == {2, 4}, "traffic has used number 2: it may be a connection of the backup itself"
    active.put(own_connection(5))
    capture.take()
    assert await hot.apply() == InjectionOutcome()

    hot.selector.excluded = frozenset()
    outcome = await hot.apply()
    assert (outcome.created, outcome.failed) == (3, {})
    assert set(await table(backup)) == {1, 2, 3, 4, 5}
