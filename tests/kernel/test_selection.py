"""What is selected of a real kernel's messages, and what the store of a backup then holds."""

from ipaddress import ip_address
from typing import Any

import pytest

from ftfw.config.schema import Replicate
from ftfw.kernel import uapi
from ftfw.kernel.attributes import u16, u32
from ftfw.kernel.flow_model import Flow
from tests.kernel.entries import (
    CLIENT,
    CONFIRMED,
    EXPECTED,
    INNER,
    LIVE,
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
    tcp,
    zone,
)
from tests.kernel.namespaces import Capture, namespaces

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


def test_loopback_is_not_selected_whatever_its_addresses() -> None:
    with namespaces(1) as (active,):
        capture = Capture(active)
        for number in range(8):
            there, back = ports(number, 9), ports(9, number)
            active.put(
                original("127.0.0.2", "127.0.0.3", 17, there) + reply("127.0.0.3", "127.0.0.2", 17, back) + alive()
            )
        assert capture.take().flow_count() == 0
