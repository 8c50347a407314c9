"""What links over UDP have in common: frames are datagrams, and the kernel drops those that are no frames of ours."""

import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import trio

from ftfw.link import socket_filter
from ftfw.link.link_base import ETHERNET_MTU, Link, Received, survived
from ftfw.system.interfaces import interface
from ftfw.system.recvmmsg import SO_RCVBUFFORCE, SO_SNDBUFFORCE, BatchReader, attach_filter

# Bytes.  A burst waits here, not on the floor: some 100,000 events.  So does every frame behind a flood that this node
# cannot read as fast as it comes, and what is sent again waits anew: the lag grows with the buffer.
RECEIVE_BUFFER: Final = 4 << 20
SEND_BUFFER: Final = 4 << 20
BATCH: Final = 64  # datagrams read between two checkpoints: a few milliseconds' work
HEADERS: Final = {socket.AF_INET: 28, socket.AF_INET6: 48}  # IP and UDP, bytes
CONGESTED: Final = frozenset({"eagain", "enobufs"})  # too much at once is no sign of a link that is down
# The path's MTU as a connected socket tells it (linux/in.h, in6.h): level and option.
_MTU: Final = {socket.AF_INET: (socket.IPPROTO_IP, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 24)}
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")  # the last is SK_MEMINFO_DROPS


class DatagramLink(Link):
    """Sends each frame to all of `destinations`."""

    def __init__(
        self,
        *,
        name: str,
        pinned_to: str | None,
        version: int,
        destinations: Sequence[tuple[str, int]],
        mtu: int | None,
    ) -> None:
        super().__init__(name=name, pinned_to=pinned_to, version=version)
        self._destinations = destinations
        self._given_mtu = mtu
        self._refused = False  # the last frame could not be sent
        self._screen = socket_filter.program(())
        self._dropped_before = 0  # by the kernel, from sockets that are closed
        self._open()

    @property
    def up(self) -> bool:
        """Whether the interface runs and the kernel takes frames for it."""
        return self._running and not self._refused

    def _make(self) -> socket.socket:
        made = self._new_socket(socket.SOCK_DGRAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
            attach_filter(made, self._screen)
            self._bind(made)
            mtu = self._given_mtu or self._find_mtu(made)
        except BaseException:
            made.close()
            raise
        size = max(mtu, ETHERNET_MTU)
        self._reader = BatchReader(slots=BATCH, size=size, usual=size)
        self.frame_limit = mtu - HEADERS[self._family]
        return made

    def _bind(self, made: socket.socket) -> None:
        """Give the socket its address, and what else it needs to receive."""
        raise NotImplementedError

    def _find_mtu(self, bound: socket.socket) -> int:
        """The interface's MTU; without one that is named, the smallest of those on the ways to the peers."""
        state = interface(self._pinned_to) if self._pinned_to else None
        if state is not None:
            return state.mtu
        found = [ETHERNET_MTU]
        for destination in self._destinations:
            with socket.socket(self._family, socket.SOCK_DGRAM) as asking:
                try:
                    asking.bind((bound.getsockname()[0], 0))
                    asking.connect(destination)
                except OSError:
                    continue  # no way there yet
                found.append(asking.getsockopt(*_MTU[self._family]))
        return min(found[1:], default=ETHERNET_MTU)

    def admit(self, key_ids: Iterable[bytes]) -> None:
        """Have the kernel drop what is not under one of these keys."""
        self._screen = socket_filter.program(key_ids)
        if self._socket is not None:
            attach_filter(self._socket, self._screen)

    def send(self, frame: bytes) -> None:
        """Send a frame to each destination."""
        if self._socket is None:
            self.dropped["send_enodev"] += 1
            return
        refused = True
        for destination in self._destinations:
            try:
                self._socket.sendto(frame, destination)
            except OSError as error:
                why = survived(error)
                self.dropped[f"send_{why}"] += 1
                refused = refused and why not in CONGESTED
            else:
                refused = False
                self.sent += 1
                self.bytes_sent += len(frame)
        self._refused = refused

    async def run(self, received: Received) -> None:
        """Hand what comes in to `received` until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_open)
            while True:
                frames = self._read(await self._readable())
                if frames:
                    self.received += len(frames)
                    self.bytes_received += sum(map(len, frames))
                    received(frames)

    def _read(self, reading: socket.socket) -> list[bytes]:
        try:
            return self._reader.read(reading.fileno())
        except OSError as error:
            survived(error)
            return []

    def counts(self) -> dict[str, Any]:
        """The counters; `kernel` are datagrams that the kernel dropped: foreign, or more than the buffer takes."""
        found = super().counts()
        if dropped := self._dropped_before + self._dropped_now():
            found["dropped"]["kernel"] = dropped
        return found

    def _dropped_now(self) -> int:
        if self._socket is None:
            return 0
        told = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        dropped: int = _MEMINFO.unpack(told)[-1]
        return dropped

    def _shut(self) -> None:
        self._dropped_before += self._dropped_now()
        super()._shut()
