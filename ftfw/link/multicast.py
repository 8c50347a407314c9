"""A link over UDP multicast on one interface, IPv4 or IPv6."""

import errno
import fcntl
import socket
import struct
from collections import Counter

import trio

from ftfw.config import MulticastLink
from ftfw.datagrams import BatchReader

RECEIVE_BUFFER = 16 << 20  # bytes: a burst waits here, not on the floor
SEND_BUFFER = 4 << 20
ETHERNET_MTU = 1500
BATCH = 64  # datagrams read between two checkpoints: a few milliseconds' work
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SIOCGIFMTU = 0x8921
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}  # IP and UDP, bytes
# A link that is down, or a route that comes back in a moment, must not end the daemon.
SURVIVED = frozenset(
    {
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EHOSTUNREACH,
        errno.ENOBUFS,
        errno.EPERM,
        errno.EADDRNOTAVAIL,
        errno.ENODEV,
        errno.EAGAIN,
    }
)


class Multicast:
    """Sends to the group and receives what others send to it."""

    def __init__(self, config: MulticastLink) -> None:
        self.name = f"multicast {config.group} on {config.interface}"
        self.up = True
        self.sent = self.received = self.bytes_sent = self.bytes_received = 0
        self.dropped: Counter[str] = Counter()
        family = socket.AF_INET if config.group.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._set_up(config, family)
        except BaseException:
            self._socket.close()
            raise
        mtu = config.mtu or self._interface_mtu(config.interface)
        size = max(mtu, ETHERNET_MTU)
        self._reader = BatchReader(slots=BATCH, size=size, usual=size)
        self.frame_limit = mtu - HEADERS[family]

    def _set_up(self, config: MulticastLink, family: int) -> None:
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, config.interface.encode())
        index = socket.if_nametoindex(config.interface)
        group = config.group.packed
        if family == socket.AF_INET:
            member = group + struct.pack("=4si", bytes(4), index)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            self._socket.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index)
            )
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            self._group: tuple[str | int, ...] = (str(config.group), config.port)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("=i", index))
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            self._group = (str(config.group), config.port, 0, index)
        self._socket.bind(self._group)

    def _interface_mtu(self, interface: str) -> int:
        answer = fcntl.ioctl(self._socket, SIOCGIFMTU, struct.pack("16s16x", interface.encode()))
        mtu: int = struct.unpack_from("=i", answer, 16)[0]
        return mtu

    def send(self, frame: bytes) -> None:
        """Send a frame; one that cannot be sent now is counted and lost, as on any wire."""
        try:
            self._socket.sendto(frame, self._group)
        except OSError as error:
            if error.errno not in SURVIVED:
                raise
            self.up = False
            self.dropped[f"send_{errno.errorcode[error.errno].lower()}"] += 1
            return
        self.up = True
        self.sent += 1
        self.bytes_sent += len(frame)

    async def wait(self) -> None:
        """Return when there may be something to `drain`."""
        await trio.lowlevel.wait_readable(self._socket)

    def drain(self) -> list[bytes]:
        """The frames that have arrived, a bounded number of them."""
        try:
            found = self._reader.read(self._socket.fileno())
        except OSError as error:
            if error.errno not in SURVIVED:
                raise
            return []
        self.received += len(found)
        self.bytes_received += sum(map(len, found))
        return found

    def close(self) -> None:
        """Leave the group."""
        self._socket.close()
