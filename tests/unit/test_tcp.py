"""Tests a TCP link against sockets on the loopback, and against another link."""

import contextlib
import resource
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from ftfw.config.schema import UnicastLink
from ftfw.link.framing import framed
from ftfw.link.link_base import BatchOrigin
from ftfw.link.tcp import CHUNK_BYTES, CONNECTION_REMEDY, SEND_QUEUE_MAX_BYTES, UNPROVEN_MAX, Tcp

FRAME = bytes(8000)
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


def free_port() -> int:
    with socket.socket() as trying:
        trying.bind((FIRST, 0))
        port: int = trying.getsockname()[1]
        return port


class End:
    """Holds a link and the frames that it has received; every frame from the peer is authentic."""

    def __init__(self, own: str, other: str, port: int, *, node: str, peer: str) -> None:
        config = {"transport": "tcp", "bind": own, "peers": [other], "port": port}
        self.address = (own, port)
        self.link = Tcp(UnicastLink.model_validate(config), node=node)
        self.frames: list[bytes] = []
        self._peer = peer

    def received(self, frames: list[bytes]) -> BatchOrigin:
        self.frames += frames
        return BatchOrigin(len(frames), self._peer)

    def client(self) -> socket.socket:
        """Return a connection to the link from the peer's address."""
        made = socket.socket()
        made.bind((SECOND, 0))
        made.connect(self.address)
        return made


def established(port: int) -> list[tuple[str, str]]:
    """Return the address of the client and of the server for each connection to a port."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        own, other, state = line.split()[1:4]
        if state == "01" and int(other[9:], 16) == port:
            found.append((address(own), address(other)))
    return found


def address(text: str) -> str:
    return socket.inet_ntoa(struct.pack("=I", int(text[:8], 16)))


@asynccontextmanager
async def running(*ends: End) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for end in ends:
            nursery.start_soon(end.link.run, end.received)
        yield
        nursery.cancel_scope.cancel()
    for end in ends:
        end.link.close()


@asynccontextmanager
async def alone() -> AsyncIterator[End]:
    """Run a link whose peer does not listen."""
    end = End(FIRST, SECOND, free_port(), node="fw1", peer="fw2")
    async with running(end):
        yield end


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await trio.sleep(0.005)


async def beat(end: End) -> None:
    while True:
        end.link.send(b"heartbeat" * 10)
        await trio.sleep(0.01)


async def test_two_links_settle_on_one_connection_and_lose_no_frame_then() -> None:
    port = free_port()
    first = End(FIRST, SECOND, port, node="fw1", peer="fw2")
    second = End(SECOND, FIRST, port, node="fw2", peer="fw1")
    async with running(first, second), trio.open_nursery() as nursery:
        for end in (first, second):
            nursery.start_soon(beat, end)
        await until(lambda: first.link.trouble is second.link.trouble is None)
        await until(lambda: established(port) == [(FIRST, SECOND)])  # the smaller name has dialled it
        nursery.cancel_scope.cancel()
        numbered = [number.to_bytes(2, "big") * 400 for number in range(2000)]
        before = len(second.frames)
        for number, frame in enumerate(numbered):
            first.link.send(frame)
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
        await until(lambda: second.frames[-1] == numbered[-1])
        assert [frame for frame in second.frames[before:] if len(frame) == 800] == numbered
        assert not first.link.dropped["send_queue_full"]


def kernel_buffers_bytes() -> int:
    """Return what the kernel may hold of a connection at most, at both ends."""
    return sum(int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2]) for name in ("tcp_wmem", "tcp_rmem"))


def sends(end: End) -> bool:
    """Send a frame; tell whether there was a connection for it."""
    end.link.send(FRAME)
    return end.link.sent > 0


async def test_a_peer_that_reads_nothing_costs_a_bounded_queue_and_no_time() -> None:
    with socket.socket() as listener:
        listener.bind((SECOND, port := free_port()))
        listener.listen()
        end = End(FIRST, SECOND, port, node="fw1", peer="fw2")
        async with running(end):
            await until(lambda: sends(end))
            while not end.link.dropped["send_queue_full"]:
                end.link.send(FRAME)  # without a checkpoint: it never waits
            assert SEND_QUEUE_MAX_BYTES - len(FRAME) <= end.link.bytes_sent
            assert end.link.bytes_sent <= SEND_QUEUE_MAX_BYTES + kernel_buffers_bytes()


async def test_without_a_peer_frames_are_counted() -> None:
    async with alone() as end:
        end.link.send(FRAME)
        assert end.link.dropped == {"send_unconnected": 1}
        assert end.link.trouble == f"no connection with {SECOND}; {CONNECTION_REMEDY}"


async def test_unproven_connections_are_few_and_get_nothing_before_they_are_authentic() -> None:
    async with alone() as end:
        clients = [end.client() for _ in range(UNPROVEN_MAX + 3)]
        await until(lambda: end.link.dropped["tcp_too_many"] == 3)  # so the others are accepted
        end.link.send(FRAME)
        assert end.link.sent == 0
        clients[0].sendall(framed(FRAME))
        await until(lambda: end.link.trouble is None)
        end.link.send(FRAME)
        assert end.link.sent == 1
        clients[0].settimeout(5)
        assert clients[0].recv(100) == framed(FRAME)[:100]
        for client in clients[1:UNPROVEN_MAX]:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
        for client in clients:
            client.close()


async def test_no_more_than_a_chunk_is_read_between_two_checkpoints() -> None:
    turns: list[int] = []

    async def somebody_else(end: End) -> None:
        while True:
            turns.append(len(end.frames))
            await trio.lowlevel.checkpoint()

    async with alone() as end, trio.open_nursery() as nursery:
        with end.client() as client:
            nursery.start_soon(somebody_else, end)
            flood = framed(bytes(100)) * 20000
            await trio.to_thread.run_sync(client.sendall, flood)
            await until(lambda: len(end.frames) == 20000)
        nursery.cancel_scope.cancel()
    steps = [later - earlier for earlier, later in pairwise(turns)]
    assert max(steps) <= 2 * CHUNK_BYTES // 104 + 2


async def test_a_link_for_which_no_descriptor_is_left_waits_for_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.bind((SECOND, 0))
        async with alone() as end:
            client.setblocking(False)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
                with contextlib.suppress(BlockingIOError):
                    client.connect(end.address)
                await until(lambda: end.link.dropped["tcp_exhausted"] > 0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: bool(select.select([], [client], [], 0)[1]))
            client.send(framed(FRAME))
            await until(lambda: end.frames == [FRAME])
