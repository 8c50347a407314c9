"""What is selected of a real kernel's messages, and what the store of a backup then holds."""

import socket
from collections import Counter
from ipaddress import ip_address
from typing import Any
from unittest.mock import patch

import pytest

from ftfw.config.schema import Replicate
from ftfw.kernel import uapi
from ftfw.kernel.attributes import split, u16, u32
from ftfw.kernel.event_selector import key_in
from ftfw.kernel.flow_model import Flow
from ftfw.kernel.message_shapes import DESTROY, NEW, SHAPES, UPDATE, recognise
from ftfw.replication.store import Store
from tests.kernel.entries import (
    CLIENT,
    CLIENT6,
    CONFIRMED,
    EXPECTED,
    INNER,
    LIVE,
    OUTSIDE,
    SERVER,
    SERVER6,
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
    tcp,
    zone,
)
from tests.kernel.namespaces import Capture, namespaces, selector
from tests.unit.conntrack import MEASURED

pytestmark = pytest.mark.kernel

TCP = 6
FTP = both(TCP, 6000, 21) + alive() + tcp() + helper("ftp")
DATA = both(TCP, 5000, 20)
OF_FTP = master(CLIENT, SERVER, TCP, ports(6000, 21))
AWAITED = expectation(master=expect_master(CLIENT, SERVER, TCP, ports(6000, 21)))
LABEL = labels(b"\x08" + bytes(15))
KEEPS_LABELS = "table inet t { chain c { type filter hook forward priority 0; ct label 3 accept; }; }"


def only(**keys: Any) -> Replicate:
    return Replicate.model_validate(keys)


def flow_of(capture: Capture) -> Flow:
    (found,) = (flow for flow in capture.take().flows() if flow.original["sport"] == 5000)
    return found


def test_a_related_flow_that_passes_late_comes_with_all_there_is_of_it() -> None:
    with namespaces(1) as (active,):
        active.nft(KEEPS_LABELS)
        capture = Capture(active, only=only(tcp_states=["ESTABLISHED"]))
        active.put(FTP)
        active.put(DATA + alive(CONFIRMED) + tcp("SYN_SENT") + LABEL + OF_FTP)
        assert capture.take().flow_count() == 1
        active.change(DATA + u32(uapi.CTA_STATUS, LIVE | EXPECTED) + tcp())
        found = flow_of(capture)
        assert found.tcp is not None
        assert found.tcp["state"] == "ESTABLISHED"
        assert found.labels is not None
        assert found.master == {"src": CLIENT, "dst": SERVER, "sport": 6000, "dport": 21}


@pytest.mark.parametrize("half", [False, True])
def test_a_flow_that_is_marked_late_comes_with_its_state(half: bool) -> None:
    with namespaces(1) as (active,):
        capture = Capture(active, only=only(mark="1"))
        if half:
            tuples = original(CLIENT, SERVER, TCP, ports(5000, 80), 7) + reply(SERVER, CLIENT, TCP, ports(80, 5000))
        else:
            tuples = both(TCP, 5000, 80) + zone(7)
        active.put(tuples + alive() + tcp())
        assert capture.take().flow_count() == 0
        active.change(tuples + mark(1))
        found = flow_of(capture)
        assert found.mark == 1
        assert found.tcp is not None
        assert found.tcp["state"] == "ESTABLISHED"


def test_an_update_without_a_state_does_not_bring_in_what_does_not_pass() -> None:
    with namespaces(1) as (active,):
        capture = Capture(active, only=only(tcp_states=["ESTABLISHED"]))
        active.put(DATA + alive() + tcp("TIME_WAIT"))
        active.change(DATA + mark(1))
        assert capture.take().flow_count() == 0


INSIDE = original(CLIENT, SERVER, TCP, ports(6000, 21)) + reply(SERVER, CLIENT, TCP, ports(21, 6000)) + dnat(INNER)


@pytest.mark.parametrize(
    ("ftp", "keys", "excluded", "selected"),
    [
        (FTP, {"protocols": ["tcp"]}, OUTSIDE, True),
        (FTP, {"protocols": ["udp"]}, OUTSIDE, False),
        (FTP, {"mark": "1"}, OUTSIDE, False),
        (FTP, {}, SERVER, False),
        (INSIDE + alive() + tcp() + helper("ftp"), {}, SERVER, True),
        (INSIDE + alive() + tcp() + helper("ftp"), {}, INNER, False),
        (FTP + zone(7), {"zones": [7]}, OUTSIDE, True),
        (FTP + zone(7), {"zones": [0]}, OUTSIDE, False),
    ],
)
async def test_expectations_are_selected_by_their_masters(
    ftp: bytes, keys: dict[str, Any], excluded: str, selected: bool
) -> None:
    with namespaces(1) as (active,):
        capture = Capture(active, only=only(**keys))
        capture.selector.excluded = frozenset({ip_address(excluded).packed})
        active.put(ftp)
        capture.take()
        in_zone = u16(uapi.CTA_EXPECT_ZONE, 7) if ftp.endswith(zone(7)) else b""
        active.put(AWAITED + in_zone, kind=uapi.EXP_NEW)
        assert (len(capture.take().expectations) == 1) is selected
        found = capture.selector.select(await active.dump()).messages
        assert len(found) == (2 if selected else 0), "a snapshot says the same"


@pytest.mark.parametrize("timestamp", [0, 1])
@pytest.mark.parametrize("acct", [0, 1])
@pytest.mark.parametrize("v6", [False, True])
async def test_counters_and_timestamps_take_no_message_to_the_slow_path(acct: int, timestamp: int, v6: bool) -> None:
    """Real traffic: NEW, UPDATE, DESTROY and dump of each have a shape, and give the store that parsing gives."""
    client, server = (CLIENT6, SERVER6) if v6 else (CLIENT, SERVER)
    with namespaces(1) as (active,):
        active.sysctl("nf_conntrack_acct", acct)
        active.sysctl("nf_conntrack_timestamp", timestamp)
        active.loop()
        events = active.listen()
        with active.tcp_listener(server, 80) as listener, active.tcp(client, 5000, server, 80) as sending:
            received, _ = listener.accept()
            with received, active.bound(socket.SOCK_DGRAM, server, 53) as answering:
                sending.sendall(b"x")
                with active.bound(socket.SOCK_DGRAM, client, 5000) as asking:
                    asking.sendto(b"x", (server, 53))
                    answering.sendto(b"x", (client, 5000))
                active.run("ping", "-c", "1", server)
                told = events.drain(100)
                dumped = await active.dump()
        for key in {key_in(message) for message in dumped}:
            active.put(key, kind=uapi.CT_DELETE, flags=0)
        told += events.drain(100)
    told = [message[:8] + bytes(8) + message[16:] for message in told]  # as if the entries had run out
    kinds = Counter(shape.kind for message in told if (shape := recognise(message)))
    assert kinds.total() == len(told), [message for message in told if recognise(message) is None]
    assert kinds[DESTROY] == len(dumped) == 3
    assert kinds[NEW] == 3
    assert kinds[UPDATE] >= 3
    assert all(map(recognise, dumped))
    measured = split(dumped[0], 20).keys() & set(MEASURED)
    assert measured >= ({uapi.CTA_COUNTERS_ORIG} if acct else set()) | ({uapi.CTA_TIMESTAMP} if timestamp else set())
    for first, rest in ((dumped, told), ([], told), ([], told[:-3])):
        fast = held(first, rest)
        with patch.dict(SHAPES, clear=True):
            parsed = held(first, rest)
        assert fast == parsed


def held(snapshot: list[bytes], events: list[bytes]) -> dict[bytes, bytes]:
    """What a backup holds after an active has selected a snapshot and events."""
    store, chosen = Store(), selector()
    store.begin_snapshot()
    for part in chosen.select(snapshot).parts:
        store.add_snapshot(part)
    store.end_snapshot()
    for part in chosen.select(events).parts:
        store.apply(part)
    assert not store.dropped
    return store.plain | store.rich


def test_loopback_is_not_selected_whatever_its_addresses() -> None:
    with namespaces(1) as (active,):
        capture = Capture(active)
        for number in range(8):
            there, back = ports(number, 9), ports(9, number)
            active.put(
                original("127.0.0.2", "127.0.0.3", 17, there) + reply("127.0.0.3", "127.0.0.2", 17, back) + alive()
            )
        assert capture.take().flow_count() == 0
