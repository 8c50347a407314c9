"""Defines UDP flows in which the server sends first after the takeover."""

# LabFlow describes what the methods promise.
# ruff: noqa: D102

import socket

import trio

from ftfw.lab import topology
from ftfw.lab.flows.flow_base import LabFlow, family

HELLO = b"hello"


class ServerFirst(LabFlow):
    """Sends one datagram before each takeover; after the takeover the server sends first."""

    def __init__(self, name: str, title: str, *, source: str, destination: str) -> None:
        super().__init__(name, title)
        self._ends = source, destination
        self._sock: trio.socket.SocketType

    async def open(self, nursery: trio.Nursery) -> None:
        source, destination = self._ends
        sock = trio.socket.socket(family(source), socket.SOCK_DGRAM)
        await sock.bind((source, 0))
        await sock.connect((destination, topology.SPEAK_PORT))
        self._sock = sock
        nursery.start_soon(self.watch, lambda: self._listen(sock))
        await self.arm()

    async def arm(self) -> None:
        """Send a datagram and wait for the answer: the kernel forgets a flow that is silent for two minutes."""
        expected = len(self.heard) + 1  # the answer may arrive before `hear_all` waits for it
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
    ("v4", "IPv4", topology.PLAIN4, topology.SERVER4),
    ("v4-snat", "IPv4 with SNAT", topology.SNAT4, topology.SERVER4),
    ("v6", "IPv6", topology.PLAIN6, topology.SERVER6),
    ("v6-snat", "IPv6 with SNAT", topology.SNAT6, topology.SERVER6),
    ("v4-zone", "IPv4 in a zone", topology.ZONED4, topology.SERVER4),
)


def flows() -> list[LabFlow]:
    """Return one flow per path."""
    return [
        ServerFirst(f"udp-{path}", f"UDP, server speaks first, {words}", source=source, destination=destination)
        for path, words, source, destination in PATHS
    ]
