"""Datagrams by the hundred thousand, as somebody on the link sends them; frames of a node, as he has recorded them."""

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

from ftfw.system.recvmmsg import IOVEC, MMSGHDR
from tests.kernel.pair import Node, address

GROUP = "225.0.0.50"
PORT = 3780
STEP = 128  # datagrams sent by one system call
ETHERNET_IP_UDP = 42  # bytes before a frame, as a packet socket sees it
_SENDMMSG = ctypes.CDLL(None, use_errno=True).sendmmsg


class Volley:
    """Datagrams that are sent many at a time (sendmmsg(2)): what sending costs is mostly the call."""

    def __init__(self, datagrams: Sequence[bytes]) -> None:
        self._count = len(datagrams)
        self._kept = b"".join(datagrams)
        start = ctypes.cast(ctypes.c_char_p(self._kept), ctypes.c_void_p).value
        assert start is not None
        self._vectors = ctypes.create_string_buffer(self._count * IOVEC.size)
        self._headers = ctypes.create_string_buffer(self._count * MMSGHDR.size)
        vectors = ctypes.addressof(self._vectors)
        for slot, datagram in enumerate(datagrams):
            IOVEC.pack_into(self._vectors, slot * IOVEC.size, start, len(datagram))
            header = (0, 0, vectors + slot * IOVEC.size, 1, 0, 0, 0, 0)
            MMSGHDR.pack_into(self._headers, slot * MMSGHDR.size, *header)
            start += len(datagram)

    def send(self, connected: socket.socket, first: int, most: int) -> int:
        """Send up to so many from number `first` on, over a socket that blocks; returns how many that were."""
        count = min(most, self._count - first)
        headers = ctypes.c_void_p(ctypes.addressof(self._headers) + first * MMSGHDR.size)
        sent: int = _SENDMMSG(connected.fileno(), headers, count, 0)
        if sent < 0:
            raise OSError(code := ctypes.get_errno(), os.strerror(code))
        return sent

    def send_all(self, connected: socket.socket) -> None:
        """Send each once."""
        sent = 0
        while sent < self._count:
            sent += self.send(connected, sent, STEP)


def stranger(node: Node, number: int) -> socket.socket:
    """Another socket that speaks to the group from the address of a node, the `number`th of its group."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address("sync", number)))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        made.connect((GROUP, PORT))
        return made

    return node.inside(make)


class Flood(threading.Thread):
    """Sends the same datagrams over and over, at a pace or as fast as it goes, until it is told to stop."""

    def __init__(self, connected: socket.socket, datagrams: Sequence[bytes], per_s: float) -> None:
        super().__init__()
        self.sent = 0
        self._connected = connected
        self._count = len(datagrams)
        self._volley = Volley(datagrams)
        self._per_s = per_s
        self._stopped = threading.Event()

    def __enter__(self) -> "Flood":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        begun = time.monotonic()
        while not self._stopped.is_set():
            if self.sent > (time.monotonic() - begun) * self._per_s:
                time.sleep(0.0005)
            else:
                self.sent += self._volley.send(self._connected, self.sent % self._count, STEP)


def recorded(node: Node, count: int, during: Callable[[], None]) -> list[bytes]:
    """Frames that a node sends, from before `during` on."""

    def listen() -> socket.socket:
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        listening.settimeout(10)
        listening.bind(("sync", 0))
        return listening

    found: list[bytes] = []
    with node.inside(listen) as listening:
        during()
        while len(found) < count:
            packet, (_, _, kind, *_) = listening.recvfrom(2048)
            if kind == socket.PACKET_OUTGOING and packet[30:34] == socket.inet_aton(GROUP):
                found.append(packet[ETHERNET_IP_UDP:])
    return found
