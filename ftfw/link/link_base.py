"""Defines the base class of all links: counters, and a socket that is opened as soon as that is possible."""

import errno
import logging
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import trio

from ftfw.config.value_types import Address
from ftfw.system.interfaces import interface

log = logging.getLogger(__name__)

INTERFACE_LOOK_S: Final = 0.5  # between two checks of the interface, and two attempts to open the socket
ETHERNET_MTU: Final = 1500
# A link that is down, an address or a route that comes back in a moment, or a peer that resets: none ends the daemon.
SURVIVED: Final = frozenset(
    {
        errno.EACCES,  # a route that prohibits
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,  # a kernel without IPv6
        errno.EAGAIN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EINVAL,  # what the kernel says of a source address that is gone
        errno.EMSGSIZE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOBUFS,
        errno.ENODEV,
        errno.ENOPROTOOPT,
        errno.ENOTCONN,
        errno.EPERM,  # what the kernel says when a packet filter drops
        errno.EPIPE,
        errno.EPROTO,
        errno.ETIMEDOUT,
    }
)
_PRIVILEGES: Final = "run ftfw as root, or with CAP_NET_ADMIN, and CAP_NET_BIND_SERVICE for a port below 1024"
# For errors that keep a socket from being opened.
REMEDIES: Final = {
    errno.EACCES: _PRIVILEGES,
    errno.EPERM: _PRIVILEGES,
    errno.EADDRINUSE: "end the program that has port {port} there, or set `port` of this [[link]] on all nodes",
    errno.EADDRNOTAVAIL: "add the address to an interface of this host, or correct this [[link]]",
    errno.EAFNOSUPPORT: "enable IPv6 in the kernel, or use IPv4 addresses in this [[link]]",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE= in ftfw's unit)",
    errno.ENFILE: "raise fs.file-max",
}
_USUAL_REMEDY: Final = "look at the interface and its addresses, or correct this [[link]]"


class BatchOrigin(NamedTuple):
    """Reports how many frames of a batch are authentic, and which node sent them."""

    authentic: int  # frames sealed with a key of this node, new or not
    name: str | None  # of the node that sent them, if a message names it


Received = Callable[[list[bytes]], BatchOrigin]
"""Processes a batch of frames at once."""


def survived(error: OSError) -> str:
    """Return the name under which an error is counted.  Raises the error again if it is not in SURVIVED."""
    if error.errno not in SURVIVED:
        raise error
    return errno.errorcode[error.errno].lower()


def socket_address(address: Address, port: int) -> tuple[str, int]:
    """Return an address in the form that sockets accept.

    The scope of an IPv6 address is left out: it is the interface to which the socket is bound.
    """
    return str(address).partition("%")[0], port


class Link(ABC):
    """Sends frames to other nodes, and hands on received frames.

    If the socket cannot be opened when the link is made, `run` opens it as soon as possible.
    """

    def __init__(self, *, name: str, port: int, pinned_to: str | None, version: int) -> None:
        self.name = name
        self.frame_limit = 0  # bytes; the longest frame that goes through in one piece
        self.sent = self.received = self.bytes_sent = self.bytes_received = 0  # frames, and their bytes
        self.dropped: Counter[str] = Counter()
        self.heard_at = float("-inf")  # seconds, monotonic: the last authentic frame; the receiver sets it
        self._port = port
        self._family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._pinned_to = pinned_to
        self._index = 0  # of the interface that the socket was opened on
        self._fault: str | None = None  # of the interface or the socket, with the remedy
        self._socket: socket.socket | None = None
        self._opened = trio.Event()  # replaced when the socket is closed

    @property
    @abstractmethod
    def trouble(self) -> str | None:
        """Return why no frames go out, then a semicolon and the remedy; None if no fault is known."""

    @abstractmethod
    def send(self, frame: bytes) -> None:
        """Send a frame without waiting; a frame that cannot be sent now is counted and lost."""

    @abstractmethod
    async def run(self, received: Received) -> None:
        """Hand received frames to `received`, in batches that take a few milliseconds, until cancelled."""

    @abstractmethod
    def admit(self, key_ids: Iterable[bytes]) -> None:
        """Have the kernel drop frames under other keys from now on, if the transport allows it."""

    def counts(self) -> dict[str, Any]:
        """Return the counters as `status` shows them."""
        return {
            "sent": self.sent,
            "received": self.received,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "dropped": dict(self.dropped),
        }

    def close(self) -> None:
        """Close the socket; the link cannot be used afterwards."""
        if self._socket is not None:
            self._socket.close()

    # For the subclasses

    @abstractmethod
    def _make(self) -> socket.socket:
        """Return a socket that is ready to receive.  Raises OSError."""

    def _shut(self) -> None:
        """Close a socket whose interface is gone: it would not work on another interface of that name."""
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None
            self._opened = trio.Event()

    def _new_socket(self, kind: int) -> socket.socket:
        """Return a socket that uses the link's interface only.  Raises OSError."""
        made = socket.socket(self._family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        if self._pinned_to:
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._pinned_to.encode())
            except OSError:
                made.close()
                raise
        return made

    async def _readable(self) -> socket.socket:
        """Return the socket when there is something to read; a checkpoint in any case."""
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
        """Watch the interface, and open the socket whenever it is closed and can be opened, until cancelled."""
        while self._pinned_to or self._socket is None:
            self._update_socket()
            await trio.sleep(INTERFACE_LOOK_S)

    def _update_socket(self) -> None:
        """Check the interface, open the socket if it is closed and can be opened, and log a change of the fault."""
        fault = None
        try:
            if self._pinned_to:
                fault = self._check_interface(self._pinned_to)
            if self._socket is None and (self._index or not self._pinned_to):
                self._socket = self._make()
                self._opened.set()
        except OSError as error:
            if self._socket is not None:
                return  # no descriptor was left to check the interface
            remedy = REMEDIES.get(error.errno or 0, _USUAL_REMEDY).format(port=self._port)
            fault = fault or f"{error.strerror}; {remedy}"
        if fault is not None and fault != self._fault:
            log.warning("%s: down: %s", self.name, fault)
        elif fault is None and self._fault is not None:
            log.info("%s: up", self.name)
        self._fault = fault

    def _check_interface(self, name: str) -> str | None:
        """Close a socket that belongs to an earlier interface; return the fault of the present one, or None."""
        state = interface(name)
        index = state.index if state is not None else 0
        if index != self._index:
            self._shut()
            self._index = index
        if state is None:
            return f"there is no interface {name}; create it, or correct `interface` of this [[link]]"
        if not state.up:
            return f"interface {name} is down; `ip link set {name} up`"
        if not state.running:
            return f"interface {name} has no carrier; look at the cable and at the other end"
        return None
