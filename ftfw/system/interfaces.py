"""Reads network interfaces and their addresses from the kernel, in the network namespace of this process."""

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFMTU: Final = 0x8921
_SIOCGIFINDEX: Final = 0x8933
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_IFF_MULTICAST: Final = 0x1000
_IFREQ: Final = struct.Struct("16s24x")
_IFADDRS: Final = struct.Struct("@PPIPPPP")  # struct ifaddrs: next, name, flags, address, netmask, …
_ADDRESS_PLACES: Final = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}  # in a sockaddr: offset, bytes
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.getifaddrs.argtypes = [ctypes.POINTER(ctypes.c_void_p)]
_LIBC.freeifaddrs.argtypes = [ctypes.c_void_p]
_LIBC.freeifaddrs.restype = None


@dataclass(frozen=True, slots=True)
class Interface:
    """Holds the properties that decide whether a link can run over an interface."""

    index: int  # an interface that was deleted and created again has another one
    up: bool
    running: bool  # there is a carrier; interfaces that cannot detect one are always running
    multicast: bool
    mtu: int  # bytes


def interface(name: str) -> Interface | None:
    """Return the interface's state; None if there is no interface of that name.  Raises OSError."""
    request = _IFREQ.pack(name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            index, flags, mtu = (
                struct.unpack_from(form, fcntl.ioctl(asking, command, request), 16)[0]
                for command, form in ((_SIOCGIFINDEX, "=i"), (_SIOCGIFFLAGS, "=H"), (_SIOCGIFMTU, "=i"))
            )
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO):
                return None
            raise
    return Interface(index, bool(flags & _IFF_UP), bool(flags & _IFF_RUNNING), bool(flags & _IFF_MULTICAST), mtu)


def addresses() -> frozenset[bytes]:
    """Return all IPv4 and IPv6 addresses of this host, packed (getifaddrs(3)).  Raises OSError."""
    first = ctypes.c_void_p()
    if _LIBC.getifaddrs(ctypes.byref(first)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        return frozenset(_packed(first.value))
    finally:
        _LIBC.freeifaddrs(first)


def _packed(entry: int | None) -> Iterator[bytes]:
    """Yield the addresses in a list of struct ifaddrs."""
    while entry:
        entry, _, _, address, *_ = _IFADDRS.unpack(ctypes.string_at(entry, _IFADDRS.size))
        family = struct.unpack("@H", ctypes.string_at(address, 2))[0] if address else None
        if family in _ADDRESS_PLACES:
            offset, size = _ADDRESS_PLACES[family]
            yield ctypes.string_at(address + offset, size)
