"""Defines the base class of all flows, and socket functions that flows share."""

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import trio

from ftfw.lab import topology

now = time.monotonic


class FlowLostError(Exception):
    """Raised if the flow is lost; the message has the symptom."""


LOSSES = (FlowLostError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""Errors by which a phase tells that its flow is lost; any other error is a fault of the lab."""


class LabFlow(ABC):
    """Runs one flow from the host `near`, and records when it received useful data.

    The lab calls `open` once, then `arm` before and `prove` after each takeover. The flow is lost if one of them
    raises one of LOSSES or takes too long. Flows end when their agent ends.
    """

    near: str = topology.CLIENT
    offloaded_source = ""
    """The source address, if the flow is to be in a flowtable of the active's kernel; otherwise empty."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self.heard: list[float] = []
        """Times at which useful data arrived, in seconds of this host's monotonic clock."""
        self._more = trio.Event()
        self.trouble = ""
        """The reason that is reported if a phase takes too long; empty if none is known."""

    @abstractmethod
    async def open(self, nursery: trio.Nursery) -> None:
        """Begin the flow and wait until it works; tasks that continue afterwards run in the nursery."""

    async def arm(self) -> None:
        """Bring the flow into the state that it is to have at the takeover."""
        return

    @abstractmethod
    async def prove(self) -> None:
        """Return once the flow has shown that it survived; called after the takeover."""

    def hear(self) -> None:
        """Record that useful data has arrived."""
        self.heard.append(now())
        self._more.set()
        self._more = trio.Event()

    async def hear_more(self, count: int) -> None:
        """Wait until `count` more useful messages have arrived."""
        await self.hear_all(len(self.heard) + count)

    async def hear_all(self, count: int) -> None:
        """Wait until `count` useful messages have arrived since the beginning."""
        while len(self.heard) < count:
            await self._more.wait()

    async def watch(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run background work; if it raises one of LOSSES, note the reason in `trouble` and return."""
        try:
            await work()
        except LOSSES as error:
            self.trouble = str(error) or type(error).__name__


def family(address: str) -> int:
    """Return the socket family of an address."""
    return socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET


async def connect(source: str, destination: str, port: int) -> trio.SocketStream:
    """Open a TCP connection from the address `source` of this host. Raises OSError if it cannot be opened."""
    sock = trio.socket.socket(family(destination), socket.SOCK_STREAM)
    try:
        await sock.bind((source, 0))
        await sock.connect((destination, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Return exactly `size` bytes. Raises FlowLostError if the stream ends before."""
    data = b""
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        if not piece:
            raise FlowLostError("the far side closed the connection")
        data += piece
    return data
