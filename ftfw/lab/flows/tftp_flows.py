"""TFTP: the helper's expectation lets the server answer from a port of its own."""

# What the phases promise stands at Flow.
# ruff: noqa: D102

import socket
import struct

import trio

from ftfw.lab import plan
from ftfw.lab.flows.flow_base import Flow, FlowLostError
from ftfw.lab.flows.tcp_flows import BLOCK_SIZE, block

READ_REQUEST, DATA, ACKNOWLEDGEMENT, ERROR = 1, 3, 4, 5
TFTP_BLOCK_SIZE = 512
PACE_S = 0.1
LATE_FILE = b"late"


def content(number: int) -> bytes:
    """Return block `number`, counted from 1, of the file."""
    start = (number - 1) * TFTP_BLOCK_SIZE
    return block(start // BLOCK_SIZE)[start % BLOCK_SIZE :][:TFTP_BLOCK_SIZE]


class Tftp(Flow):
    """A download in lockstep, whose client acknowledges slowly enough for it to span the takeovers."""

    def __init__(self, name: str, title: str, *, source: str, port: int, file: bytes, pending: bool) -> None:
        super().__init__(name, title)
        self._source, self._port, self._file, self._pending = source, port, file, pending

    async def open(self, nursery: trio.Nursery) -> None:
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await sock.bind((self._source, 0))
        request = struct.pack("!H", READ_REQUEST) + self._file + b"\0octet\0"
        await sock.sendto(request, (plan.SERVER4, self._port))
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


def flows() -> list[Flow]:
    """Return a transfer under way and an answer that is still expected, with and without SNAT."""
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
            ("pending", "answer pending", plan.LATE_TFTP_PORT, LATE_FILE),
            ("transfer", "transfer under way", plan.TFTP_PORT, plan.BIG_FILE.encode()),
        )
        for suffix, path, source in (
            ("-v4", "", plan.PLAIN4),
            ("-v4-snat", " with SNAT", plan.SNAT4),
            ("-v4-zone", " in a zone", plan.ZONED4),
        )
    ]
