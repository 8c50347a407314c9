"""Sends real packets through a real firewall one by one, and reads its table after each, for recordings.

The firewall's two cables are cut in the switch and led through packet sockets here.  A packet goes in only when what
the one before it did is over: since before a dump, which takes longer than any packet, the kernel has told no more.
"""

import select
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import trio

from ftfw.kernel import flow_entry, uapi
from ftfw.kernel.attributes import BODY, HEADER, number, split
from ftfw.kernel.create import Timeouts
from ftfw.kernel.injector import Injector
from ftfw.kernel.netlink import EventSocket, RequestSocket, dump_expectations, dump_flows
from tests.kernel import netns
from tests.simulation.recording import Rows, Step, key_of, without_silent_flags
from tests.unit.conntrack import is_expectation

ETH_P_ALL = 3
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
FRAME_MAX = 1 << 17
TYPE, ARP = slice(22, 24), b"\x08\x06"  # behind virtio's header and two Ethernet addresses
MANY = 10_000  # events
LOOK_S = 0.1  # between two looks while no packet comes: entries run out
TIMER_S = 5  # a timer that has moved by less is no change worth a step


def enter(namespace: str) -> None:
    """Put this thread into a named network namespace."""
    with Path(f"/run/netns/{namespace}").open() as descriptor:
        netns.enter(descriptor.fileno())


class Gate(threading.Thread):
    """Lets packets through and notes what the kernel did, from `start` to `stop`.

    `pairs`: by two interfaces of the namespace `switch`, the one whose other end is the firewall's, and the one whose
    other end is in a bridge.
    """

    def __init__(self, *, firewall: str, switch: str, pairs: Iterable[tuple[str, str]]) -> None:
        super().__init__(daemon=True)
        self.steps: list[Step] = []
        self.table: Rows = {}
        self.looks = 0
        self.error: BaseException | None = None
        self.changed_at = time.monotonic()
        self._firewall, self._switch, self._pairs = firewall, switch, list(pairs)
        self._stopped = threading.Event()
        self.ready = threading.Event()

    def stop(self) -> None:
        """Let nothing through any more; raises what `check` does."""
        self._stopped.set()
        self.join()
        self.check()

    def check(self) -> None:
        """Raise what has ended the thread."""
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        try:
            with ExitStack() as stack:
                enter(self._switch)
                inward: dict[socket.socket, socket.socket] = {}
                outward: dict[socket.socket, socket.socket] = {}
                for near, far in self._pairs:
                    one, other = (stack.enter_context(_tap(name)) for name in (near, far))
                    inward[other], outward[one] = one, other
                enter(self._firewall)
                self.requests, reader = RequestSocket(), RequestSocket()
                self._injector = Injector(reader, Timeouts)
                self._events = EventSocket(own_port=reader.port, buffer_bytes=1 << 22)
                for each in (self.requests, reader, self._events):
                    stack.callback(each.close)
                self.ready.set()
                while not self._stopped.is_set():
                    self._pass_on(inward, outward)
        except BaseException as error:
            self.error = error
            self.ready.set()

    def _pass_on(self, inward: dict[socket.socket, socket.socket], outward: dict[socket.socket, socket.socket]) -> None:
        readable, _, _ = select.select([*inward, *outward], [], [], LOOK_S)
        for each in readable:
            if each in outward:
                outward[each].send(each.recv(FRAME_MAX))
        for each in readable:
            if each in inward:
                inward[each].send(frame := each.recv(FRAME_MAX))
                if frame[TYPE] != ARP:
                    self._settle()
        if not readable:
            self._settle()

    def _settle(self) -> None:
        """Note what has changed, once nothing changes any more."""
        events = self._events.drain(MANY)
        table = self._dump()
        while more := self._events.drain(MANY):
            events += more
            table = self._dump()
        self.looks += 1
        told = {key_of(event) for event in events}
        changed = {key: row for key, row in table.items() if key in told or _differs(self.table.get(key), row)}
        gone = [key for key in self.table if key not in table]
        if (
            events
            or gone
            or any(_differs(self.table.get(key), row, but_flickering=True) for key, row in changed.items())
        ):
            self._check_answers(list(changed.values()))
            self.steps.append(Step(events, list(changed.values()), gone))
            self.table = {key: changed.get(key) or self.table[key] for key in table}
            self.changed_at = time.monotonic()

    def _dump(self) -> Rows:
        async def read() -> Rows:
            found: Rows = {}
            for dump in (dump_flows, dump_expectations):
                async for batch in dump():
                    found.update((key_of(row), row) for row in map(flow_entry.as_full, batch))
            return found

        return trio.run(read)

    def _check_answers(self, rows: list[bytes]) -> None:
        """The kernel answers a GET with what it dumps: so a recording of dumps has the answers as well."""
        flows = {flow_entry.found_by(key_of(row)): row for row in rows if not is_expectation(row)}
        for answer in map(flow_entry.as_full, self._injector.read(list(flows))):
            row = flows[flow_entry.found_by(key_of(answer))]
            assert not _differs(row, answer), f"a GET says {answer.hex()}, a dump {row.hex()}"


def _tap(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)  # checksums and segments that are left to the card travel along
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.bind((interface, ETH_P_ALL))
    return made


def _differs(old: bytes | None, new: bytes, *, but_flickering: bool = False) -> bool:
    """Return whether a row says something new: timers run down, and use counts go up and down.

    `but_flickering`: nor do the bits of TCP's flags count that come and go with every segment.
    """
    if old is None:
        return True
    one, other = split(old, BODY), split(new, BODY)
    timer = uapi.CTA_EXPECT_TIMEOUT if is_expectation(new) else uapi.CTA_TIMEOUT
    was, is_ = (number(each.pop(timer)) if timer in each else 0 for each in (one, other))
    if not is_expectation(new):
        for each in (one, other):
            each.pop(uapi.CTA_USE, None)
            if but_flickering:
                each[uapi.CTA_PROTOINFO] = without_silent_flags(each.get(uapi.CTA_PROTOINFO, b"")[HEADER.size :])
    return one != other or (abs(was - is_) >= TIMER_S and not but_flickering)
