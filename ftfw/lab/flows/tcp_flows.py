"""TCP: connections that are idle at the takeover and connections that stream through it."""

# What the phases promise stands at Flow.
# ruff: noqa: D102, ARG002

import itertools

import trio

from ftfw.lab import plan
from ftfw.lab.flows.flow_base import Flow, FlowLostError, connect, receive_exactly

MESSAGE_SIZE = 64
BLOCK_SIZE = 4096
FRESH_BLOCKS = 64
"""Blocks of a stream that prove it alive: more than one sender's burst."""


async def exchange(stream: trio.SocketStream, token: bytes) -> None:
    """Send a message to the echo service and see it come back."""
    message = token.ljust(MESSAGE_SIZE, b".")
    await stream.send_all(message)
    if await receive_exactly(stream, MESSAGE_SIZE) != message:
        raise FlowLostError("the echo differs")


def block(number: int) -> bytes:
    """Return block `number` of the stream service and of the big file: its own number, over and over."""
    return number.to_bytes(8, "big") * (BLOCK_SIZE // 8)


class TcpIdle(Flow):
    """A connection without a packet under way while the firewalls change."""

    def __init__(self, name: str, title: str, *, source: str, destination: str, near: str) -> None:
        super().__init__(name, title)
        self.near = near
        self._ends = source, destination
        self._tokens = itertools.count()
        self._stream: trio.SocketStream

    async def open(self, nursery: trio.Nursery) -> None:
        self._stream = await connect(*self._ends, plan.ECHO_PORT)
        await self._exchange()

    async def _exchange(self) -> None:
        await exchange(self._stream, b"%s %d" % (self.name.encode(), next(self._tokens)))
        self.hear()

    async def prove(self) -> None:
        for _ in range(3):
            await self._exchange()


class TcpOffloaded(TcpIdle):
    """A connection that the active's kernel forwards past its ruleset; it hands no state of it to anybody."""

    offloaded_source = plan.OFFLOADED4

    def __init__(self) -> None:
        super().__init__(
            "tcp-flowtable-v4-snat",
            "TCP in the active's flowtable, IPv4 with SNAT",
            source=plan.OFFLOADED4,
            destination=plan.SERVER4,
            near=plan.CLIENT,
        )

    async def arm(self) -> None:
        """What is offloaded leaves the flowtable after 30 s without a packet."""
        await self.prove()


class TcpStream(Flow):
    """A connection on which the far side sends in bursts, before, during and after the takeover."""

    def __init__(self, name: str, title: str, *, source: str, destination: str, near: str) -> None:
        super().__init__(name, title)
        self.near = near
        self._ends = source, destination

    async def open(self, nursery: trio.Nursery) -> None:
        stream = await connect(*self._ends, plan.STREAM_PORT)
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
    ("v4", "IPv4", plan.PLAIN4, plan.SERVER4, plan.CLIENT),
    ("v4-snat", "IPv4 with SNAT", plan.SNAT4, plan.SERVER4, plan.CLIENT),
    ("v4-dnat", "IPv4 with DNAT", plan.OUTSIDER4, plan.OUTSIDE4, plan.SERVER),
    ("v6", "IPv6", plan.PLAIN6, plan.SERVER6, plan.CLIENT),
    ("v6-snat", "IPv6 with SNAT", plan.SNAT6, plan.SERVER6, plan.CLIENT),
    ("v6-dnat", "IPv6 with DNAT", plan.OUTSIDER6, plan.OUTSIDE6, plan.SERVER),
    ("v4-zone", "IPv4 in a zone", plan.ZONED4, plan.SERVER4, plan.CLIENT),
    ("v4-half-zone", "IPv4, zone for one direction", plan.HALF_ZONED4, plan.SERVER4, plan.CLIENT),
    ("v4-mark", "IPv4, mark and label required", plan.MARKED4, plan.SERVER4, plan.CLIENT),
)


def flows() -> list[Flow]:
    """Return idle and streaming TCP over every path, and what is offloaded."""
    paths: list[Flow] = [
        make(f"tcp-{kind}-{path}", f"{title}, {words}", source=source, destination=destination, near=near)
        for kind, title, make in KINDS
        for path, words, source, destination, near in PATHS
    ]
    return [*paths, TcpOffloaded()]
