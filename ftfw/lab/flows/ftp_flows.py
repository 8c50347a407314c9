"""FTP, step by step: every way to open a data connection, met by the takeover in every phase."""

# What the phases promise stands at Flow.
# ruff: noqa: D102, ARG002

import itertools
import re
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import trio

from ftfw.lab import plan
from ftfw.lab.flows.flow_base import Flow, FlowLostError, connect, family, receive_exactly
from ftfw.lab.flows.program_flows import lines
from ftfw.lab.flows.tcp_flows import BLOCK_SIZE, block

TRANSFER_BLOCKS = 5
PASSIVE_REPLY = re.compile(r"\((\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\)")
EXTENDED_PASSIVE_REPLY = re.compile(r"\(\|\|\|(\d+)\|\)")


class Control:
    """An FTP control connection, already logged in."""

    def __init__(self, stream: trio.SocketStream, note: Callable[[str], None]) -> None:
        self._stream = stream
        self._note = note
        self._lines = lines(stream)
        self.local: str = stream.socket.getsockname()[0]
        self.peer: str = stream.socket.getpeername()[0]

    @classmethod
    async def login(cls, source: str, destination: str, note: Callable[[str], None]) -> Self:
        """Connect and log in as the anonymous user; `note` is told what is being waited for."""
        control = cls(await connect(source, destination, plan.FTP_PORT), note)
        await control.reply("220")
        await control.command("USER anonymous", "331")
        await control.command("PASS lab@example", "230")
        await control.command("TYPE I", "200")
        return control

    async def command(self, line: str, *codes: str) -> str:
        """Send a command and return its reply, which must have one of the codes."""
        await self._stream.send_all(line.encode() + b"\r\n")
        return await self.reply(*codes, to=line)

    async def reply(self, *codes: str, to: str = "the connection") -> str:
        """Return the next reply; FlowLostError if its code is another or the server has hung up."""
        self._note(f"no FTP reply to {to}")
        while (line := (await anext(self._lines, "")).rstrip("\r")) and line[3:4] == "-":
            pass
        if not line.startswith(codes):
            raise FlowLostError(f"FTP reply to {to}: {line or 'connection closed'}")
        self._note({"1": "no data", "2": "no data connection"}.get(line[0], ""))
        return line


class Data(ABC):
    """A data connection that is announced now and opened later."""

    def __init__(self, control: Control) -> None:
        self.control = control

    @abstractmethod
    async def announce(self) -> None:
        """Agree upon the data connection, by which the helper on the firewall learns to expect it."""

    @abstractmethod
    async def retrieve(self, file: str) -> trio.SocketStream:
        """Ask for a file and return the opened data connection."""


class Passive(Data):
    """PASV: the server tells its address and port."""

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


class ExtendedPassive(Passive):
    """EPSV: the server tells its port."""

    async def announce(self) -> None:
        reply = await self.control.command("EPSV", "229")
        if not (found := EXTENDED_PASSIVE_REPLY.search(reply)):
            raise FlowLostError(f"FTP reply to EPSV: {reply}")
        self._target = self.control.peer, int(found[1])


class Active(Data):
    """PORT: the client tells its address and port, and the server connects."""

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


class ExtendedActive(Active):
    """EPRT: the same for both families."""

    def announcement(self, port: int) -> str:
        number = 2 if family(self.control.local) == socket.AF_INET6 else 1
        return f"EPRT |{number}|{self.control.local}|{port}|"


class Ftp(Flow):
    """A control connection that opens a data connection after the takeover."""

    def __init__(self, name: str, title: str, *, source: str, destination: str, near: str, way: type[Data]) -> None:
        super().__init__(name, title)
        self.near = near
        self._ends = source, destination
        self.way = way
        self.control: Control

    async def open(self, nursery: trio.Nursery) -> None:
        self.control = await Control.login(*self._ends, self._note)
        await self.prove_new()

    def _note(self, trouble: str) -> None:
        self.trouble = trouble

    async def prove_new(self) -> None:
        """Fetch a small file from announcement to end."""
        data = self.way(self.control)
        await data.announce()
        await self.fetch(data)

    async def fetch(self, data: Data) -> None:
        """Fetch a small file over a data connection that has been announced."""
        async with await data.retrieve(plan.SMALL_FILE) as stream:
            received = b"".join([piece async for piece in stream])
        if received.decode(errors="replace").strip() != plan.SMALL_TEXT:
            raise FlowLostError(f"the file came damaged: {received[:40]!r}")
        self.hear()
        await self.control.reply("226", to="RETR")

    async def prove(self) -> None:
        await self.prove_new()


class FtpPending(Ftp):
    """The data connection is announced before the takeover and opened after it."""

    async def arm(self) -> None:
        self._data = self.way(self.control)
        await self._data.announce()

    async def prove(self) -> None:
        await self.fetch(self._data)
        await self.prove_new()


class FtpTransfer(Ftp):
    """A transfer is under way at the takeover."""

    async def open(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        await super().open(nursery)

    async def arm(self) -> None:
        data = self.way(self.control)
        await data.announce()
        self._stream = await data.retrieve(plan.BIG_FILE)
        self._nursery.start_soon(self.watch, self._read)
        await self.hear_more(TRANSFER_BLOCKS)

    async def _read(self) -> None:
        try:
            for number in itertools.count():
                if await receive_exactly(self._stream, BLOCK_SIZE) != block(number):
                    raise FlowLostError(f"block {number} of the transfer is damaged")
                self.hear()
        except trio.ClosedResourceError:
            return  # by prove, below

    async def prove(self) -> None:
        await self.hear_more(TRANSFER_BLOCKS)
        await self._reset()
        await self.control.reply("426", to="the end of the transfer")
        await self.prove_new()

    async def _reset(self) -> None:
        """Give the transfer up with RST, which the firewall has to know for a valid one."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self._stream)


PASV, EPSV, PORT, EPRT = (
    ("pasv", Passive),
    ("epsv", ExtendedPassive),
    ("port", Active),
    ("eprt", ExtendedActive),
)
PATHS = (
    # name, title, source, destination, near, ways
    ("v4", "IPv4", plan.PLAIN4, plan.SERVER4, plan.CLIENT, (PASV, PORT, EPSV, EPRT)),
    ("v4-snat", "IPv4 with SNAT", plan.SNAT4, plan.SERVER4, plan.CLIENT, (PASV, PORT, EPSV, EPRT)),
    ("v6", "IPv6", plan.PLAIN6, plan.SERVER6, plan.CLIENT, (EPSV, EPRT)),
    ("v4-dnat", "server behind DNAT", plan.OUTSIDER4, plan.OUTSIDE4, plan.SERVER, (PASV, PORT)),
    ("v4-zone", "IPv4 in a zone", plan.ZONED4, plan.SERVER4, plan.CLIENT, (PASV, PORT)),
)
PHASES = (
    ("new", "new data connection", Ftp),
    ("pending", "expectation pending", FtpPending),
    ("transfer", "transfer under way", FtpTransfer),
)


def flows() -> list[Flow]:
    """Return every way over every path that has it, in every phase."""
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
