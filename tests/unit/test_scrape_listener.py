import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ftfw.config.value_types import Endpoint
from ftfw.daemon.metrics import scrape_listener


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
    listeners = await nursery.start(scrape_listener.ScrapeListener(Endpoint(host, 0), tell).run)
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
        assert "metrics: answering a client failed" in caplog.text
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
        listeners = await nursery.start(scrape_listener.ScrapeListener(Endpoint("::1", 0), lambda: b"x 1\n").run)
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
        trying = scrape_listener.ScrapeListener(Endpoint(host, port), bytes)
        nursery.start_soon(trying.run)
        autojump_clock.autojump_threshold = 0.05  # s; a name is asked for in a thread
        await until(lambda: trying.status()["failed"].get(reason, 0) >= 3)
        told = str(trying.status()["trouble"])
        assert told.startswith(f"metrics.listen: {host} port {port}: ")
        assert told.endswith("; name an address of this host, and a port that no other program uses")
        assert caplog.text.count(told) == 1
        nursery.cancel_scope.cancel()


async def test_it_listens_when_the_port_is_free_again(autojump_clock: MockClock) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        trying = scrape_listener.ScrapeListener(Endpoint("127.0.0.1", port), lambda: b"x 1\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trying.run)
            await until(lambda: trying.status()["failed"])
            assert trying.status()["trouble"] is not None
            other.close()
            await until(lambda: trying.status()["trouble"] is None)
            autojump_clock.autojump_threshold = 0.05  # s; the kernel hands bytes over meanwhile
            assert (await ask(port, GET)).endswith(b"x 1\n")
            nursery.cancel_scope.cancel()
