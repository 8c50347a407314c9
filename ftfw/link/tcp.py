"""Connects nodes by TCP: one connection with each peer, IPv4 or IPv6.

Both ends listen.  The node with the smaller name dials.  A node that has not yet learnt the peer's name from an
authentic frame dials as well, so there may be two connections with a peer for a moment.  Of these the connection that
the node with the smaller name has dialled stays; of two in the same direction, the newer one.

This node sends nothing over an accepted connection before the first authentic frame, and closes the connection if no
such frame arrives within FIRST_FRAME_S.  A frame that is not authentic ends a connection: TCP neither loses nor alters
bytes, so the sender has no key.
"""

import socket
from collections import deque
from collections.abc import Iterable
from typing import Final

import trio

from ftfw.config.schema import UnicastLink
from ftfw.link.framing import FramingError, Splitter, framed
from ftfw.link.link_base import Link, Received, socket_address, survived

FRAME_USUAL_BYTES: Final = 8192  # large enough for the cost of each frame, small enough to delay no other task
CHUNK_BYTES: Final = 1 << 15  # read between two checkpoints
SEND_QUEUE_MAX_BYTES: Final = 4 << 20  # for each connection, beside the kernel's buffer
UNPROVEN_MAX: Final = 4  # accepted connections of a peer's address that have not sent an authentic frame
BACKLOG: Final = 16
FIRST_FRAME_S: Final = 3.0  # time for the first frame; nodes send a frame every 0.1 s
PEER_GONE_S: Final = 5.0  # time without a frame after which the connection is closed
LINGER_S: Final = 1.0  # for frames that are still under way on a connection that another one has replaced
CONNECT_S: Final = 3.0
RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 5.0
CONNECTION_REMEDY: Final = "see that ftfw runs there and a packet filter lets the link's port in"
EXHAUSTED: Final = frozenset({"emfile", "enfile", "enomem"})  # no descriptor or memory is left for a connection


class _Connection:
    """Sends and receives frames over one connection."""

    def __init__(self, connected: socket.socket, *, dialled: bool) -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.dialled = dialled
        self.proven = False  # an authentic frame has come
        self.scope = trio.CancelScope()
        self._socket = connected
        self._splitter = Splitter()
        self._queue: deque[bytes] = deque()
        self._queued = 0  # bytes
        self._replaced = False
        self._stuck = trio.Event()  # set while the kernel's buffer is full; then replaced

    @property
    def carries(self) -> bool:
        """Return whether frames are sent here.  They prove this node to the peer that was dialled."""
        return (self.proven or self.dialled) and not self._replaced

    @property
    def chosen_from(self) -> bool:
        """Return whether this connection may be the one that stays."""
        return self.proven and not self._replaced

    def send(self, frame: bytes) -> bool:
        """Send or queue a frame; return False if there is no room for it."""
        if self._queued + len(frame) > SEND_QUEUE_MAX_BYTES:
            return False
        self._queue.append(framed(frame))
        self._queued += len(self._queue[-1])
        if not self._stuck.is_set():
            self._flush()
        return True

    def _flush(self) -> None:
        try:
            while self._queue:
                first = self._queue[0]
                count = self._socket.send(first)
                self._queued -= count
                if count < len(first):
                    self._queue[0] = first[count:]
                else:
                    self._queue.popleft()
            if self._replaced:
                self._socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            self._stuck.set()
        except OSError as error:
            survived(error)
            self.scope.cancel()

    async def write(self) -> None:
        """Send queued frames whenever the kernel accepts more, until cancelled."""
        while True:
            await self._stuck.wait()
            await trio.lowlevel.wait_writable(self._socket)
            self._stuck = trio.Event()
            self._flush()

    async def frames(self) -> list[bytes]:
        """Return the next frames; an empty list at the end of the connection.  Raises FramingError and OSError."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data = self._socket.recv(CHUNK_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return []
            if frames := self._splitter.feed(data):
                return frames

    def expect(self, seconds: float) -> None:
        """End the connection unless this is called again within `seconds`."""
        if not self._replaced:
            self.scope.deadline = trio.current_time() + seconds

    def replace(self) -> None:
        """Stop sending, but receive the frames that are under way for LINGER_S."""
        self.expect(LINGER_S)
        self._replaced = True
        if not self._stuck.is_set():
            self._flush()

    def close(self) -> None:
        """Close the socket."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class _Peer:
    """Holds another node's address, its name and the connections with it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.name: str | None = None  # as last heard from there
        self.connections: list[_Connection] = []
        self.news = trio.Event()  # replaced each time

    def wake_waiting(self) -> None:
        """Wake the tasks that wait for `news`: a connection was proven, or the name has changed."""
        self.news.set()
        self.news = trio.Event()


class Tcp(Link):
    """Sends each frame to every peer."""

    def __init__(self, config: UnicastLink, *, node: str) -> None:
        super().__init__(
            name=f"tcp {config.bind}", port=config.port, pinned_to=config.interface, version=config.bind.version
        )
        self.frame_limit = config.mtu or FRAME_USUAL_BYTES
        self._node = node
        self._own = socket_address(config.bind, config.port)
        addresses = [socket_address(peer, config.port) for peer in config.peers]
        self._peers = {address[0]: _Peer(address) for address in addresses}
        self._update_socket()

    def _make(self) -> socket.socket:
        made = self._new_socket(socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(self._own)
            made.listen(BACKLOG)
        except BaseException:
            made.close()
            raise
        return made

    def _shut(self) -> None:
        for peer in self._peers.values():
            for connection in peer.connections:
                connection.scope.cancel()
        super()._shut()

    @property
    def trouble(self) -> str | None:
        """Return why no connection is proven by an authentic frame, then a semicolon and the remedy; None if one is."""
        if self._fault is not None:
            return self._fault
        if any(connection.proven for peer in self._peers.values() for connection in peer.connections):
            return None
        return f"no connection with {', '.join(self._peers)}; {CONNECTION_REMEDY}"

    def admit(self, key_ids: Iterable[bytes]) -> None:
        """Do nothing: the kernel cannot filter frames in a stream; a frame under another key ends its connection."""

    def send(self, frame: bytes) -> None:
        """Send a frame to each peer with which there is a connection."""
        for peer in self._peers.values():
            carriers = [connection for connection in peer.connections if connection.carries]
            if not carriers:
                self.dropped["send_unconnected"] += 1
            for connection in carriers:
                if connection.send(frame):
                    self.sent += 1
                    self.bytes_sent += len(frame)
                else:
                    self.dropped["send_queue_full"] += 1

    async def run(self, received: Received) -> None:
        """Listen, dial, and hand received frames to `received`, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_open)
            for peer in self._peers.values():
                nursery.start_soon(self._dial, peer, received)
            while True:
                await self._accept(await self._readable(), nursery, received)

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery, received: Received) -> None:
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if survived(error) in EXHAUSTED:
                self.dropped["tcp_exhausted"] += 1
                await trio.sleep(RETRY_MIN_S)  # the connection waits and keeps the listener readable
            return
        accepted.setblocking(False)
        peer = self._peers.get(address[0].partition("%")[0])
        if peer is None:
            self.dropped["tcp_stranger"] += 1
        elif sum(not (c.proven or c.dialled) for c in peer.connections) >= UNPROVEN_MAX:
            self.dropped["tcp_too_many"] += 1
        else:
            connection = _Connection(accepted, dialled=False)
            peer.connections.append(connection)
            nursery.start_soon(self._serve, peer, connection, received)
            return
        accepted.close()

    async def _dial(self, peer: _Peer, received: Received) -> None:
        """Keep a connection with the peer while this node is the one that dials."""
        pause = RETRY_MIN_S
        while True:
            while peer.name is not None and peer.name < self._node:
                await peer.news.wait()
            connected = await self._connect(peer)
            proven = False
            if connected is not None:
                connection = _Connection(connected, dialled=True)
                peer.connections.append(connection)
                await self._serve(peer, connection, received)
                proven = connection.proven
            pause = RETRY_MIN_S if proven else min(2 * pause, RETRY_MAX_S)
            with trio.move_on_after(pause):
                await peer.news.wait()  # a peer that is heard can be dialled
                pause = RETRY_MIN_S

    async def _connect(self, peer: _Peer) -> socket.socket | None:
        try:
            dialling = self._new_socket(socket.SOCK_STREAM)
        except OSError as error:
            survived(error)
            return None
        try:
            dialling.bind((self._own[0], 0))  # the peer knows this node by its address
            with trio.move_on_after(CONNECT_S) as limit:
                await trio.socket.from_stdlib_socket(dialling).connect(peer.address)
        except BaseException as error:
            dialling.close()
            if not isinstance(error, OSError):
                raise
            survived(error)
            return None
        if limit.cancelled_caught:
            dialling.close()
            return None
        return dialling

    async def _serve(self, peer: _Peer, connection: _Connection, received: Received) -> None:
        """Hand the connection's frames to `received` until it ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.write)
                connection.expect(FIRST_FRAME_S)
                with connection.scope:
                    await self._read(peer, connection, received)
                if connection.scope.cancelled_caught and not connection.proven:
                    self.dropped["tcp_silent"] += 1
                nursery.cancel_scope.cancel()
        finally:
            peer.connections.remove(connection)
            connection.close()

    async def _read(self, peer: _Peer, connection: _Connection, received: Received) -> None:
        try:
            while frames := await connection.frames():
                self.received += len(frames)
                self.bytes_received += sum(map(len, frames))
                heard = received(frames)
                if heard.authentic < len(frames):
                    self.dropped["tcp_garbage"] += 1
                    return
                connection.expect(PEER_GONE_S)
                if not connection.proven or (heard.name is not None and heard.name != peer.name):
                    self._learn(peer, connection, heard.name)
        except FramingError:
            self.dropped["tcp_garbage"] += 1
        except OSError as error:
            survived(error)

    def _learn(self, peer: _Peer, connection: _Connection, name: str | None) -> None:
        """Record that a connection is proven, and its node's name; replace all proven connections but one."""
        connection.proven = True
        peer.name = name or peer.name
        peer.wake_waiting()
        choice = [each for each in peer.connections if each.chosen_from]
        if peer.name is None or not choice:
            return
        dials = self._node < peer.name
        stays = max(enumerate(choice), key=lambda each: (each[1].dialled == dials, each[0]))[1]
        for other in choice:
            if other is not stays:
                other.replace()
