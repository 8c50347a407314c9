from typing import Any

import pytest

from ftfw.config.schema import Replicate
from ftfw.kernel.flow_filter import compile_filter
from ftfw.kernel.flow_model import Flow


def flow(protocol: str = "tcp", **changes: Any) -> Flow:
    original = {"src": "192.0.2.1", "dst": "198.51.100.2", "sport": 40001, "dport": 443}
    reply = {"src": "192.0.2.80", "dst": "203.0.113.1", "sport": 8443, "dport": 5000}
    return Flow(**{"family": "ipv4", "protocol": protocol, "original": original, "reply": reply, **changes})


def passes(one: Flow, **keys: Any) -> bool:
    test = compile_filter(Replicate(**keys))
    assert test is not None
    return test(one)


def test_without_keys_there_is_no_filter() -> None:
    assert compile_filter(Replicate()) is None
    assert compile_filter(Replicate.model_validate({"expectations": ["ftp"]})) is None


@pytest.mark.parametrize(
    ("protocols", "one", "expected"),
    [(["tcp"], flow(), True), (["udp", 6], flow(), True), (["udp"], flow(), False), ([99], flow("99"), True)],
)
def test_protocols(protocols: list[Any], one: Flow, expected: bool) -> None:
    assert passes(one, protocols=protocols) is expected


@pytest.mark.parametrize("inside", ["192.0.2.0/24", "198.51.100.2", "192.0.2.80", "203.0.113.1"])
def test_addresses_of_both_directions(inside: str) -> None:
    assert passes(flow(), addresses=[inside])
    assert not passes(flow(), addresses=["192.0.2.128/25", "2001:db8::/32"])
    assert passes(flow(), addresses=["2001:db8::/32", inside])


@pytest.mark.parametrize("port", [40001, 443, 8443, 5000, "440-450"])
def test_ports_of_both_directions(port: Any) -> None:
    assert passes(flow(), ports=[port])
    assert not passes(flow(), ports=[22, "1000-2000"])


def test_a_flow_without_ports_has_none_that_passes() -> None:
    ping = {"src": "192.0.2.1", "dst": "198.51.100.2", "icmp_id": 7, "icmp_type": 8, "icmp_code": 0}
    assert not passes(flow("icmp", original=ping, reply=ping), ports=["0-65535"])


def test_zones() -> None:
    assert passes(flow(), zones=[0])
    assert not passes(flow(zone=3), zones=[0])
    for one in (flow(zone=3), flow(zone_original=3), flow(zone_reply=3)):
        assert passes(one, zones=[3])


def test_marks() -> None:
    assert passes(flow(mark=0x1F), mark="0x10/0x10")
    assert not passes(flow(mark=0x0F), mark="0x10/0x10")
    assert not passes(flow(), mark="1")
    assert passes(flow(), mark="0/0xff")


def test_tcp_states() -> None:
    assert passes(flow(tcp={"state": "ESTABLISHED"}), tcp_states=["ESTABLISHED"])
    assert not passes(flow(tcp={"state": "SYN_SENT"}), tcp_states=["ESTABLISHED"])
    assert passes(flow("udp"), tcp_states=["ESTABLISHED"])


def test_every_key_must_be_met() -> None:
    assert passes(flow(mark=1), protocols=["tcp"], ports=[443], mark="1")
    assert not passes(flow(mark=2), protocols=["tcp"], ports=[443], mark="1")
    assert not passes(flow(mark=1), protocols=["udp"], ports=[443], mark="1")
