"""Expectations from one kernel to another."""

from dataclasses import replace
from typing import Any

import pytest

from ftfw.kernel import uapi
from ftfw.kernel.attributes import u16, u32
from ftfw.kernel.create import PINNED_S
from ftfw.kernel.flow_model import Expectation
from ftfw.kernel.injector import InjectionOutcome
from ftfw.replication.store import Store
from tests.kernel.entries import (
    CLIENT,
    CLIENT6,
    OUTSIDE,
    SERVER,
    SERVER6,
    alive,
    both,
    expect_function,
    expect_master,
    expect_nat,
    expectation,
    helper,
    original,
    ports,
    reply,
    seq_adjust,
    snat,
    tcp,
    zone,
)
from tests.kernel.namespaces import Capture, Namespace

pytestmark = pytest.mark.kernel

Pair = tuple[Namespace, Namespace]
TCP, UDP = 6, 17
FTP = both(TCP, 5000, 21) + alive() + tcp() + helper("ftp")
FTP6 = both(TCP, 5000, 21, v6=True) + alive() + tcp() + helper("ftp")
SIP = both(UDP, 5060, 5060) + alive() + helper("sip")
OF_FTP = expect_master(CLIENT, SERVER, TCP, ports(5000, 21))
OF_FTP6 = expect_master(CLIENT6, SERVER6, TCP, ports(5000, 21))
OF_SIP = expect_master(CLIENT, SERVER, UDP, ports(5060, 5060))
PLAIN = expectation(master=OF_FTP)
FOLLOW = expect_function("nat-follow-master")
NAT = expect_nat(1, CLIENT, "0.0.0.0", TCP, ports(20000, 0))
BACK_TO_CLIENT = {"src": CLIENT, "dst": "0.0.0.0", "sport": 20000, "dport": 0}
SHIFTED = seq_adjust(uapi.CTA_SEQ_ADJ_ORIG, 1, 0, 3)


def put_expectation(namespace: Namespace, body: bytes, seconds: int | None = None) -> None:
    """Create an expectation; the timeout is taken from a second message only."""
    namespace.put(body, kind=uapi.EXP_NEW)
    if seconds is not None:
        namespace.put(body + u32(uapi.CTA_EXPECT_TIMEOUT, seconds), kind=uapi.EXP_NEW, flags=0)


def only(store: Store) -> Expectation:
    (found,) = store.decoded_expectations()
    return found


ROWS: dict[str, tuple[bytes, bytes, dict[str, Any]]] = {
    "ftp": (
        FTP,
        PLAIN,
        {
            "expected": {"src": SERVER, "dst": CLIENT, "sport": 0, "dport": 20000},
            "mask": {"src": "0.0.0.0", "dst": "255.255.255.255", "sport": 0, "dport": 0xFFFF},
            "master": {"src": CLIENT, "dst": SERVER, "sport": 5000, "dport": 21},
            "class": 0,
            "flags": (),
            "helper": "ftp",
        },
    ),
    "full mask": (
        FTP,
        expectation(master=OF_FTP, mask=("255.255.255.255", "255.255.255.255", 0xFFFF, 0xFFFF), sport=20),
        {"mask": {"src": "255.255.255.255", "dst": "255.255.255.255", "sport": 0xFFFF, "dport": 0xFFFF}},
    ),
    "ftp v6": (
        FTP6,
        expectation(
            master=OF_FTP6,
            source=SERVER6,
            destination=CLIENT6,
            mask=("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0, 0xFFFF),
        ),
        {"family": "ipv6", "expected": {"src": SERVER6, "dst": CLIENT6, "sport": 0, "dport": 20000}},
    ),
    "flags": (
        FTP,
        PLAIN + u32(uapi.CTA_EXPECT_FLAGS, uapi.NF_CT_EXPECT_PERMANENT | uapi.NF_CT_EXPECT_INACTIVE),
        {"flags": ("permanent", "inactive")},
    ),
    "class": (
        SIP,
        expectation(master=OF_SIP, protocol=UDP, rest=u32(uapi.CTA_EXPECT_CLASS, 1)),
        {"class": 1, "protocol": "udp", "helper": "sip"},
    ),
    "function and translation": (
        FTP + snat(OUTSIDE, 7000),
        expectation(master=OF_FTP, destination=OUTSIDE, rest=FOLLOW + NAT),
        {"function": "nat-follow-master", "nat": BACK_TO_CLIENT},
    ),
    "sip's function": (
        SIP + snat(OUTSIDE, 7000),
        expectation(
            master=OF_SIP,
            destination=OUTSIDE,
            protocol=UDP,
            rest=u32(uapi.CTA_EXPECT_CLASS, 1)
            + expect_function("sip")
            + expect_nat(1, CLIENT, "0.0.0.0", UDP, ports(20000, 0)),
        ),
        {"function": "sip", "nat": BACK_TO_CLIENT, "class": 1},
    ),
    "zone of the master's original direction": (
        original(CLIENT, SERVER, TCP, ports(5000, 21), 5)
        + reply(SERVER, CLIENT, TCP, ports(21, 5000))
        + alive()
        + tcp()
        + helper("ftp"),
        PLAIN + u16(uapi.CTA_EXPECT_ZONE, 5),
        {"zone": 5},
    ),
    "zone": (FTP + zone(5), PLAIN + u16(uapi.CTA_EXPECT_ZONE, 5), {"zone": 5}),
}


@pytest.mark.parametrize("by", ["events", "snapshot"])
@pytest.mark.parametrize("name", ROWS)
async def test_round_trip(pair: Pair, name: str, by: str) -> None:
    active, backup = pair
    control, body, has = ROWS[name]
    capture = Capture(active)
    active.put(control)
    put_expectation(active, body)
    store = capture.take() if by == "events" else await active.snapshot()
    sent = only(store)
    assert has.items() <= sent.as_dict().items()
    for _ in ("created", "there already"):
        outcome = await backup.commit(store)
        assert (outcome.failed, outcome.remedied, outcome.deleted) == ({}, {}, 0)
        arrived = only(await backup.snapshot())
        assert replace(arrived, timeout=None) == replace(sent, timeout=None)


async def test_timeout(pair: Pair) -> None:
    """The kernel gives a new expectation its helper's timeout (ftp: 300 s), whatever is asked for."""
    active, backup = pair
    active.put(FTP)
    put_expectation(active, PLAIN, 47)
    store = await active.snapshot()
    await backup.commit(store)
    left = only(await backup.snapshot()).timeout
    assert left is not None
    assert 40 <= left <= 47
    expectations = [(key, value, b"") for key, value in store.expectations.items()]
    await backup.injector.create_expectations(expectations, InjectionOutcome(), pinned=True)
    left = only(await backup.snapshot()).timeout
    assert left is not None
    assert PINNED_S - 3 <= left <= PINNED_S


async def test_a_changed_expectation_is_told_by_the_next_snapshot(pair: Pair) -> None:
    """SIP changes flags and timeout without an event."""
    active, _ = pair
    capture = Capture(active)
    active.put(FTP)
    put_expectation(active, PLAIN)
    store = capture.take()
    active.put(PLAIN + u32(uapi.CTA_EXPECT_TIMEOUT, 40), kind=uapi.EXP_NEW, flags=0)
    capture.events.drain(10)
    store.begin_snapshot()
    store.add_snapshot(await active.dump())
    store.end_snapshot()
    left = only(store).timeout
    assert left is not None
    assert left <= 40


async def test_a_translation_without_its_function_is_left_out(pair: Pair) -> None:
    """Nothing would carry it out, and the kernel would drop the pending flow."""
    active, backup = pair
    active.put(FTP + snat(OUTSIDE, 7000))
    put_expectation(active, expectation(master=OF_FTP, rest=NAT))
    store = await active.snapshot()
    assert only(store).nat == BACK_TO_CLIENT
    await backup.commit(store)
    assert only(await backup.snapshot()).nat is None


@pytest.mark.parametrize(
    ("control", "reason"),
    [(None, "expectation_not_found"), (both(TCP, 5000, 21) + alive() + tcp(), "expectation_not_supported")],
    ids=["no master", "a master without helper"],
)
async def test_what_the_kernel_refuses_is_counted(pair: Pair, control: bytes | None, reason: str) -> None:
    active, backup = pair
    active.put(FTP)
    put_expectation(active, PLAIN)
    store = await active.snapshot()
    if control is not None:
        backup.put(control)
    store.rich.clear()
    outcome = await backup.commit(store)
    assert (outcome.created, outcome.failed) == (0, {reason: 1})


async def test_one_refused_does_not_cost_the_next(pair: Pair) -> None:
    active, backup = pair
    active.put(both(TCP, 5002, 21) + alive() + tcp() + helper("ftp"))
    put_expectation(active, expectation(master=expect_master(CLIENT, SERVER, TCP, ports(5002, 21)), dport=20002))
    active.put(FTP)
    put_expectation(active, PLAIN)
    store = await active.snapshot()
    del store.rich[next(key for key in store.rich if (5002).to_bytes(2, "big") in key)]
    outcome = await backup.commit(store)
    assert (outcome.created, outcome.failed) == (2, {"expectation_not_found": 1})
    assert only(await backup.snapshot()).expected["dport"] == 20000


async def test_removal(pair: Pair) -> None:
    active, backup = pair
    capture = Capture(active)
    active.put(FTP + zone(5))
    put_expectation(active, PLAIN + u16(uapi.CTA_EXPECT_ZONE, 5))
    store = capture.take()
    await backup.commit(store)
    outcome = InjectionOutcome()
    (key,) = store.expectations
    gone = [(key, store.zone_of(key))]
    await backup.injector.delete_expectations(gone, outcome)
    await backup.injector.delete_expectations(gone, outcome)  # that it is gone already is no failure
    assert (outcome.deleted, outcome.failed) == (1, {})
    assert not (await backup.snapshot()).expectations
    active.put(PLAIN + u16(uapi.CTA_EXPECT_ZONE, 5), kind=uapi.EXP_DELETE, flags=0)
    assert not capture.take().expectations


async def test_the_sequence_numbers_of_a_master_are_fetched_when_it_announces_a_flow(pair: Pair) -> None:
    """A helper that rewrites an announcement shifts them, and no event tells."""
    active, _ = pair
    capture = Capture(active)
    for number in (None, 5):
        where, expected_in = (zone(5), u16(uapi.CTA_EXPECT_ZONE, 5)) if number else (b"", b"")
        active.put(FTP + where)
        capture.take()
        active.change(both(TCP, 5000, 21) + where + SHIFTED)
        capture.events.drain(10)
        put_expectation(active, PLAIN + expected_in)
        held = {flow.zone: flow for flow in capture.take().flows()}[number]
        assert held.seq_adjust is not None
        assert held.seq_adjust["original"]["after"] == 3


async def test_a_pending_expectation_meets_its_flow(pair: Pair) -> None:
    """Real packets: a connection to where the expectation points is related, and has the master."""
    active, backup = pair
    active.put(FTP)
    put_expectation(
        active,
        expectation(
            master=OF_FTP,
            source=CLIENT,
            destination=SERVER,
            mask=("255.255.255.255", "255.255.255.255", 0, 0xFFFF),
        ),
    )
    backup.loop()
    await backup.commit(await active.snapshot())
    capture = Capture(backup)
    with backup.tcp_listener(SERVER, 20000), backup.tcp(CLIENT, 0, SERVER, 20000):
        store = await capture.until(lambda store: store.flow_count() > 0)
        (child,) = store.flows()
        assert child.master == {"src": CLIENT, "dst": SERVER, "sport": 5000, "dport": 21}
        assert not (await backup.snapshot()).expectations
