from dataclasses import replace
from typing import Any

import pytest

from ftfw.config.schema import Replicate
from ftfw.config.value_types import TCP_STATES
from ftfw.kernel import uapi
from ftfw.kernel.attributes import split
from ftfw.kernel.flow_filter import Filter, compile_filter
from ftfw.kernel.message_shapes import recognise
from tests.unit.conntrack import TCP, UDP, Conn, End, conn, inverse, sctp_info, tcp_info

OUTSIDE = End("192.0.2.1", "198.51.100.2", 40001, 443, uapi.IPPROTO_TCP)
INSIDE = End("192.0.2.80", "203.0.113.1", 8443, 5000, uapi.IPPROTO_TCP)


def flow(protocol: int = uapi.IPPROTO_TCP, **changes: Any) -> Conn:
    """A flow that is translated both ways."""
    original, reply = (replace(end, protocol=protocol) for end in (OUTSIDE, INSIDE))
    return conn(original, **{"reply": reply, **changes})


def made(**keys: Any) -> Filter:
    found = compile_filter(Replicate(**keys))
    assert found is not None
    return found


def passes(one: Conn, **keys: Any) -> bool:
    """Return what the filter says of a flow's beginning; with a known shape, its bytes and attributes must agree."""
    filter_, message = made(**keys), one.new()
    by_attributes = filter_.passes(split(message, 20))
    if (shape := recognise(message)) is not None:
        assert filter_.among(shape, [message]) == ([message] if by_attributes else [])
    return by_attributes


def test_without_keys_there_is_no_filter() -> None:
    assert compile_filter(Replicate()) is None
    assert compile_filter(Replicate.model_validate({"expectations": ["ftp"]})) is None


VALUES: dict[str, Any] = {
    "protocols": ["tcp"],
    "addresses": ["192.0.2.0/24"],
    "ports": [443],
    "zones": [0],
    "mark": "1",
    "tcp_states": ["ESTABLISHED"],
}


@pytest.mark.parametrize("key", sorted(Replicate.model_fields.keys() - {"expectations"}))
def test_every_key_makes_a_filter(key: str) -> None:
    assert compile_filter(Replicate.model_validate({key: VALUES[key]})) is not None


@pytest.mark.parametrize(
    ("protocols", "one", "expected"),
    [
        (["tcp"], flow(), True),
        (["udp", 6], flow(), True),
        (["udp"], flow(), False),
        ([99], flow(99), True),
        (["sctp"], flow(uapi.IPPROTO_SCTP, protoinfo=sctp_info()), True),
    ],
)
def test_protocols(protocols: list[Any], one: Conn, expected: bool) -> None:
    assert passes(one, protocols=protocols) is expected


@pytest.mark.parametrize("one", [flow(), flow(helper=b"ftp")], ids=["bytes", "attributes"])
@pytest.mark.parametrize("inside", ["192.0.2.0/24", "198.51.100.2", "192.0.2.80", "203.0.113.1"])
def test_addresses_of_both_directions(inside: str, one: Conn) -> None:
    assert passes(one, addresses=[inside])
    assert not passes(one, addresses=["192.0.2.128/25", "2001:db8::/32"])
    assert passes(one, addresses=["2001:db8::/32", inside])


@pytest.mark.parametrize("one", [flow(), flow(helper=b"ftp")], ids=["bytes", "attributes"])
@pytest.mark.parametrize("port", [40001, 443, 8443, 5000, "440-450"])
def test_ports_of_both_directions(port: Any, one: Conn) -> None:
    assert passes(one, ports=[port])
    assert not passes(one, ports=[22, "1000-2000"])


@pytest.mark.parametrize("zone", [None, 3])
@pytest.mark.parametrize("protocol", [uapi.IPPROTO_ICMP, uapi.IPPROTO_GRE])
def test_a_flow_without_ports_has_none_that_passes(protocol: int, zone: int | None) -> None:
    end = replace(UDP, protocol=protocol)
    assert not passes(conn(end, zone=zone), ports=["0-65535"])
    assert passes(conn(replace(UDP, protocol=uapi.IPPROTO_SCTP), zone=zone), ports=["0-65535"])


def test_zones() -> None:
    assert passes(flow(), zones=[0])
    assert not passes(flow(zone=3), zones=[0])
    halves = conn(replace(TCP, zone=3)), conn(reply=replace(inverse(TCP), zone=3))
    for one in (flow(zone=3), *halves):
        assert passes(one, zones=[3])
        assert not passes(one, zones=[0, 4])


@pytest.mark.parametrize("labels", [b"", bytes(15) + b"\x01"], ids=["bytes", "attributes"])
def test_marks(labels: bytes) -> None:
    assert passes(flow(mark=0x1F, labels=labels), mark="0x10/0x10")
    assert not passes(flow(mark=0x0F, labels=labels), mark="0x10/0x10")
    assert not passes(flow(labels=labels), mark="1")
    assert passes(flow(labels=labels), mark="0/0xff")
    assert passes(flow(mark=0x01020304, labels=labels), mark="0x01020304")


def test_tcp_states() -> None:
    assert passes(flow(protoinfo=tcp_info(3)), tcp_states=["ESTABLISHED"])
    assert not passes(flow(protoinfo=tcp_info(1)), tcp_states=["ESTABLISHED"])
    assert passes(flow(protoinfo=b""), tcp_states=["ESTABLISHED"]), "it does not tell"
    assert passes(flow(uapi.IPPROTO_UDP), tcp_states=["ESTABLISHED"])
    assert passes(flow(uapi.IPPROTO_SCTP, protoinfo=sctp_info()), tcp_states=["ESTABLISHED"])


def test_no_state_of_tcp_passes_under_another_s_name() -> None:
    for number, name in enumerate(TCP_STATES):
        assert [state for state in range(256) if passes(flow(protoinfo=tcp_info(state)), tcp_states=[name])] == [number]


def test_every_key_must_be_met() -> None:
    assert passes(flow(mark=1), protocols=["tcp"], ports=[443], mark="1")
    assert not passes(flow(mark=2), protocols=["tcp"], ports=[443], mark="1")
    assert not passes(flow(mark=1), protocols=["udp"], ports=[443], mark="1")


@pytest.mark.parametrize(
    ("keys", "changing"),
    [
        ({"addresses": ["0.0.0.0/0"], "ports": [1], "zones": [0], "protocols": ["tcp"]}, set()),
        ({"mark": "1"}, {1, 6, 17, 47}),
        ({"tcp_states": ["CLOSE"]}, {6}),
        ({"tcp_states": ["CLOSE"], "protocols": ["udp"]}, set()),
        ({"mark": "1", "protocols": ["udp"]}, {17}),
    ],
)
def test_flows_change_by_their_mark_and_by_their_tcp_state(keys: dict[str, Any], changing: set[int]) -> None:
    assert {protocol for protocol in (1, 6, 17, 47) if made(**keys).may_change(protocol)} == changing
