"""Sockets that get datagrams by the thousand: read many by one system call, let the kernel drop what nobody wants."""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

SO_ATTACH_FILTER: Final = 26
SO_SNDBUFFORCE: Final = 32  # beyond net.core.wmem_max
SO_RCVBUFFORCE: Final = 33
Instruction = tuple[int, int, int, int]
"""Of classic BPF (struct sock_filter): code, jump if true, jump if false, operand."""

_IOVEC: Final = struct.Struct("@PN")  # struct iovec
# struct mmsghdr: name, its length, iovec, count, control, its length, flags, length
_MMSGHDR: Final = struct.Struct("@PIPNPNi4xI4x")
_RECVMMSG: Final = ctypes.CDLL(None, use_errno=True).recvmmsg


def attach_filter(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Have the kernel drop what `program` returns 0 for, from now on; it takes the place of an earlier one."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    descriptor = struct.pack("@HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, descriptor)


class BatchReader:
    """Reads up to `slots` datagrams of up to `size` bytes at once (recvmmsg(2)): what reading costs is mostly the call.

    Most are expected to have no more than `usual` bytes: these lie close together, and are copied at one go.
    """

    def __init__(self, *, slots: int, size: int, usual: int) -> None:
        self._slots, self._usual, self._rest = slots, usual, size - usual
        self._buffer = ctypes.create_string_buffer(slots * usual)
        self._overflow = ctypes.create_string_buffer(slots * self._rest)
        self._vectors = ctypes.create_string_buffer(2 * slots * _IOVEC.size)
        self._headers = ctypes.create_string_buffer(slots * _MMSGHDR.size)
        for slot in range(slots):
            first = 2 * slot * _IOVEC.size
            _IOVEC.pack_into(self._vectors, first, ctypes.addressof(self._buffer) + slot * usual, usual)
            _IOVEC.pack_into(
                self._vectors, first + _IOVEC.size, ctypes.addressof(self._overflow) + slot * self._rest, self._rest
            )
            vector = ctypes.addressof(self._vectors) + first
            count = 2 if self._rest else 1
            _MMSGHDR.pack_into(self._headers, slot * _MMSGHDR.size, 0, 0, vector, count, 0, 0, 0, 0)
        self._lengths = memoryview(self._headers).cast("B").cast("I")[_MMSGHDR.size // 4 - 2 :: _MMSGHDR.size // 4]
        self._bytes = memoryview(self._buffer).cast("B")
        self._beyond = memoryview(self._overflow).cast("B")
        self._starts = range(0, slots * usual, usual)

    def read(self, descriptor: int) -> list[bytes]:
        """The datagrams that are there, at most `slots`; a longer one than `size` is cut.  Raises OSError."""
        count = _RECVMMSG(descriptor, self._headers, self._slots, socket.MSG_DONTWAIT, None)
        if count <= 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(code, os.strerror(code))
        lengths = self._lengths[:count].tolist()
        filled = bytes(self._bytes[: count * self._usual])
        if max(lengths) <= self._usual:
            return [filled[start : start + length] for start, length in zip(self._starts, lengths, strict=False)]
        return [self._long(slot, length, filled) for slot, length in enumerate(lengths)]

    def _long(self, slot: int, length: int, filled: bytes) -> bytes:
        start, beyond = slot * self._usual, slot * self._rest
        overflow = bytes(self._beyond[beyond : beyond + max(0, length - self._usual)])
        return filled[start : start + min(length, self._usual)] + overflow
