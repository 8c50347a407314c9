"""Defines GRE flows with a key, over raw sockets.

The kernel tracks GRE version 0 by its addresses only, with or without a key. It tracks version 1 (enhanced GRE, as in
PPTP) by the call id; without the PPTP helper each direction is a flow of its own that never becomes established.
"""

# LabFlow describes what the methods promise.
# ruff: noqa: D102

import itertools
import socket
import struct

import trio

from ftfw.lab import topology
from ftfw.lab.flows.flow_base import LabFlow

INTERVAL_S = 0.2
KEY_PRESENT, SEQUENCE_PRESENT, ENHANCED = 0x2000, 0x1000, 0x0001
PAYLOAD_IPV4, PAYLOAD_PPP = 0x0800, 0x880B
KEY, CALL_THERE, CALL_BACK = 0xF7F7, 0x0A0A, 0x0B0B
PAYLOAD = b"GRE!"
IPV4_HEADER_SIZE = 20


def plain_packet() -> bytes:
    """Return a GRE packet of version 0 with a key, without its IP header."""
    return struct.pack("!HHI", KEY_PRESENT, PAYLOAD_IPV4, KEY) + PAYLOAD


def enhanced_packet(call: int, number: int) -> bytes:
    """Return a GRE packet of version 1 for a call id, without its IP header."""
    flags = KEY_PRESENT | SEQUENCE_PRESENT | ENHANCED
    return struct.pack("!HHHHI", flags, PAYLOAD_PPP, len(PAYLOAD), call, number) + PAYLOAD


def answer(packet: bytes, number: int) -> bytes | None:
    """Return the answer to a GRE packet of these flows; None for any other packet."""
    if packet == plain_packet():
        return packet
    if packet[:8] == enhanced_packet(CALL_THERE, 0)[:8]:
        return enhanced_packet(CALL_BACK, number)
    return None


class Gre(LabFlow):
    """Sends GRE packets that the server answers."""

    def __init__(self, name: str, title: str, *, source: str, enhanced: bool) -> None:
        super().__init__(name, title)
        self._source, self._enhanced = source, enhanced

    async def open(self, nursery: trio.Nursery) -> None:
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE)
        await sock.bind((self._source, 0))
        await sock.connect((topology.SERVER4, 0))
        nursery.start_soon(self.watch, lambda: self._speak(sock))
        nursery.start_soon(self.watch, lambda: self._listen(sock))
        await self.hear_more(3)

    async def _speak(self, sock: trio.socket.SocketType) -> None:
        for number in itertools.count():
            await sock.send(enhanced_packet(CALL_THERE, number) if self._enhanced else plain_packet())
            await trio.sleep(INTERVAL_S)

    async def _listen(self, sock: trio.socket.SocketType) -> None:
        expected = (enhanced_packet(CALL_BACK, 0) if self._enhanced else plain_packet())[:8]
        while True:
            packet = await sock.recv(2048)
            if packet[IPV4_HEADER_SIZE:].startswith(expected):
                self.hear()

    async def prove(self) -> None:
        # More than one: an entry that lets one packet pass and then disappears is not enough.
        await self.hear_more(10)


def flows() -> list[LabFlow]:
    """Return the GRE flows."""
    return [
        Gre("gre-v4", "GRE with a key, IPv4", source=topology.PLAIN4, enhanced=False),
        Gre("gre-v4-snat", "GRE with a key, IPv4 with SNAT", source=topology.SNAT4, enhanced=False),
        Gre("gre-call-v4", "GRE by call id, a flow each way, IPv4", source=topology.CALLER4, enhanced=True),
    ]
