"""Reads many datagrams by one system call, and attaches filters by which the kernel drops unwanted datagrams."""

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
"""An instruction of classic BPF (struct sock_filter): code, jump if true, jump if false, operand."""

IOVEC: Final = struct.Struct("@PN")  # struct iovec
# struct mmsghdr: name, its length, iovec, count, control, its length, flags, length
MMSGHDR: Final = struct.Struct("@PIPNPNi4xI4x")
_FLAGS, _LENGTH = MMSGHDR.size // 4 - 4, MMSGHDR.size // 4 - 2  # of a header, in 32-bit words
_RECVMMSG: Final = ctypes.CDLL(None, use_errno=True).recvmmsg


def attach_filter(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Have the kernel drop datagrams for which `program` returns 0; the program replaces an earlier one."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    descriptor = struct.pack("@HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, descriptor)


class BatchReader:
    """Reads up to `slots` datagrams of up to `size` bytes at once (recvmmsg(2)): the system call costs most.

    Most datagrams are expected to have no more than `usual` bytes: these lie close together and are copied at once.
    """

    def __init__(self, *, slots: int, size: int, usual: int) -> None:
        self.size = size
        self.truncated = 0  # datagrams longer than `size`, which were dropped
        self._slots, self._usual, self._rest = slots, usual, size - usual
        self._buffer = ctypes.create_string_buffer(slots * usual)
        self._overflow = ctypes.create_string_buffer(slots * self._rest)
        self._vectors = ctypes.create_string_buffer(2 * slots * IOVEC.size)
        self._headers = ctypes.create_string_buffer(slots * MMSGHDR.size)
        for slot in range(slots):
            first = 2 * slot * IOVEC.size
            IOVEC.pack_into(self._vectors, first, ctypes.addressof(self._buffer) + slot * usual, usual)
            IOVEC.pack_into(
                self._vectors, first + IOVEC.size, ctypes.addressof(self._overflow) + slot * self._rest, self._rest
            )
            vector = ctypes.addressof(self._vectors) + first
            count = 2 if self._rest else 1
            MMSGHDR.pack_into(self._headers, slot * MMSGHDR.size, 0, 0, vector, count, 0, 0, 0, 0)
        words = memoryview(self._headers).cast("B").cast("I")
        self._flags = words[_FLAGS :: MMSGHDR.size // 4]
        self._lengths = words[_LENGTH :: MMSGHDR.size // 4]
        self._bytes = memoryview(self._buffer).cast("B")
        self._beyond = memoryview(self._overflow).cast("B")
        self._starts = range(0, slots * usual, usual)

    def read(self, descriptor: int) -> list[bytes]:
        """Return the datagrams that wait, at most `slots`, and none if there is none.

        Datagrams longer than `size` are left out and added to `truncated`.  Raises OSError.
        """
        count = _RECVMMSG(descriptor, self._headers, self._slots, socket.MSG_DONTWAIT, None)
        if count <= 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(code, os.strerror(code))
        lengths = self._lengths[:count].tolist()
        longest = max(lengths)
        filled = bytes(self._bytes[: count * self._usual])
        if longest <= self._usual and longest < self.size:
            return [filled[start : start + length] for start, length in zip(self._starts, lengths, strict=False)]
        whole = [slot for slot in range(count) if not self._flags[slot] & socket.MSG_TRUNC]
        self.truncated += count - len(whole)
        return [self._long(slot, lengths[slot], filled) for slot in whole]

    def _long(self, slot: int, length: int, filled: bytes) -> bytes:
        start, beyond = slot * self._usual, slot * self._rest
        overflow = bytes(self._beyond[beyond : beyond + max(0, length - self._usual)])
        return filled[start : start + min(length, self._usual)] + overflow
