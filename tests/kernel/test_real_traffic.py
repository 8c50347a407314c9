"""Entries that packets made, rather than messages: what their events and dumps say arrives in another kernel."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from ftfw.kernel.flow_model import Flow
from tests.kernel.entries import CLIENT, CLIENT6, INNER, INNER6, OUTSIDE, OUTSIDE6, SERVER, SERVER6
from tests.kernel.namespaces import Capture, Namespace
from tests.kernel.test_round_trip import comparable

pytestmark = pytest.mark.kernel

Pair = tuple[Namespace, Namespace]
NAT_RULES = f"""
table inet nat {{
    chain output {{
        type nat hook output priority -100
        ip daddr {SERVER} meta l4proto {{ tcp, udp }} th dport 88 dnat to {INNER}:8080
        ip6 daddr {SERVER6} meta l4proto {{ tcp, udp }} th dport 88 dnat to [{INNER6}]:8080
    }}
    chain postrouting {{
        type nat hook postrouting priority 100
        ip saddr {CLIENT} meta l4proto {{ tcp, udp }} snat to {OUTSIDE}:6000
        ip6 saddr {CLIENT6} meta l4proto {{ tcp, udp }} snat to [{OUTSIDE6}]:6000
        ip saddr {CLIENT} snat to {OUTSIDE}
        ip6 saddr {CLIENT6} snat to {OUTSIDE6}
    }}
}}
"""


@contextmanager
def tcp(namespace: Namespace, client: str, server: str, listening: tuple[str, int]) -> Iterator[None]:
    port = 88 if listening[1] == 8080 else listening[1]
    with namespace.tcp_listener(*listening) as listener, namespace.tcp(client, 5000, server, port) as near:
        far, _ = listener.accept()
        with far:
            near.send(b"ask")
            assert far.recv(10) == b"ask"
            far.send(b"answer")
            assert near.recv(10) == b"answer"
            yield


@contextmanager
def udp(namespace: Namespace, client: str, server: str, listening: tuple[str, int]) -> Iterator[None]:
    port = 88 if listening[1] == 8080 else listening[1]
    with (
        namespace.bound(socket.SOCK_DGRAM, *listening) as far,
        namespace.bound(socket.SOCK_DGRAM, client, 5000) as near,
    ):
        near.sendto(b"ask", (server, port))
        _, asker = far.recvfrom(10)
        far.sendto(b"answer", asker)
        assert near.recv(10) == b"answer"
        yield


@contextmanager
def ping(namespace: Namespace, client: str, server: str, _listening: tuple[str, int]) -> Iterator[None]:
    namespace.run("ping", "-c", "1", "-W", "2", "-I", client, server)
    yield


@pytest.mark.parametrize("by", ["events", "snapshot"])
@pytest.mark.parametrize("translated", [False, True], ids=["plain", "translated"])
@pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])
@pytest.mark.parametrize("traffic", [tcp, udp, ping])
async def test_round_trip(pair: Pair, traffic: Any, v6: bool, translated: bool, by: str) -> None:
    active, backup = pair
    active.loop(NAT_RULES if translated else "")
    client, server = (CLIENT6, SERVER6) if v6 else (CLIENT, SERVER)
    inner, outside = (INNER6, OUTSIDE6) if v6 else (INNER, OUTSIDE)
    capture = Capture(active)
    with traffic(active, client, server, (inner, 8080) if translated else (server, 80)):
        store = capture.take() if by == "events" else await active.snapshot()
    (sent,) = (flow for flow in store.flows() if flow.original["src"] == client)
    ported = traffic is not ping
    assert sent.reply["dst"] == (outside if translated else client)
    assert sent.reply["src"] == (inner if translated and ported else server)
    if ported and translated:
        assert (sent.reply["sport"], sent.reply["dport"]) == (8080, 6000)
    outcome = await backup.commit(store)
    assert (outcome.failed, outcome.remedied) == ({}, {})
    (arrived,) = (flow for flow in (await backup.snapshot()).flows() if flow.original["src"] == client)
    assert likened(arrived) == likened(sent)
    if sent.tcp:
        assert sent.tcp["state"] == "ESTABLISHED"
        assert sent.tcp["window_scale_original"] > 0
        assert "assured" in sent.status


def likened(flow: Flow) -> dict[str, Any]:
    """Comparable, but for the bits that say that NAT has been asked: rules are asked for packets, not for messages."""
    told = comparable(flow)
    told["status"] = [bit for bit in flow.status if not bit.endswith("_done")]
    return told


async def test_the_end_of_a_flow_is_told(pair: Pair) -> None:
    active, _ = pair
    active.loop()
    capture = Capture(active)
    with tcp(active, CLIENT, SERVER, (SERVER, 80)):
        assert capture.take().flow_count() == 1
    closing = next(capture.take().flows())
    assert closing.tcp is not None
    assert closing.tcp["state"] in {"FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT"}
    active.run("conntrack", "-F")
    await capture.until(lambda store: store.flow_count() == 0)


async def test_an_injected_flow_goes_on(pair: Pair) -> None:
    """What was injected translates packets and follows them: the reply to a flow of the first kernel passes."""
    active, backup = pair
    for each in pair:
        each.loop(NAT_RULES)
    with udp(active, CLIENT, SERVER, (INNER, 8080)):
        store = await active.snapshot()
    backup.run("nft", "flush", "ruleset")
    backup.nft("table inet t { chain c { type filter hook output priority 0; ct state new drop; }; }")
    backup.nft("table ip n { chain c { type nat hook output priority 0; }; }")
    await backup.commit(store)
    with ExitStack() as stack:
        near = stack.enter_context(backup.bound(socket.SOCK_DGRAM, CLIENT, 5000))
        far = stack.enter_context(backup.bound(socket.SOCK_DGRAM, INNER, 8080))
        far.sendto(b"unasked", (OUTSIDE, 6000))
        data, source = near.recvfrom(20)
        assert (data, source) == (b"unasked", (SERVER, 88))
        near.sendto(b"answer", (SERVER, 88))
        data, source = far.recvfrom(20)
        assert (data, source) == (b"answer", (OUTSIDE, 6000))


async def test_each_state_of_a_connection_is_told(pair: Pair) -> None:
    active, _ = pair
    active.loop()
    capture = Capture(active)
    states = []
    with tcp(active, CLIENT, SERVER, (SERVER, 80)):
        for event in capture.events.drain(100):
            capture.store.apply([event])
            (flow,) = capture.store.flows()
            assert flow.tcp is not None
            states.append(flow.tcp["state"])
    assert states[:3] == ["SYN_SENT", "SYN_RECV", "ESTABLISHED"]
