import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from ftfw.config.value_types import Endpoint
from ftfw.daemon.metrics import scrape_listener
from ftfw.daemon.metrics.metric_families import FAMILIES, Metrics, collect

BACKUP: dict[str, Any] = {
    "node": "fw2",
    "mode": "warm",
    "version": "1.2",
    "role": "backup",
    "ready": True,
    "synced": False,
    "conflict": False,
    "flows": 300,
    "expectations": 2,
    "peers": [{"name": "fw1", "role": "active", "last_seen_s": 0.25, "lag_s": None, "acked": None}],
    "links": [
        {"name": "sync", "up": True, "sent": 1, "received": 2, "bytes_sent": 3, "bytes_received": 4, "dropped": {}},
        {"name": "sync", "up": False, "sent": 5, "dropped": {"forged": 6, "kernel": 7}},
    ],
    "kernel": {
        "entries": 310,
        "entries_max": 1000,
        "events": 9,
        "overruns": 0,
        "inject_failed": {"busy": 1},
        "dropped": {"malformed": 2},
    },
    "stream": {"behind": 3, "gaps": 1, "repaired": {"missing": 4, "stale": 0, "different": 0}, "challenges": 8},
    "last_commit": None,
    "keepalived": {"fifo": "open", "fifo_writer": True, "disagreement": None, "dropped": {"no_state": 3}},
    "gate": {"shut": True, "dropped": 11, "failed": {"lapsed": 1}},
}
COMMIT = {"seconds": 0.5, "created": 3, "updated": 2, "deleted": 1, "failed": {"busy": 4}, "otherwise": {}}


def told(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def exposition(status: dict[str, Any]) -> dict[str, Metric]:
    return told(Metrics(lambda: status).exposition().decode())


def samples(status: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in exposition(status).values()
        for sample in family.samples
    }


def test_what_a_backup_tells() -> None:
    found = samples(BACKUP)
    expected = {
        ("ftfw_node_info", "warm", "fw2", "1.2"): 1,
        ("ftfw_active",): 0,
        ("ftfw_ready",): 1,
        ("ftfw_synced",): 0,
        ("ftfw_flows",): 300,
        ("ftfw_conntrack_entries_limit",): 1000,
        ("ftfw_peer_active", "fw1"): 1,
        ("ftfw_peer_silence_seconds", "fw1"): 0.25,
        ("ftfw_link_up", "0", "sync"): 1,
        ("ftfw_link_up", "1", "sync"): 0,
        ("ftfw_link_sent_frames_total", "1", "sync"): 5,
        ("ftfw_link_dropped_total", "1", "sync", "forged"): 6,
        ("ftfw_inject_failed_total", "busy"): 1,
        ("ftfw_messages_dropped_total", "malformed"): 2,
        ("ftfw_stream_behind_frames",): 3,
        ("ftfw_stream_repaired_entries_total", "missing"): 4,
        ("ftfw_challenges_total",): 8,
        ("ftfw_keepalived_fifo_open",): 1,
        ("ftfw_keepalived_disagreement",): 0,
        ("ftfw_gate_shut",): 1,
        ("ftfw_gate_dropped_packets_total",): 11,
        ("ftfw_gate_failed_total", "lapsed"): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found[("process_resident_memory_bytes",)] > 0


def test_what_is_not_known_is_not_told() -> None:
    found = samples({**BACKUP, "synced": None, "flows": None, "keepalived": None, "gate": None})
    absent = (
        "ftfw_synced",
        "ftfw_flows",
        "ftfw_keepalived_disagreement",
        "ftfw_keepalived_fifo_open",
        "ftfw_gate_shut",
    )
    assert [key for key in found if key[0] in absent] == []
    assert ("ftfw_peer_lag_seconds", "fw1") not in found


def test_a_fifo_in_trouble_and_a_disagreement() -> None:
    found = samples({"keepalived": {"fifo": "f: cannot be made", "disagreement": "active without 192.0.2.1"}})
    assert (found[("ftfw_keepalived_fifo_open",)], found[("ftfw_keepalived_disagreement",)]) == (0, 1)
    deaf = samples({"keepalived": {"fifo": "open", "fifo_writer": False, "disagreement": None}})
    assert deaf[("ftfw_keepalived_fifo_open",)] == 0
    without = samples({"keepalived": {"fifo": None, "disagreement": None}})
    assert ("ftfw_keepalived_fifo_open",) not in without


def test_the_last_commit() -> None:
    found = samples({**BACKUP, "role": "active", "last_commit": COMMIT})
    assert found[("ftfw_active",)] == 1
    assert found[("ftfw_last_commit_seconds",)] == 0.5
    assert found[("ftfw_last_commit_failed_entries", "busy")] == 4


def test_takeovers_are_histograms() -> None:
    metrics = Metrics(lambda: BACKUP)
    metrics.commits.observe(0.03)
    metrics.held.observe(0)
    families = told(metrics.exposition().decode())
    assert families["ftfw_commit_seconds"].type == "histogram"
    buckets = {
        sample.labels["le"]: sample.value
        for sample in families["ftfw_commit_seconds"].samples
        if sample.name == "ftfw_commit_seconds_bucket"
    }
    assert (buckets["0.025"], buckets["0.05"], buckets["+Inf"]) == (0, 1, 1)
    assert families["ftfw_promotion_seconds"].type == families["ftfw_promotion_held_packets"].type == "histogram"


def test_names_follow_the_conventions_and_are_there_once() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    assert [name for name in names if not name.startswith("ftfw_") or name.endswith("_total")] == []
    assert set(names) <= exposition({}).keys()


def broken(value: Any) -> "st.SearchStrategy[Any]":
    """The value, or with parts of it taken out or None."""
    whole: st.SearchStrategy[Any]
    if isinstance(value, dict):
        whole = st.fixed_dictionaries({}, optional={key: broken(each) for key, each in value.items()})
    elif isinstance(value, list):
        whole = st.tuples(*map(broken, value)).map(lambda parts: [part for part in parts if part is not None])
    else:
        whole = st.just(value)
    return st.none() | whole


@given(broken({**BACKUP, "last_commit": COMMIT}).filter(lambda found: found is not None))
def test_any_part_of_a_status_may_be_missing(status: dict[str, Any]) -> None:
    assert {f"{family.name}" for family in FAMILIES} <= exposition(status).keys()


def test_a_registry_does_not_ask_for_a_status_to_learn_the_names() -> None:
    def unasked() -> dict[str, Any]:
        raise AssertionError

    assert len(list(Metrics(unasked).describe())) == len(FAMILIES) + 1
    assert len(list(collect({}))) == len(FAMILIES) + 1


# Over HTTP


async def ask(port: int, request: bytes) -> bytes:
    """Send bytes, and read until the end, or until the connection is reset for what was not read."""
    received = bytearray()
    with contextlib.suppress(trio.BrokenResourceError):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request)
            async for chunk in stream:
                received += chunk
    return bytes(received)


async def until(true: Callable[[], object]) -> None:
    with trio.fail_after(1000):  # the clock jumps
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await trio.sleep(0.1)


GET = b"GET /metrics HTTP/1.1\r\nHost: fw1\r\n\r\n"


async def serving(nursery: trio.Nursery, tell: Any = lambda: b"x 1\n", host: str = "127.0.0.1") -> int:
    listeners = await nursery.start(scrape_listener.Scrapes(Endpoint(host, 0), tell).run)
    port: int = listeners[0].socket.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("request_bytes", "status", "body"),
    [
        (GET, b"200 OK", b"x 1\n"),
        (GET.replace(b"metrics ", b"metrics?name[]=x "), b"200 OK", b"x 1\n"),
        (GET.replace(b"1.1", b"1.0"), b"200 OK", b"x 1\n"),
        (GET.replace(b"GET", b"HEAD"), b"200 OK", b""),
        (GET.replace(b"/metrics", b"/"), b"404 Not Found", b"the metrics are at /metrics\n"),
        (GET.replace(b"GET", b"POST"), b"405 Method Not Allowed", b"metrics are read with GET\n"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400 Bad Request", b"not HTTP\n"),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9000, b"431 ", b"not HTTP\n"),
    ],
)
async def test_a_request(request_bytes: bytes, status: bytes, body: bytes) -> None:
    async with trio.open_nursery() as nursery:
        port = await serving(nursery)
        head, _, found = (await ask(port, request_bytes)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert b"Content-Length: " in head
        assert b"Connection: close" in head
        assert found == body
        nursery.cancel_scope.cancel()


async def test_a_scrape_that_fails_is_logged_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([b"x 1\n"])
    async with trio.open_nursery() as nursery:
        port = await serving(nursery, lambda: next(answers))
        assert (await ask(port, GET)).endswith(b"x 1\n")
        assert b" 500 " in await ask(port, GET)
        assert "a scrape failed" in caplog.text
        assert b" 404 " in await ask(port, GET.replace(b"/metrics", b"/"))
        nursery.cancel_scope.cancel()


async def test_whatever_an_answer_dies_of_the_next_one_is_given(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = ["no bytes", b"x 1\n"]
    async with trio.open_nursery() as nursery:
        port = await serving(nursery, lambda: answers.pop(0))
        assert await ask(port, GET) == b""
        assert "metrics: a client was not answered" in caplog.text
        assert (await ask(port, GET)).endswith(b"x 1\n")
        nursery.cancel_scope.cancel()


async def test_clients_that_say_nothing_are_dropped_and_more_than_a_few_are_not_heard(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        port = await serving(nursery)
        quiet = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(scrape_listener.CLIENTS_MAX)]
        for stream in quiet:
            await stream.send_all(b"GET /metrics HTT")
        autojump_clock.autojump_threshold = 0.05  # s; the kernel hands bytes over meanwhile
        assert await ask(port, GET) == b""
        for stream in quiet:
            with trio.fail_after(scrape_listener.DEADLINE_S + 1):
                assert await stream.receive_some() == b""
            await stream.aclose()
        assert (await ask(port, GET)).endswith(b"x 1\n")
        nursery.cancel_scope.cancel()


async def test_ipv6() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(scrape_listener.Scrapes(Endpoint("::1", 0), lambda: b"x 1\n").run)
        host, port = listeners[0].socket.getsockname()[:2]
        assert (len(listeners), host) == (1, "::1")
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(GET)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("198.51.100.77", "eaddrnotavail"),
        ("no-such-host.invalid", "unresolved"),
        ("no..name", "unresolved"),
        ("127.0.0.1", "eaddrinuse"),
    ],
)
async def test_a_place_where_nobody_can_listen_is_told_once_and_tried_again(
    host: str, reason: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        port = await serving(nursery)
        trying = scrape_listener.Scrapes(Endpoint(host, port), bytes)
        nursery.start_soon(trying.run)
        autojump_clock.autojump_threshold = 0.05  # s; a name is asked for in a thread
        await until(lambda: trying.status()["failed"].get(reason, 0) >= 3)
        told = str(trying.status()["trouble"])
        assert told.startswith(f"metrics.listen: {host} port {port}: ")
        assert told.endswith("; name an address of this host, and a port that nobody else has")
        assert caplog.text.count(told) == 1
        nursery.cancel_scope.cancel()


async def test_it_listens_when_the_port_is_free_again(autojump_clock: MockClock) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        trying = scrape_listener.Scrapes(Endpoint("127.0.0.1", port), lambda: b"x 1\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trying.run)
            await until(lambda: trying.status()["failed"])
            assert trying.status()["trouble"] is not None
            other.close()
            await until(lambda: trying.status()["trouble"] is None)
            autojump_clock.autojump_threshold = 0.05  # s; the kernel hands bytes over meanwhile
            assert (await ask(port, GET)).endswith(b"x 1\n")
            nursery.cancel_scope.cancel()
