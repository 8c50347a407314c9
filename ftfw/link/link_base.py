"""What all links have in common: counters, and a socket that is opened again when its interface was away."""

import errno
import logging
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import trio

from ftfw.config.schema import Address
from ftfw.system.interfaces import index, interface

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5  # between two looks at the interface
ETHERNET_MTU: Final = 1500
# A link that is down, an address or a route that comes back in a moment, or a peer that resets: none ends the daemon.
SURVIVED: Final = frozenset(
    {
        errno.EACCES,  # a route that prohibits
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EAGAIN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EINVAL,  # the kernel's word for a source address that is gone
        errno.EMSGSIZE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOBUFS,
        errno.ENODEV,
        errno.ENOPROTOOPT,
        errno.ENOTCONN,
        errno.EPERM,  # a packet filter's word
        errno.EPIPE,
        errno.EPROTO,
        errno.ETIMEDOUT,
    }
)


class Taken(NamedTuple):
    """What became of a batch of frames."""

    authentic: int  # how many were sealed with a key of ours, new or not
    name: str | None  # of the node that sent them, if they say


Received = Callable[[list[bytes]], Taken]
"""Takes a batch of frames, at once."""


def survived(error: OSError) -> str:
    """The name under which an error is counted; one that no link can have is raised again."""
    if error.errno not in SURVIVED:
        raise error
    return errno.errorcode[error.errno].lower()


def socket_address(address: Address, port: int) -> tuple[str, int]:
    """An address as sockets take it; the scope of an IPv6 address is the interface's, to which the socket is bound."""
    return str(address).partition("%")[0], port


class Link(ABC):
    """A way to other nodes.  It is open once made; the constructor raises OSError if it cannot be."""

    def __init__(self, *, name: str, pinned_to: str | None, version: int) -> None:
        self.name = name
        self.frame_limit = 0  # bytes; the longest frame that goes through in one piece
        self.sent = self.received = self.bytes_sent = self.bytes_received = 0  # frames, and their bytes
        self.dropped: Counter[str] = Counter()
        self.heard_at = float("-inf")  # when an authentic frame was last received; the receiver's to keep
        self._family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._pinned_to = pinned_to
        self._index = 0
        self._running = True
        self._socket: socket.socket | None = None
        self._opened = trio.Event()  # replaced when the socket is closed

    @property
    @abstractmethod
    def up(self) -> bool:
        """Whether frames go out, as far as this end can tell."""

    @abstractmethod
    def send(self, frame: bytes) -> None:
        """Send a frame, without waiting; one that cannot be sent now is counted and lost, as on any wire."""

    @abstractmethod
    async def run(self, received: Received) -> None:
        """Hand what comes in to `received`, in batches of a few milliseconds' work, until cancelled."""

    @abstractmethod
    def admit(self, key_ids: Iterable[bytes]) -> None:
        """Take frames under these keys only, from now on, where the kernel can tell."""

    def counts(self) -> dict[str, Any]:
        """The counters, as `status` shows them."""
        return {
            "sent": self.sent,
            "received": self.received,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "dropped": dict(self.dropped),
        }

    def close(self) -> None:
        """Close for good."""
        if self._socket is not None:
            self._socket.close()

    # For the transports

    @abstractmethod
    def _make(self) -> socket.socket:
        """A socket that is ready to receive.  Raises OSError."""

    def _open(self) -> None:
        self._index = index(self._pinned_to) if self._pinned_to else 0
        self._socket = self._make()
        self._opened.set()

    def _shut(self) -> None:
        """Let go of a socket whose interface is gone: it would not work on another of that name."""
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None
            self._opened = trio.Event()

    def _new_socket(self, kind: int) -> socket.socket:
        """A socket that uses the link's interface only."""
        made = socket.socket(self._family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        if self._pinned_to:
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._pinned_to.encode())
            except OSError:
                made.close()
                raise
        return made

    async def _readable(self) -> socket.socket:
        """The socket, once there is something to read; a checkpoint in any case."""
        while True:
            if self._socket is None:
                await self._opened.wait()
                continue
            reading = self._socket
            try:
                await trio.lowlevel.wait_readable(reading)
            except trio.ClosedResourceError:
                continue
            return reading

    async def _keep_open(self) -> None:
        """Follow the interface: whether it runs, and whether it is still the one that the socket was opened on."""
        while self._pinned_to:
            self._look_at(self._pinned_to)
            await trio.sleep(LOOK_S)

    def _look_at(self, name: str) -> None:
        state = interface(name)
        running = state is not None and state.up and state.running
        if index(name) != self._index:
            self._shut()
        if self._socket is None and state is not None:
            try:
                self._open()
            except OSError as error:
                survived(error)
        running = running and self._socket is not None
        if running != self._running:
            why = "is back" if running else "is down" if state is not None else "is gone"
            log.log(logging.INFO if running else logging.WARNING, "%s: %s %s", self.name, name, why)
        self._running = running
