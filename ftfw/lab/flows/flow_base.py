"""What every flow is: a conversation with phases, and a record of when something useful was heard."""

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import trio

from ftfw.lab import plan

now = time.monotonic


class FlowLostError(Exception):
    """The flow does not live; the message says how that showed."""


LOSSES = (FlowLostError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What a phase may raise when its flow is lost; anything else is a fault of the lab."""


class Flow(ABC):
    """One conversation, run by the agent on the host `near`.

    The lab calls `open` once, then for each takeover `arm` before it and `prove` after it. A phase that
    raises one of LOSSES, or takes too long, means that the flow is lost. Flows end with their agent.
    """

    near: str = plan.CLIENT
    offloaded_source = ""
    """Its client's address, if it is meant to be in a flowtable of the active's kernel."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self.heard: list[float] = []
        """When something useful came in, by this host's monotonic clock."""
        self._more = trio.Event()
        self.trouble = ""
        """What is known to be wrong: the reason given when a phase takes too long."""

    @abstractmethod
    async def open(self, nursery: trio.Nursery) -> None:
        """Set the conversation up and see it work; what must run on goes into the nursery."""

    async def arm(self) -> None:
        """Bring the conversation into the state in which the takeover is to meet it."""
        return

    @abstractmethod
    async def prove(self) -> None:
        """Return once the conversation has shown that it lives on; called when the takeover is done."""

    def hear(self) -> None:
        """Record that something useful came in."""
        self.heard.append(now())
        self._more.set()
        self._more = trio.Event()

    async def hear_more(self, count: int) -> None:
        """Wait until `count` more useful messages have come in."""
        await self.hear_all(len(self.heard) + count)

    async def hear_all(self, count: int) -> None:
        """Wait until `count` useful messages have come in since the beginning."""
        while len(self.heard) < count:
            await self._more.wait()

    async def watch(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run background work; when it is lost, `trouble` says why and nothing more is heard."""
        try:
            await work()
        except LOSSES as error:
            self.trouble = str(error) or type(error).__name__


def family(address: str) -> int:
    """Return the socket family of an address."""
    return socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET


async def connect(source: str, destination: str, port: int) -> trio.SocketStream:
    """Open a TCP connection from a given address of this host."""
    sock = trio.socket.socket(family(destination), socket.SOCK_STREAM)
    try:
        await sock.bind((source, 0))
        await sock.connect((destination, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Return exactly `size` bytes; FlowLostError if the stream ends before."""
    data = b""
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        if not piece:
            raise FlowLostError("the far side closed the connection")
        data += piece
    return data
