"""Three hundred TCP connections at once."""

# What the phases promise stands at Flow.
# ruff: noqa: D102, ARG002

import trio

from ftfw.lab import plan
from ftfw.lab.flows.flow_base import LOSSES, Flow, FlowLostError, connect
from ftfw.lab.flows.tcp_flows import exchange

SIZE = 300


class Crowd(Flow):
    """Many idle connections that all have to answer afterwards; the slowest one tells the pause."""

    def __init__(self, name: str, title: str) -> None:
        super().__init__(name, title)
        self._streams: list[trio.SocketStream] = []
        self._answered = 0

    async def open(self, nursery: trio.Nursery) -> None:
        for _ in range(SIZE):
            self._streams.append(await connect(plan.SNAT4, plan.SERVER4, plan.ECHO_PORT))
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
            pass  # counted below
        self.trouble = f"{self._answered} of {SIZE} answered"


def flows() -> list[Flow]:
    """Return the one row for all of them."""
    return [Crowd("tcp-300", f"{SIZE} TCP connections at once, IPv4 with SNAT")]
