"""What the kernel says of a network interface."""

import fcntl
import socket
import struct
from typing import Final, NamedTuple

_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFMTU: Final = 0x8921
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_IFF_MULTICAST: Final = 0x1000
_IFREQ: Final = struct.Struct("16s24x")


class Interface(NamedTuple):
    """What decides whether a link can run over an interface."""

    up: bool
    running: bool  # there is a carrier, as far as the kind of interface can tell
    multicast: bool
    mtu: int  # bytes


def interface(name: str) -> Interface | None:
    """Return the interface's state; None if there is none of that name."""
    request = _IFREQ.pack(name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            flags = struct.unpack_from("=H", fcntl.ioctl(asking, _SIOCGIFFLAGS, request), 16)[0]
            mtu = struct.unpack_from("=i", fcntl.ioctl(asking, _SIOCGIFMTU, request), 16)[0]
        except OSError:
            return None
    return Interface(bool(flags & _IFF_UP), bool(flags & _IFF_RUNNING), bool(flags & _IFF_MULTICAST), mtu)


def index(name: str) -> int:
    """Return the interface's index, which is another one if it was deleted and made anew; 0 if there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
