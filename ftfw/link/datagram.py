"""Sends and receives frames as UDP datagrams; the kernel drops datagrams that are no frames of this group of nodes."""

import logging
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import trio

from ftfw.link import socket_filter
from ftfw.link.link_base import ETHERNET_MTU, Link, Received, survived
from ftfw.system.interfaces import interface
from ftfw.system.recvmmsg import SO_RCVBUFFORCE, SO_SNDBUFFORCE, BatchReader, attach_filter

log = logging.getLogger(__name__)

# Holds a burst of some 100,000 events.  It also holds every frame behind a flood that this node cannot read as fast as
# the flood comes, and frames that are sent again wait behind it: the lag grows with the buffer.
RECEIVE_BUFFER_BYTES: Final = 4 << 20
SEND_BUFFER_BYTES: Final = 4 << 20
BATCH: Final = 64  # datagrams read between two checkpoints: a few milliseconds' work
HEADERS: Final = {socket.AF_INET: 28, socket.AF_INET6: 48}  # IP and UDP, bytes
SEND_REMEDY: Final = "look at the routes and addresses, and whether a packet filter lets the link's port out"
CONGESTED: Final = frozenset({"eagain", "enobufs"})  # a full queue is no sign of a link that is down
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
        port: int,
        pinned_to: str | None,
        version: int,
        destinations: Sequence[tuple[str, int]],
        mtu: int | None,
    ) -> None:
        super().__init__(name=name, port=port, pinned_to=pinned_to, version=version)
        self._destinations = destinations
        self._given_mtu = mtu
        self.frame_limit = (mtu or ETHERNET_MTU) - HEADERS[self._family]
        self._refused: str | None = None  # the reason why the kernel refused the last frame
        self._filter = socket_filter.program(())
        self._dropped_before = 0  # by the kernel, from sockets that are closed
        self._told_truncated = False
        self._update_socket()

    @property
    def trouble(self) -> str | None:
        """Return why no frames go out: the fault of interface or socket, or the kernel's error for the last frame."""
        return self._fault or self._refused

    def _make(self) -> socket.socket:
        made = self._new_socket(socket.SOCK_DGRAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
            made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
            attach_filter(made, self._filter)
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
        """Bind the socket to its address, and join it to its group.  Raises OSError."""
        raise NotImplementedError

    def _find_mtu(self, bound: socket.socket) -> int:
        """Return the configured interface's MTU; without an interface, the smallest MTU on the paths to the peers."""
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
                    continue  # no route to it yet
                found.append(asking.getsockopt(*_MTU[self._family]))
        return min(found[1:], default=ETHERNET_MTU)

    def admit(self, key_ids: Iterable[bytes]) -> None:
        """Have the kernel drop datagrams that are not under one of these keys."""
        self._filter = socket_filter.program(key_ids)
        if self._socket is not None:
            attach_filter(self._socket, self._filter)

    def send(self, frame: bytes) -> None:
        """Send a frame to each destination."""
        if self._socket is None:
            self.dropped["send_not_open"] += 1
            return
        refused: str | None = None
        gone = False
        for destination in self._destinations:
            try:
                self._socket.sendto(frame, destination)
            except OSError as error:
                reason = survived(error)
                self.dropped[f"send_{reason}"] += 1
                if reason in CONGESTED:
                    gone = True
                else:
                    refused = f"sending to {destination[0]}: {error.strerror}; {SEND_REMEDY}"
            else:
                gone = True
                self.sent += 1
                self.bytes_sent += len(frame)
        self._refused = None if gone else refused

    async def run(self, received: Received) -> None:
        """Hand received frames to `received` until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_open)
            while True:
                frames = self._read(await self._readable())
                if frames:
                    self.received += len(frames)
                    self.bytes_received += sum(map(len, frames))
                    received(frames)

    def _read(self, reading: socket.socket) -> list[bytes]:
        before = self._reader.truncated
        try:
            frames = self._reader.read(reading.fileno())
        except OSError as error:
            survived(error)
            return []
        if self._reader.truncated > before:
            self._drop_truncated(self._reader.truncated - before)
        return frames

    def _drop_truncated(self, count: int) -> None:
        self.dropped["truncated"] += count
        if not self._told_truncated:
            self._told_truncated = True
            log.warning(
                "%s: dropped a frame longer than %d bytes: the node that sent it has an interface with a larger MTU;"
                " give the interfaces the same MTU, or set `mtu` of the [[link]] to %d on every node",
                self.name,
                self._reader.size,
                self.frame_limit + HEADERS[self._family],
            )

    def counts(self) -> dict[str, Any]:
        """Return the counters; `dropped.kernel` counts datagrams that were foreign or found the buffer full."""
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
