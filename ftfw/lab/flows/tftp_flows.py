"""Defines TFTP flows: the expectation of the helper lets the server answer from another port."""

# LabFlow describes what the methods promise.
# ruff: noqa: D102

import socket
import struct

import trio

from ftfw.lab import topology
from ftfw.lab.flows.flow_base import FlowLostError, LabFlow
from ftfw.lab.flows.tcp_flows import BLOCK_SIZE, block

READ_REQUEST, DATA, ACKNOWLEDGEMENT, ERROR = 1, 3, 4, 5
TFTP_BLOCK_SIZE = 512
PACE_S = 0.1
LATE_FILE = b"late"


def content(number: int) -> bytes:
    """Return block `number` of the file, counted from 1 (512 bytes)."""
    start = (number - 1) * TFTP_BLOCK_SIZE
    return block(start // BLOCK_SIZE)[start % BLOCK_SIZE :][:TFTP_BLOCK_SIZE]


class Tftp(LabFlow):
    """Downloads a file and acknowledges so slowly that the transfer spans both takeovers."""

    def __init__(self, name: str, title: str, *, source: str, port: int, file: bytes, pending: bool) -> None:
        super().__init__(name, title)
        self._source, self._port, self._file, self._pending = source, port, file, pending

    async def open(self, nursery: trio.Nursery) -> None:
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await sock.bind((self._source, 0))
        request = struct.pack("!H", READ_REQUEST) + self._file + b"\0octet\0"
        await sock.sendto(request, (topology.SERVER4, self._port))
        nursery.start_soon(self.watch, lambda: self._download(sock))
        if not self._pending:
            await self.hear_more(3)

    async def _download(self, sock: trio.socket.SocketType) -> None:
        expected = 1
        with sock:
            while True:
                packet, peer = await sock.recvfrom(2048)
                code, number = struct.unpack_from("!HH", packet)
                if code != DATA:
                    raise FlowLostError(f"the TFTP server says: {packet[4:-1].decode(errors='replace')}")
                if number == expected & 0xFFFF:
                    if packet[4:] != content(expected):
                        raise FlowLostError(f"block {expected} is damaged")
                    expected += 1
                    self.hear()
                    await trio.sleep(PACE_S)
                await sock.sendto(struct.pack("!HH", ACKNOWLEDGEMENT, number), peer)

    async def prove(self) -> None:
        await self.hear_more(5)


def flows() -> list[LabFlow]:
    """Return a transfer and a request without its answer, over each path."""
    return [
        Tftp(
            f"tftp-{phase}{suffix}",
            f"TFTP, {words}, IPv4{path}",
            source=source,
            port=port,
            file=file,
            pending=phase == "pending",
        )
        for phase, words, port, file in (
            ("pending", "answer pending", topology.LATE_TFTP_PORT, LATE_FILE),
            ("transfer", "transfer under way", topology.TFTP_PORT, topology.BIG_FILE.encode()),
        )
        for suffix, path, source in (
            ("-v4", "", topology.PLAIN4),
            ("-v4-snat", " with SNAT", topology.SNAT4),
            ("-v4-zone", " in a zone", topology.ZONED4),
        )
    ]
