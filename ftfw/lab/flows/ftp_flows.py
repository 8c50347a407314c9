"""Defines FTP flows: a takeover in each phase of each way to open a data connection."""

# LabFlow describes what the methods promise.
# ruff: noqa: D102, ARG002

import itertools
import re
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import trio

from ftfw.lab import topology
from ftfw.lab.flows.flow_base import FlowLostError, LabFlow, connect, family, receive_exactly
from ftfw.lab.flows.program_flows import lines
from ftfw.lab.flows.tcp_flows import BLOCK_SIZE, block

TRANSFER_BLOCKS = 5
PASSIVE_REPLY = re.compile(r"\((\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\)")
EXTENDED_PASSIVE_REPLY = re.compile(r"\(\|\|\|(\d+)\|\)")


class FtpControl:
    """Sends commands and reads replies on an FTP control connection that is logged in."""

    def __init__(self, stream: trio.SocketStream, note: Callable[[str], None]) -> None:
        self._stream = stream
        self._note = note
        self._lines = lines(stream)
        self.local: str = stream.socket.getsockname()[0]
        self.peer: str = stream.socket.getpeername()[0]

    @classmethod
    async def login(cls, source: str, destination: str, note: Callable[[str], None]) -> Self:
        """Connect, log in as the anonymous user, and return the connection.

        `note` is called with a description of what the connection waits for.
        """
        control = cls(await connect(source, destination, topology.FTP_PORT), note)
        await control.reply("220")
        await control.command("USER anonymous", "331")
        await control.command("PASS lab@example", "230")
        await control.command("TYPE I", "200")
        return control

    async def command(self, line: str, *codes: str) -> str:
        """Send a command and return its reply. Raises FlowLostError if the reply has none of the codes."""
        await self._stream.send_all(line.encode() + b"\r\n")
        return await self.reply(*codes, to=line)

    async def reply(self, *codes: str, to: str = "the connection") -> str:
        """Return the next reply. Raises FlowLostError if it has none of the codes, or the server hung up."""
        self._note(f"no FTP reply to {to}")
        while (line := (await anext(self._lines, "")).rstrip("\r")) and line[3:4] == "-":
            pass
        if not line.startswith(codes):
            raise FlowLostError(f"FTP reply to {to}: {line or 'connection closed'}")
        self._note({"1": "no data", "2": "no data connection"}.get(line[0], ""))
        return line


class FtpData(ABC):
    """Announces a data connection now, and opens it later."""

    def __init__(self, control: FtpControl) -> None:
        self.control = control

    @abstractmethod
    async def announce(self) -> None:
        """Agree on the data connection; the helper on the firewall then expects it."""

    @abstractmethod
    async def retrieve(self, file: str) -> trio.SocketStream:
        """Ask for a file and return the data connection after it has been opened."""


class PassiveMode(FtpData):
    """Uses PASV: the server tells its address and port."""

    async def announce(self) -> None:
        reply = await self.control.command("PASV", "227")
        if not (found := PASSIVE_REPLY.search(reply)):
            raise FlowLostError(f"FTP reply to PASV: {reply}")
        *address, high, low = found.groups()
        self._target = ".".join(address), int(high) * 256 + int(low)

    async def retrieve(self, file: str) -> trio.SocketStream:
        stream = await connect(self.control.local, *self._target)
        await self.control.command(f"RETR {file}", "150")
        return stream


class ExtendedPassiveMode(PassiveMode):
    """Uses EPSV: the server tells its port."""

    async def announce(self) -> None:
        reply = await self.control.command("EPSV", "229")
        if not (found := EXTENDED_PASSIVE_REPLY.search(reply)):
            raise FlowLostError(f"FTP reply to EPSV: {reply}")
        self._target = self.control.peer, int(found[1])


class ActiveMode(FtpData):
    """Uses PORT: the client tells its address and port, and the server connects to it."""

    async def announce(self) -> None:
        self._listener = trio.socket.socket(family(self.control.local), socket.SOCK_STREAM)
        await self._listener.bind((self.control.local, 0))
        self._listener.listen(1)
        await self.control.command(self.announcement(self._listener.getsockname()[1]), "200")

    def announcement(self, port: int) -> str:
        """Return the command that tells the server where to connect."""
        return f"PORT {self.control.local.replace('.', ',')},{port // 256},{port % 256}"

    async def retrieve(self, file: str) -> trio.SocketStream:
        with self._listener as listener:
            await self.control.command(f"RETR {file}", "150")
            sock, _ = await listener.accept()
        return trio.SocketStream(sock)


class ExtendedActiveMode(ActiveMode):
    """Uses EPRT: the client tells family, address and port, and the server connects to it."""

    def announcement(self, port: int) -> str:
        number = 2 if family(self.control.local) == socket.AF_INET6 else 1
        return f"EPRT |{number}|{self.control.local}|{port}|"


class FtpNew(LabFlow):
    """Announces and opens a data connection after the takeover."""

    def __init__(self, name: str, title: str, *, source: str, destination: str, near: str, way: type[FtpData]) -> None:
        super().__init__(name, title)
        self.near = near
        self._ends = source, destination
        self.way = way
        self.control: FtpControl

    async def open(self, nursery: trio.Nursery) -> None:
        self.control = await FtpControl.login(*self._ends, self._note)
        await self.prove_new()

    def _note(self, trouble: str) -> None:
        self.trouble = trouble

    async def prove_new(self) -> None:
        """Announce a data connection and fetch a small file over it."""
        data = self.way(self.control)
        await data.announce()
        await self.fetch(data)

    async def fetch(self, data: FtpData) -> None:
        """Fetch a small file over a data connection that has been announced."""
        async with await data.retrieve(topology.SMALL_FILE) as stream:
            received = b"".join([piece async for piece in stream])
        if received.decode(errors="replace").strip() != topology.SMALL_TEXT:
            raise FlowLostError(f"the file came damaged: {received[:40]!r}")
        self.hear()
        await self.control.reply("226", to="RETR")

    async def prove(self) -> None:
        await self.prove_new()


class FtpPending(FtpNew):
    """Announces a data connection before the takeover and opens it afterwards."""

    async def arm(self) -> None:
        self._data = self.way(self.control)
        await self._data.announce()

    async def prove(self) -> None:
        await self.fetch(self._data)
        await self.prove_new()


class FtpTransfer(FtpNew):
    """Transfers a file during the takeover."""

    async def open(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        await super().open(nursery)

    async def arm(self) -> None:
        data = self.way(self.control)
        await data.announce()
        self._stream = await data.retrieve(topology.BIG_FILE)
        self._nursery.start_soon(self.watch, self._read)
        await self.hear_more(TRANSFER_BLOCKS)

    async def _read(self) -> None:
        try:
            for number in itertools.count():
                if await receive_exactly(self._stream, BLOCK_SIZE) != block(number):
                    raise FlowLostError(f"block {number} of the transfer is damaged")
                self.hear()
        except trio.ClosedResourceError:
            return  # `prove` has closed the stream

    async def prove(self) -> None:
        await self.hear_more(TRANSFER_BLOCKS)
        await self._reset()
        await self.control.reply("426", to="the end of the transfer")
        await self.prove_new()

    async def _reset(self) -> None:
        """Abort the transfer with RST, which passes only if the firewall knows the sequence numbers."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self._stream)


PASV, EPSV, PORT, EPRT = (
    ("pasv", PassiveMode),
    ("epsv", ExtendedPassiveMode),
    ("port", ActiveMode),
    ("eprt", ExtendedActiveMode),
)
PATHS = (
    # name, title, source, destination, near, ways
    ("v4", "IPv4", topology.PLAIN4, topology.SERVER4, topology.CLIENT, (PASV, PORT, EPSV, EPRT)),
    ("v4-snat", "IPv4 with SNAT", topology.SNAT4, topology.SERVER4, topology.CLIENT, (PASV, PORT, EPSV, EPRT)),
    ("v6", "IPv6", topology.PLAIN6, topology.SERVER6, topology.CLIENT, (EPSV, EPRT)),
    ("v4-dnat", "server behind DNAT", topology.OUTSIDER4, topology.OUTSIDE4, topology.SERVER, (PASV, PORT)),
    ("v4-zone", "IPv4 in a zone", topology.ZONED4, topology.SERVER4, topology.CLIENT, (PASV, PORT)),
)
PHASES = (
    ("new", "new data connection", FtpNew),
    ("pending", "expectation pending", FtpPending),
    ("transfer", "transfer under way", FtpTransfer),
)


def flows() -> list[LabFlow]:
    """Return one flow for each path, each way to open a data connection that it has, and each phase."""
    return [
        make(
            f"ftp-{way}-{phase}-{path}",
            f"FTP {way.upper()}, {what}, {words}",
            source=source,
            destination=destination,
            near=near,
            way=data,
        )
        for path, words, source, destination, near, ways in PATHS
        for way, data in ways
        for phase, what, make in PHASES
    ]
