"""A TCP link against sockets on the loopback, and against another one."""

import contextlib
import resource
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import trio

from ftfw.config.schema import UnicastLink
from ftfw.link.framing import framed
from ftfw.link.link_base import BatchOrigin
from ftfw.link.tcp import SEND_QUEUE_MAX_BYTES, UNPROVEN_MAX, Tcp

FRAME = bytes(8000)


def free_port() -> int:
    with socket.socket() as trying:
        trying.bind(("127.0.0.1", 0))
        port: int = trying.getsockname()[1]
        return port


def configuration(own: str, peer: str, port: int) -> UnicastLink:
    return UnicastLink.model_validate({"transport": "tcp", "bind": own, "peers": [peer], "port": port})


class End:
    """A link, and what it has received; whatever comes from the peer is authentic."""

    def __init__(self, config: UnicastLink, *, node: str, peer: str) -> None:
        self.link = Tcp(config, node=node)
        self.frames: list[bytes] = []
        self._peer = peer

    def received(self, frames: list[bytes]) -> BatchOrigin:
        self.frames += frames
        return BatchOrigin(len(frames), self._peer)

    def settled(self) -> bool:
        (peer,) = self.link._peers.values()
        return self.link.trouble is None and len(peer.connections) == 1


@asynccontextmanager
async def running(*ends: End) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for end in ends:
            nursery.start_soon(end.link.run, end.received)
        yield
        nursery.cancel_scope.cancel()
    for end in ends:
        end.link.close()


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await trio.sleep(0.005)


def ends() -> tuple[End, End]:
    port = free_port()
    return (
        End(configuration("127.0.0.1", "127.0.0.2", port), node="fw1", peer="fw2"),
        End(configuration("127.0.0.2", "127.0.0.1", port), node="fw2", peer="fw1"),
    )


async def beat(end: End) -> None:
    while True:
        end.link.send(b"heartbeat" * 10)
        await trio.sleep(0.01)


async def test_two_links_settle_on_one_connection_and_lose_no_frame_then() -> None:
    first, second = ends()
    async with running(first, second), trio.open_nursery() as nursery:
        for end in (first, second):
            nursery.start_soon(beat, end)
        await until(lambda: first.settled() and second.settled())
        (connection,) = next(iter(first.link._peers.values())).connections
        assert connection.dialled
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


async def test_a_peer_that_reads_nothing_costs_a_bounded_queue_and_no_time() -> None:
    port = free_port()
    end = End(configuration("127.0.0.1", "127.0.0.2", port), node="fw1", peer="fw2")
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", port))
        listener.listen()
        async with running(end):
            (peer,) = end.link._peers.values()
            await until(lambda: bool(peer.connections))
            (connection,) = peer.connections
            while not end.link.dropped["send_queue_full"]:
                end.link.send(FRAME)  # without a checkpoint: it never waits
            assert SEND_QUEUE_MAX_BYTES - len(FRAME) <= connection._queued <= SEND_QUEUE_MAX_BYTES + len(FRAME)


async def test_without_a_peer_frames_are_counted() -> None:
    end, other = ends()
    other.link.close()
    async with running(end):
        end.link.send(FRAME)
        assert end.link.dropped == {"send_unconnected": 1}
        assert end.link.trouble


async def test_what_is_accepted_gets_nothing_before_it_is_authentic() -> None:
    end, other = ends()
    other.link.close()
    async with running(end):
        (peer,) = end.link._peers.values()
        peer.name = "fw0"  # so this end does not dial
        with socket.socket() as client:
            client.bind(("127.0.0.2", 0))
            client.connect(end.link._own)
            await until(lambda: len(peer.connections) == 1)
            end.link.send(FRAME)
            assert end.link.sent == 0
            client.sendall(framed(FRAME))
            await until(lambda: end.link.trouble is None)
            end.link.send(FRAME)
            assert end.link.sent == 1


async def test_unproven_connections_are_few() -> None:
    end, other = ends()
    other.link.close()
    async with running(end):
        clients = [socket.socket() for _ in range(UNPROVEN_MAX + 3)]
        for client in clients:
            client.bind(("127.0.0.2", 0))
            client.connect(end.link._own)
        await until(lambda: end.link.dropped["tcp_too_many"] == 3)
        for client in clients:
            client.close()


async def test_no_more_than_a_chunk_is_read_between_two_checkpoints() -> None:
    end, other = ends()
    other.link.close()
    turns: list[int] = []

    async def somebody_else() -> None:
        while True:
            turns.append(len(end.frames))
            await trio.lowlevel.checkpoint()

    async with running(end), trio.open_nursery() as nursery:
        with socket.socket() as client:
            client.bind(("127.0.0.2", 0))
            client.connect(end.link._own)
            nursery.start_soon(somebody_else)
            flood = framed(bytes(100)) * 20000
            await trio.to_thread.run_sync(client.sendall, flood)
            await until(lambda: len(end.frames) == 20000)
        nursery.cancel_scope.cancel()
    steps = [later - earlier for earlier, later in pairwise(turns)]
    assert max(steps) <= 2 * (1 << 15) // 104 + 2


async def test_a_link_for_which_no_descriptor_is_left_waits_for_one() -> None:
    end, other = ends()
    other.link.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.bind(("127.0.0.2", 0))
        async with running(end):
            await until(lambda: end.link._socket is not None)
            client.setblocking(False)
            assert end.link._socket is not None
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
                with contextlib.suppress(BlockingIOError):
                    client.connect(end.link._socket.getsockname())
                await until(lambda: end.link.dropped["tcp_exhausted"] > 0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: bool(select.select([], [client], [], 0)[1]))
            client.send(framed(FRAME))
            await until(lambda: end.frames == [FRAME])
