"""GRE with a key, which no socket type but the raw one speaks."""

# What the phases promise stands at Flow.
# ruff: noqa: D102

import itertools
import socket
import struct

import trio

from .. import plan
from .base import Flow

INTERVAL_S = 0.2
KEY_PRESENT, PAYLOAD_IPV4, KEY = 0x2000, 0x0800, 0xF7F7
HEADER = struct.pack("!HHI", KEY_PRESENT, PAYLOAD_IPV4, KEY)
IPV4_HEADER_SIZE = 20


class Gre(Flow):
    """GRE packets with a key that the far side sends back."""

    def __init__(self, name: str, title: str, *, source: str) -> None:
        super().__init__(name, title)
        self._source = source

    async def open(self, nursery: trio.Nursery) -> None:
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE)
        await sock.bind((self._source, 0))
        await sock.connect((plan.SERVER4, 0))
        nursery.start_soon(self.watch, lambda: self._speak(sock))
        nursery.start_soon(self.watch, lambda: self._listen(sock))
        await self.hear_more(3)

    async def _speak(self, sock: trio.socket.SocketType) -> None:
        for number in itertools.count():
            await sock.send(HEADER + b"%d" % number)
            await trio.sleep(INTERVAL_S)

    async def _listen(self, sock: trio.socket.SocketType) -> None:
        while True:
            packet = await sock.recv(2048)
            if packet[IPV4_HEADER_SIZE:].startswith(HEADER):
                self.hear()

    async def prove(self) -> None:
        # An entry that lets one packet through and dies is not enough.
        await self.hear_more(10)


def flows() -> list[Flow]:
    """Return the keyed GRE flows."""
    return [
        Gre("gre-v4", "GRE with a key, IPv4", source=plan.PLAIN4),
        Gre("gre-v4-snat", "GRE with a key, IPv4 with SNAT", source=plan.SNAT4),
    ]
