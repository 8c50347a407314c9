"""Connections on which both ends speak all the time, and a capture of errors, in a process that does nothing else.

    python -m tests.kernel.talk CLIENT SERVER NAMESPACE…

Namespaces by name: those of the two ends, and others in which errors are captured. Each line on standard input is
answered with a line of JSON, the state as `State` has it; the process ends with its input.
"""

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ftfw.system.recvmmsg import Instruction, attach_filter
from tests.kernel import netns

CLIENT, SERVER = "192.0.2.11", "198.51.100.80"
PORT = 7021
TCP_FLOWS, UDP_FLOWS = 20, 4
PACE_S = 0.005
GAP_S = 0.03  # silence that counts as a pause
ETH_P_ALL = 3
PACKET_OUTGOING = 4
NUMBER = struct.Struct("!Q")
ICMP_ERRORS = {3: "unreachable", 4: "source quench", 5: "redirect", 11: "time exceeded", 12: "parameter problem"}
# Classic BPF, from the IPv4 header on: TCP with RST, ICMP that is none of echo's.
_PASS, _DROP = (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)
ERRORS_ONLY: list[Instruction] = [
    (0x30, 0, 0, 0),  # version and header length
    (0x54, 0, 0, 0xF0),
    (0x15, 0, 9, 0x40),
    (0x30, 0, 0, 9),  # protocol
    (0xB1, 0, 0, 0),  # X: header length
    (0x15, 0, 2, socket.IPPROTO_TCP),
    (0x50, 0, 0, 13),  # flags
    (0x45, 5, 4, 0x04),
    (0x15, 0, 3, socket.IPPROTO_ICMP),
    (0x50, 0, 0, 0),  # type
    (0x15, 1, 0, 0),
    (0x15, 0, 1, 8),
    _DROP,
    _PASS,
]


@dataclass
class Gap:
    """A silence, by this machine's monotonic clock."""

    kind: str
    begun: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


@dataclass
class State:
    """What there is to tell."""

    flows: int = 0
    broken: list[str] = field(default_factory=list)
    heard_since: float = 0.0  # every end that is not broken has heard something since then
    silent: list[str] = field(default_factory=list)  # ends that hear nothing now
    gaps: list[Gap] = field(default_factory=list)  # that have ended
    errors: list[str] = field(default_factory=list)  # that any host has sent or received
    held_up_s: float = 0.0  # for how long this process itself got no time, at worst

    @classmethod
    def read(cls, line: str) -> "State":
        state = cls(**json.loads(line))
        state.gaps = [Gap(**gap) for gap in state.gaps]  # type: ignore[arg-type]
        return state


class End:
    """One end of a flow.  It sends numbers and hears the other's; by TCP each of them comes, in order."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.kind = "TCP" if sock.type == socket.SOCK_STREAM else "UDP"
        self.heard_at = time.monotonic()
        self.broken: str | None = None
        self._socket = sock
        self._sent = self._heard = 0
        self._unsent = self._rest = b""
        sock.setblocking(False)
        if self.kind == "TCP":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def talk(self, now: float) -> Gap | None:
        """Send a number and take in what has come; the silence that ends by that."""
        try:
            self._send()
            if self._receive():
                gap, self.heard_at = Gap(self.kind, self.heard_at, now), now
                return gap if gap.seconds >= GAP_S else None
        except BlockingIOError:
            pass  # nothing has come, or nothing more fits in
        except OSError as error:
            self.broken = f"{self.name}: {error.strerror}"
        return None

    def _send(self) -> None:
        if not self._unsent:
            self._sent += 1
            self._unsent = NUMBER.pack(self._sent)
        with suppress(BlockingIOError):  # what has come is taken in all the same
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _receive(self) -> bool:
        data = self._rest + self._socket.recv(1 << 16)
        whole = len(data) - len(data) % NUMBER.size
        self._rest = data[whole:]
        for (number,) in NUMBER.iter_unpack(data[:whole]):
            if self.kind == "TCP" and number != self._heard + 1:
                self.broken = f"{self.name}: {number} after {self._heard}"
            self._heard = number
        return bool(data)


class Talk:
    """All flows, and all captures."""

    def __init__(self, client: str, server: str, *others: str) -> None:
        self._captures = {name: _inside(name, _capture) for name in (client, server, *others)}
        self._ends: list[tuple[End, End]] = []
        self._state = State()
        with _inside(server, lambda: _bound(socket.SOCK_STREAM, SERVER, PORT)) as listener:
            listener.listen()
            for number in range(TCP_FLOWS):
                near = _inside(client, lambda: _bound(socket.SOCK_STREAM, CLIENT, 0))
                near.connect((SERVER, PORT))
                self._add("TCP", number, near, listener.accept()[0])
        for number in range(UDP_FLOWS):
            near = _inside(client, lambda: _bound(socket.SOCK_DGRAM, CLIENT, 0))
            far = _inside(server, lambda number=number: _bound(socket.SOCK_DGRAM, SERVER, PORT + number))  # type: ignore[misc]
            near.connect(far.getsockname())  # connected sockets are told of ICMP errors
            near.send(b"")
            far.connect(far.recvfrom(9)[1])
            self._add("UDP", number, near, far)

    def _add(self, kind: str, number: int, near: socket.socket, far: socket.socket) -> None:
        self._ends.append((End(f"{kind} {number}, client", near), End(f"{kind} {number}, server", far)))

    def run(self) -> None:
        """Talk until standard input ends."""
        before = time.monotonic()
        while True:
            now = time.monotonic()
            self._state.held_up_s = max(self._state.held_up_s, now - before - PACE_S)
            before = now
            for end in self._all():
                if end.broken is None and (gap := end.talk(now)) is not None:
                    self._state.gaps.append(gap)
            self._take_errors()
            if select.select([sys.stdin], [], [], PACE_S)[0]:
                if not sys.stdin.readline():
                    return
                self._tell()

    def _all(self) -> Iterator[End]:
        for both in self._ends:
            yield from both

    def _take_errors(self) -> None:
        for name, capture in self._captures.items():
            self._state.errors += [f"{name.rpartition('-')[2]}: {what}" for what in _read(capture)]

    def _tell(self) -> None:
        state, now = self._state, time.monotonic()
        state.flows = len(self._ends)
        state.broken = [end.broken for end in self._all() if end.broken is not None]
        state.silent = [end.name for end in self._all() if end.broken is None and now - end.heard_at > GAP_S]
        state.heard_since = min((end.heard_at for end in self._all() if end.broken is None), default=now)
        self._take_errors()
        print(json.dumps(asdict(state)), flush=True)


def _inside(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket of a namespace: it stays there when this process goes on to the next one."""
    with Path(f"/run/netns/{namespace}").open() as descriptor:
        netns.enter(descriptor.fileno())
    return make()


def _bound(kind: int, address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.settimeout(5.0)
    made.bind((address, port))
    return made


def _capture() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    made.setblocking(False)
    attach_filter(made, ERRORS_ONLY)
    list(_read(made))  # from before the filter
    return made


def _read(capture: socket.socket) -> Iterator[str]:
    while True:
        try:
            packet, (interface, _, direction, *_) = capture.recvfrom(128)
        except BlockingIOError:
            return
        if interface != "lo":
            way = "out" if direction == PACKET_OUTGOING else "in"
            yield f"{time.monotonic():.3f} {interface} {way} {_describe(packet)}"


def _describe(packet: bytes) -> str:
    source, destination = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
    behind = 4 * (packet[0] & 15)
    if packet[9] == socket.IPPROTO_TCP:
        ports = struct.unpack_from("!HH", packet, behind)
        return f"RST {source}:{ports[0]} > {destination}:{ports[1]}"
    kind, code = packet[behind : behind + 2]
    return f"ICMP {ICMP_ERRORS.get(kind, kind)} ({code}) {source} > {destination}"


if __name__ == "__main__":
    talk = Talk(*sys.argv[1:])
    print("{}", flush=True)
    talk.run()
