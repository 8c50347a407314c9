"""Defines TCP flows: connections that are idle at the takeover, and connections that stream during it."""

# LabFlow describes what the methods promise.
# ruff: noqa: D102, ARG002

import itertools

import trio

from ftfw.lab import topology
from ftfw.lab.flows.flow_base import FlowLostError, LabFlow, connect, receive_exactly

MESSAGE_SIZE = 64
BLOCK_SIZE = 4096
FRESH_BLOCKS = 64
"""Number of blocks that prove a stream alive: more than one burst of the sender."""


async def exchange(stream: trio.SocketStream, token: bytes) -> None:
    """Send a message to the echo service and wait until it comes back. Raises FlowLostError if another comes back."""
    message = token.ljust(MESSAGE_SIZE, b".")
    await stream.send_all(message)
    if await receive_exactly(stream, MESSAGE_SIZE) != message:
        raise FlowLostError("the echo differs")


def block(number: int) -> bytes:
    """Return block `number` of the stream service and of the big file: its number, repeated."""
    return number.to_bytes(8, "big") * (BLOCK_SIZE // 8)


class TcpIdle(LabFlow):
    """Keeps a connection that has no packet in flight during the takeover."""

    def __init__(self, name: str, title: str, *, source: str, destination: str, near: str) -> None:
        super().__init__(name, title)
        self.near = near
        self._ends = source, destination
        self._tokens = itertools.count()
        self._stream: trio.SocketStream

    async def open(self, nursery: trio.Nursery) -> None:
        self._stream = await connect(*self._ends, topology.ECHO_PORT)
        await self._exchange()

    async def _exchange(self) -> None:
        await exchange(self._stream, b"%s %d" % (self.name.encode(), next(self._tokens)))
        self.hear()

    async def prove(self) -> None:
        for _ in range(3):
            await self._exchange()


class TcpOffloaded(TcpIdle):
    """Keeps a connection that the active's kernel offloads to its flowtable; no event tells its timeout or state."""

    offloaded_source = topology.OFFLOADED4

    def __init__(self) -> None:
        super().__init__(
            "tcp-flowtable-v4-snat",
            "TCP in the active's flowtable, IPv4 with SNAT",
            source=topology.OFFLOADED4,
            destination=topology.SERVER4,
            near=topology.CLIENT,
        )

    async def arm(self) -> None:
        """Send packets: a connection leaves the flowtable after 30 s without one."""
        await self.prove()


class TcpStream(LabFlow):
    """Keeps a connection on which the far side sends in bursts before, during and after the takeover."""

    def __init__(self, name: str, title: str, *, source: str, destination: str, near: str) -> None:
        super().__init__(name, title)
        self.near = near
        self._ends = source, destination

    async def open(self, nursery: trio.Nursery) -> None:
        stream = await connect(*self._ends, topology.STREAM_PORT)
        nursery.start_soon(self.watch, lambda: self._read(stream))
        await self.hear_more(FRESH_BLOCKS)

    async def _read(self, stream: trio.SocketStream) -> None:
        async with stream:
            for number in itertools.count():
                if await receive_exactly(stream, BLOCK_SIZE) != block(number):
                    raise FlowLostError(f"block {number} of the stream is damaged")
                self.hear()

    async def prove(self) -> None:
        await self.hear_more(FRESH_BLOCKS)


KINDS = (("idle", "TCP, idle", TcpIdle), ("stream", "TCP, streaming", TcpStream))
PATHS = (
    # name, title, source, destination, near
    ("v4", "IPv4", topology.PLAIN4, topology.SERVER4, topology.CLIENT),
    ("v4-snat", "IPv4 with SNAT", topology.SNAT4, topology.SERVER4, topology.CLIENT),
    ("v4-dnat", "IPv4 with DNAT", topology.OUTSIDER4, topology.OUTSIDE4, topology.SERVER),
    ("v6", "IPv6", topology.PLAIN6, topology.SERVER6, topology.CLIENT),
    ("v6-snat", "IPv6 with SNAT", topology.SNAT6, topology.SERVER6, topology.CLIENT),
    ("v6-dnat", "IPv6 with DNAT", topology.OUTSIDER6, topology.OUTSIDE6, topology.SERVER),
    ("v4-zone", "IPv4 in a zone", topology.ZONED4, topology.SERVER4, topology.CLIENT),
    ("v4-half-zone", "IPv4, zone for one direction", topology.HALF_ZONED4, topology.SERVER4, topology.CLIENT),
    ("v4-mark", "IPv4, mark and label required", topology.MARKED4, topology.SERVER4, topology.CLIENT),
)


def flows() -> list[LabFlow]:
    """Return an idle and a streaming connection over each path, and the offloaded connection."""
    paths: list[LabFlow] = [
        make(f"tcp-{kind}-{path}", f"{title}, {words}", source=source, destination=destination, near=near)
        for kind, title, make in KINDS
        for path, words, source, destination, near in PATHS
    ]
    return [*paths, TcpOffloaded()]
