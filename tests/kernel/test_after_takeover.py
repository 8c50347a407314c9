"""What follows a promotion, on a real kernel."""

import sys

import pytest

from ftfw.daemon import after_takeover
from ftfw.kernel import entry_digest, uapi
from ftfw.kernel.attributes import u16, u32
from ftfw.kernel.create import ENDING_S, PINNED_S, Timeouts
from ftfw.kernel.injector import InjectionOutcome
from ftfw.replication.store import Store
from tests.kernel.entries import (
    CLIENT,
    OUTSIDE,
    SERVER,
    alive,
    both,
    mark,
    master,
    original,
    ports,
    snat,
    tcp,
    udp,
    zone,
)
from tests.kernel.namespaces import Capture, HotBackup, Namespace, left, selector, table
from tests.kernel.test_expectations import FTP, PLAIN, put_expectation

pytestmark = pytest.mark.kernel

Pair = tuple[Namespace, Namespace]
TCP, UDP, GRE = 6, 17, 47
DESTROYED = uapi.CT_DELETE.to_bytes(2, sys.byteorder)  # the type of a message about a flow's end


async def restore(namespace: Namespace, store: Store) -> InjectionOutcome:
    outcome = InjectionOutcome()
    with namespace:
        streamed = namespace.streamed_injector()
        await after_takeover.restore_timeouts(store, namespace.injector, streamed, selector(), outcome)
    return outcome


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
    await HotBackup(backup, follower).apply()
    backup.put(udp(6) + u32(uapi.CTA_TIMEOUT, PINNED_S))  # an earlier daemon's
    backup.change(both(UDP, 2, 53) + u32(uapi.CTA_TIMEOUT, 77))  # as a packet has set it
    outcome = await restore(backup, store)
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


async def test_restoring_timeouts_removes_what_a_promotion_had_no_time_to_remove(pair: Pair) -> None:
    """The flow that a packet has used lives on: it is no ghost, whatever the snapshot says."""
    active, backup = pair
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    for flow in (udp(1), udp(2), udp(3), FTP):
        active.put(flow)
    put_expectation(active, PLAIN)
    capture.take()
    await hot.apply()
    store = capture.store
    store.begin_snapshot()
    for port in (1, 2):
        active.put(original(CLIENT, SERVER, UDP, ports(port, 53)), kind=uapi.CT_DELETE, flags=0)
    store.add_snapshot([each for each in await active.dump() if each[5] == uapi.CT_NEW >> 8])  # no expectation
    store.remove_stale()
    await hot.commit_remaining()
    backup.change(both(UDP, 2, 53) + u32(uapi.CTA_TIMEOUT, 77))  # as a packet sets it
    events = backup.listen()
    await restore(backup, store)
    assert set(await table(backup)) == {2, 3, 5000}
    assert not (await backup.snapshot()).expectations
    ended = [each for each in events.drain(100) if each[4:6] == DESTROYED]
    assert len(ended) == 1, "the new backup hears of it"


async def test_restoring_timeouts_takes_what_an_earlier_daemon_left_for_its_own(pair: Pair) -> None:
    """A hot backup was killed and started as active: it holds nothing, its kernel has two weeks for everything."""
    active, backup = pair
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    active.put(udp(1))
    active.put(both(TCP, 2, 80) + alive() + tcp("FIN_WAIT") + mark(3))
    active.put(both(GRE, 5, 5) + alive())
    active.put(FTP + zone(9))
    put_expectation(active, PLAIN + u16(uapi.CTA_EXPECT_ZONE, 9))
    capture.take()
    await hot.apply()
    outcome = await restore(backup, Store())
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
    hot = HotBackup(backup, capture.store)
    active.put(FTP)
    put_expectation(active, PLAIN)
    active.put(both(TCP, 5001, 20000) + alive() + tcp() + master(CLIENT, SERVER, TCP, ports(5000, 21)))
    active.put(udp(1))
    active.put(both(UDP, 2, 53) + alive() + snat(OUTSIDE, 7))
    capture.take()
    await hot.apply()
    backup.run("conntrack", "-F")
    backup.put(both(UDP, 3, 53) + alive() + snat(OUTSIDE, 7))  # traffic that came since: it keeps its place
    outcome = await restore(backup, capture.store)
    assert (outcome.created, outcome.deleted, outcome.failed) == (4, 0, {"exists": 1})
    there = await table(backup)
    assert set(there) == {1, 3, 5000, 5001}
    assert there[5001].master == there[5000].original
    assert left(there[1]) <= Timeouts().udp_stream
    assert len((await backup.snapshot()).expectations) == 1


async def test_restoring_timeouts_does_not_bring_back_an_expectation_that_was_met(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active, journal=True)
    hot = HotBackup(backup, capture.store)
    active.put(FTP)
    put_expectation(active, PLAIN)
    capture.take()
    await hot.apply()
    backup.put(PLAIN, kind=uapi.EXP_DELETE, flags=0)  # as its flow does when it comes
    await restore(backup, capture.store)
    assert not (await backup.snapshot()).expectations


def compared(store: Store) -> dict[bytes, int]:
    """Return the digest of each flow: all that a compare of the protocol sees of it."""
    return dict(entry_digest.digests([*store.plain.items(), *store.rich.items()], bytes(entry_digest.SALT_SIZE)))


async def test_what_is_done_behind_a_promotion_is_streamed(pair: Pair) -> None:
    """A new backup that has its snapshot already hears of missing flows, and of GRE's new entries."""
    active, backup = pair
    active.put(udp(1))
    active.put(both(GRE, 5, 5) + alive())
    active.put(both(TCP, 2, 80) + alive() + tcp())
    store = await active.snapshot()
    follower = Store(journal=True)
    follower.begin_snapshot()
    follower.add_snapshot(await active.dump())
    follower.end_snapshot()
    await HotBackup(backup, follower).apply()
    backup.put(both(UDP, 1, 53), kind=uapi.CT_DELETE, flags=0)

    peer = Capture(backup)
    peer.store.begin_snapshot()
    peer.store.add_snapshot(await backup.dump())
    peer.store.end_snapshot()
    await restore(backup, store)
    assert compared(peer.take()) == compared(await backup.snapshot())
