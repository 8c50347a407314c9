"""Serves traffic from the agents that no real server makes when the lab needs it."""

import itertools
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from ftfw.lab import topology
from ftfw.lab.flows import gre_flows
from ftfw.lab.flows.flow_base import family
from ftfw.lab.flows.tcp_flows import block
from ftfw.lab.flows.tftp_flows import ACKNOWLEDGEMENT, DATA, content

BURST_BLOCKS, BURST_INTERVAL_S = 8, 0.05
NEWS_COUNT, INTERVAL_S = 15, 0.2


class AgentServices:
    """Serves TCP echo and stream on every host; on the server also UDP and TFTP that answer late, and GRE echo."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._taken_over = trio.Event()
        self._listeners: list[tuple[trio.socket.SocketType, Any]] = []

    async def start(self, host: str) -> None:
        """Start the services of that host; those over TCP and UDP listen when this returns."""
        await self._nursery.start(trio.serve_tcp, partial(_guard, _echo), topology.ECHO_PORT)
        await self._nursery.start(trio.serve_tcp, partial(_guard, _stream), topology.STREAM_PORT)
        if host == topology.SERVER:
            for address in (topology.SERVER4, topology.SERVER6):
                self._nursery.start_soon(self._speak_late, await _udp(address, topology.SPEAK_PORT))
            self._nursery.start_soon(self._tftp_late, await _udp(topology.SERVER4, topology.LATE_TFTP_PORT))
            self._nursery.start_soon(_gre_echo)

    def takeover_done(self) -> None:
        """Let the services send that wait for the end of a takeover."""
        self._taken_over.set()
        for sock, peer in self._listeners:
            self._nursery.start_soon(_news_for, sock, peer)

    async def _speak_late(self, sock: trio.socket.SocketType) -> None:
        """Answer every datagram at once, and send news to its sender after each takeover."""
        while True:
            message, peer = await sock.recvfrom(2048)
            await sock.sendto(message, peer)
            if (sock, peer) not in self._listeners:
                self._listeners.append((sock, peer))

    async def _tftp_late(self, sock: trio.socket.SocketType) -> None:
        while True:
            _, peer = await sock.recvfrom(2048)
            self._nursery.start_soon(self._tftp_transfer, peer)

    async def _tftp_transfer(self, peer: Any) -> None:
        """Send blocks from a new port, one per acknowledgement, the first one after the takeover."""
        await self._taken_over.wait()
        with await _udp(topology.SERVER4, 0) as sock:
            for number in itertools.count(1):
                acknowledged = False
                while not acknowledged:
                    packet = struct.pack("!HH", DATA, number & 0xFFFF) + content(number)
                    await _send_despite_errors(sock, packet, peer)
                    with trio.move_on_after(INTERVAL_S):
                        acknowledgement = struct.pack("!HH", ACKNOWLEDGEMENT, number & 0xFFFF)
                        while not acknowledged:
                            acknowledged = await sock.recv(2048) == acknowledgement


async def _news_for(sock: trio.socket.SocketType, peer: Any) -> None:
    for _ in range(NEWS_COUNT):
        await _send_despite_errors(sock, b"news", peer)
        await trio.sleep(INTERVAL_S)


async def _udp(address: str, port: int) -> trio.socket.SocketType:
    sock = trio.socket.socket(family(address), socket.SOCK_DGRAM)
    await sock.bind((address, port))
    return sock


async def _send_despite_errors(sock: trio.socket.SocketType, packet: bytes, peer: Any) -> None:
    # An ICMP error must not end the service: it sends again as long as the lab runs.
    try:
        await sock.sendto(packet, peer)
    except OSError:
        await trio.lowlevel.checkpoint()


async def _guard(serve: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream) -> None:
    try:
        await serve(stream)
    except (OSError, trio.BrokenResourceError):
        return  # the client is gone


async def _echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def _stream(stream: trio.SocketStream) -> None:
    for start in itertools.count(0, BURST_BLOCKS):
        await stream.send_all(b"".join(block(start + i) for i in range(BURST_BLOCKS)))
        await trio.sleep(BURST_INTERVAL_S)


async def _gre_echo() -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE) as sock:
        await sock.bind((topology.SERVER4, 0))
        for number in itertools.count():
            packet, peer = await sock.recvfrom(2048)
            if answer := gre_flows.answer(packet[gre_flows.IPV4_HEADER_SIZE :], number):
                await _send_despite_errors(sock, answer, peer)
