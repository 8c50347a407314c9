"""Defines one flow that stands for three hundred TCP connections."""

# LabFlow describes what the methods promise.
# ruff: noqa: D102, ARG002

import trio

from ftfw.lab import topology
from ftfw.lab.flows.flow_base import LOSSES, FlowLostError, LabFlow, connect
from ftfw.lab.flows.tcp_flows import exchange

SIZE = 300


class Crowd(LabFlow):
    """Keeps many idle connections, all of which have to answer after the takeover; the slowest one sets the pause."""

    def __init__(self, name: str, title: str) -> None:
        super().__init__(name, title)
        self._streams: list[trio.SocketStream] = []
        self._answered = 0

    async def open(self, nursery: trio.Nursery) -> None:
        for _ in range(SIZE):
            self._streams.append(await connect(topology.SNAT4, topology.SERVER4, topology.ECHO_PORT))
        await self.prove()

    async def prove(self) -> None:
        self._answered = 0
        async with trio.open_nursery() as nursery:
            for number, stream in enumerate(self._streams):
                nursery.start_soon(self._ask, number, stream)
        if self._answered < SIZE:
            raise FlowLostError(self.trouble)
        self.trouble = ""
        self.hear()

    async def _ask(self, number: int, stream: trio.SocketStream) -> None:
        try:
            await exchange(stream, b"%d" % number)
            self._answered += 1
        except LOSSES:
            pass  # the number of answers tells
        self.trouble = f"{self._answered} of {SIZE} answered"


def flows() -> list[LabFlow]:
    """Return the one flow that stands for all of them."""
    return [Crowd("tcp-300", f"{SIZE} TCP connections at once, IPv4 with SNAT")]
