"""Takes over under constant traffic in both directions, with and without the gate: warm, and hot while it is filled."""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.kernel.crossing import (
    CLIENT,
    CLIENT6,
    SERVER,
    SERVER6,
    End,
    crossing,
    errors_sent,
    hold_addresses,
)
from tests.kernel.crowd import inject_many
from tests.kernel.pair import LIMIT_S, Node, pair, until

pytestmark = pytest.mark.kernel

CROWD = 100_000  # flows besides, so that the commit takes a while
CONNECTIONS = 10  # TCP, each IPv4 with SNAT and IPv6; and as many UDP flows
PORT = 7019
PACE_S = 0.005
GATE = '[takeover]\ngate_interfaces = ["lan", "wan"]\n'


class Talk:
    """Sends on both ends of many flows all the time, in a thread; a broken flow stays broken."""

    def __init__(self, client: End, server: End) -> None:
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.heard: dict[socket.socket, int] = {}
        self.broken: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        for near, far in ((CLIENT, SERVER), (CLIENT6, SERVER6)):
            listener = server.socket(socket.SOCK_STREAM, far, PORT)
            listener.listen()
            answering = server.socket(socket.SOCK_DGRAM, far, PORT)
            for _ in range(CONNECTIONS):
                self._connect(client, near, listener)
            self._exchange(client, near, answering)
            listener.close()
        for each in self.ends():
            each.setblocking(False)
            self.heard[each] = 0

    def _connect(self, client: End, near: str, listener: socket.socket) -> None:
        connecting = client.socket(socket.SOCK_STREAM, near)
        connecting.connect(listener.getsockname()[:2])
        self.pairs.append((connecting, listener.accept()[0]))

    def _exchange(self, client: End, near: str, answering: socket.socket) -> None:
        """Open a UDP flow between connected sockets, which report ICMP errors."""
        asking = client.socket(socket.SOCK_DGRAM, near)
        asking.connect(answering.getsockname()[:2])
        asking.send(b"x")
        answering.connect(answering.recvfrom(9)[1])
        self.pairs.append((asking, answering))

    def ends(self) -> list[socket.socket]:
        return [end for both in self.pairs for end in both]

    def _run(self) -> None:
        while not self._stop.is_set():
            for each in self.ends():
                self._talk(each)
            time.sleep(PACE_S)

    def _talk(self, end: socket.socket) -> None:
        try:
            end.send(b"x")
            self.heard[end] += len(end.recv(1 << 16))
        except BlockingIOError:
            pass  # nothing has come, or nothing more fits in
        except OSError as error:
            self.broken.add(f"{end.type.name} {end.family.name}: {error.strerror}")

    def goes_on(self) -> bool:
        """Tell whether every end hears the other end again."""
        before = dict(self.heard)
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and not self.broken:
            if all(self.heard[end] > before[end] for end in before):
                return True
            time.sleep(PACE_S)
        return False

    def __enter__(self) -> "Talk":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for each in self.ends():
            each.close()


@dataclass
class Takeover:
    errors: int  # RST and ICMP errors that any of the four hosts has sent
    broken: set[str]
    went_on: bool
    dropped: int
    committed: int


def is_in_sync(backup: Node) -> bool:
    status = backup.status()
    return status["synced"] is True and status["flows"] > CROWD


def is_being_filled(backup: Node) -> bool:
    """Tell whether a hot node holds everything, but its kernel does not yet."""
    why = backup.status()["why_not_synced"] or ""
    return "is being put into this kernel" in why and backup.kernel_count() < CROWD


def take_over(workdir: Path, *, more: str, mode: str = "warm", when: Callable[[Node], bool] = is_in_sync) -> Takeover:
    """Kill the active, move addresses and traffic to the backup, and only then promote it."""
    with pair(workdir, more=more, mode=mode) as nodes, crossing(nodes, workdir) as ends:
        active, backup = nodes
        active.start("active")
        active.inside(partial(trio.run, inject_many, CROWD))
        with Talk(*ends) as talk:
            assert talk.goes_on()
            backup.start("backup")
            until(lambda: when(backup), "the time of the takeover")
            before = errors_sent((*nodes, *ends))
            active.kill()
            hold_addresses(backup)
            for end in ends:
                end.use(1)
            backup.ftfw("promote")
            went_on = talk.goes_on()
            status = backup.status()
            return Takeover(
                errors=errors_sent((*nodes, *ends)) - before,
                broken=talk.broken,
                went_on=went_on,
                dropped=(status["gate"] or {}).get("dropped", 0),
                committed=status["last_commit"]["created"],
            )


@pytest.fixture(autouse=True)
def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def test_no_packet_is_answered_with_an_error(tmp_path: Path) -> None:
    takeover = take_over(tmp_path, more=GATE)
    assert (takeover.errors, takeover.broken, takeover.went_on) == (0, set(), True)
    assert takeover.dropped > 0
    assert takeover.committed > CROWD


def test_a_hot_kernel_that_is_being_filled_answers_with_no_error(tmp_path: Path) -> None:
    takeover = take_over(tmp_path, more=GATE, mode="hot", when=is_being_filled)
    assert (takeover.errors, takeover.broken, takeover.went_on) == (0, set(), True)
    assert takeover.dropped > 0


def test_without_a_gate_it_does(tmp_path: Path) -> None:
    takeover = take_over(tmp_path, more="", mode="hot", when=is_being_filled)
    assert takeover.errors > 0


def test_without_the_gate_flows_are_broken_by_errors(tmp_path: Path) -> None:
    takeover = take_over(tmp_path, more="")
    assert takeover.errors > 0
    assert any("reset" in each or "refused" in each for each in takeover.broken)
