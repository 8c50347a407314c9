"""UDP where the server speaks first."""

# What the phases promise stands at Flow.
# ruff: noqa: D102

import socket

import trio

from ftfw.lab import plan
from ftfw.lab.flows.flow_base import Flow, family

HELLO = b"hello"


class ServerFirst(Flow):
    """The client is silent after its hello; it is the server that has news after the takeover."""

    def __init__(self, name: str, title: str, *, source: str, destination: str) -> None:
        super().__init__(name, title)
        self._ends = source, destination
        self._sock: trio.socket.SocketType

    async def open(self, nursery: trio.Nursery) -> None:
        source, destination = self._ends
        sock = trio.socket.socket(family(source), socket.SOCK_DGRAM)
        await sock.bind((source, 0))
        await sock.connect((destination, plan.SPEAK_PORT))
        self._sock = sock
        nursery.start_soon(self.watch, lambda: self._listen(sock))
        await self.arm()

    async def arm(self) -> None:
        """Say hello, again if it is long ago: the kernel forgets what is silent for two minutes."""
        expected = len(self.heard) + 1  # it may be there before anybody waits for it
        await self._sock.send(HELLO)
        await self.hear_all(expected)

    async def _listen(self, sock: trio.socket.SocketType) -> None:
        with sock:
            while True:
                await sock.recv(2048)
                self.hear()

    async def prove(self) -> None:
        await self.hear_more(3)


PATHS = (
    ("v4", "IPv4", plan.PLAIN4, plan.SERVER4),
    ("v4-snat", "IPv4 with SNAT", plan.SNAT4, plan.SERVER4),
    ("v6", "IPv6", plan.PLAIN6, plan.SERVER6),
    ("v6-snat", "IPv6 with SNAT", plan.SNAT6, plan.SERVER6),
    ("v4-zone", "IPv4 in a zone", plan.ZONED4, plan.SERVER4),
)


def flows() -> list[Flow]:
    """Return one flow per path."""
    return [
        ServerFirst(f"udp-{path}", f"UDP, server speaks first, {words}", source=source, destination=destination)
        for path, words, source, destination in PATHS
    ]
