"""A playbook for one engine of replication: a test reads like the exchange itself, on a clock of its own.

    play = Playbook(backup())
    play >> heartbeat(0) << resync(0, compare=False) << ack(0, synced=False)
    play >> begin(1) >> part(2, conn().full()) >> end(3) >> work
    play >> passes(0.1) << ack(3, synced=True)

`>>` hands the engine what comes next: a message, time that passes, or an act of its driver.  `<<` is what it says next.
An engine says no more and no less than the playbook has it say; `over` looks at that in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from ftfw.kernel.message_run import Part
from ftfw.replication import messages
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.bucket_digests import Digests, Scope
from ftfw.replication.messages import Ack, Heartbeat, Message, Piece, Resync, Slice, Stream, Want
from ftfw.replication.store import Store

STREAM = b"e" * 32  # the epoch of the active's stream
PEER = b"p" * 32  # the epoch in which backups speak
SALT = bytes(16)
LIMIT = 400  # bytes of a body

Act = Callable[["Backup | Active", float], None]


@dataclass
class passes:  # noqa: N801  # it reads like the other words of a playbook
    """So many seconds go by: what is due meanwhile is done when it is due."""

    seconds: float


class Playbook:
    """One engine, what it is told, and what it has said and nobody has looked at."""

    def __init__(self, engine: Backup | Active, *, now: float = 0.0) -> None:
        self.engine = engine
        self.now = now
        self.ignored: tuple[type, ...] = ()  # kinds of messages that a test does not look at
        self._said: list[Message] = []
        self._handle_timer()

    def __rshift__(self, told: Message | passes | Act | tuple[bytes, Message]) -> Self:
        """Tell the engine something; all that it has said before must have been looked at."""
        self.over()
        match told:
            case passes(seconds):
                self._pass(self.now + seconds)
            case (epoch, message):
                self.engine.receive(epoch, message, self.now)  # type: ignore[arg-type]
            case Heartbeat() | Stream():
                self.engine.receive(STREAM, told, self.now)  # type: ignore[arg-type]
            case Ack() | Resync() | Want():
                self.engine.receive(PEER, told, self.now)  # type: ignore[arg-type]
            case _:
                assert callable(told)
                told(self.engine, self.now)
        self._listen()
        self._handle_timer()
        return self

    def __lshift__(self, expected: Message) -> Self:
        """Look at what the engine says next."""
        assert self._said, f"nothing is said, but {expected} is expected"
        said = self._said.pop(0)
        assert said == expected, f"{said} is said, but {expected} is expected"
        return self

    def next(self) -> Message:
        """Return what the engine says next, whatever it is."""
        return self._said.pop(0)

    def over(self) -> Self:
        """Look whether the engine has said all that it was to say."""
        assert self._said == [], f"{self._said} is said, and not expected"
        return self

    def _pass(self, until: float) -> None:
        while self.engine.get_timer() <= until:
            self.now = max(self.now, self.engine.get_timer())
            self.engine.handle_timer(self.now)
            self._listen()
        self.now = until

    def _handle_timer(self) -> None:
        if self.engine.get_timer() <= self.now:
            self.engine.handle_timer(self.now)
            self._listen()

    def _listen(self) -> None:
        said = map(messages.unpack, self.engine.bodies_to_send())
        self._said += [message for message in said if not isinstance(message, self.ignored)]


# Engines


def backup(*, hot: bool = False) -> Backup:
    """A backup that has heard nothing."""
    return Backup(name="fw2", store=Store(), limit=LIMIT, now=0.0, hot=hot)


def active(*, limit: int = 1400, compare_s: float = 60.0) -> Active:
    """An active that has streamed nothing."""
    return Active(name="fw1", epoch=STREAM, limit=limit, compress=False, compare_s=compare_s, now=0.0)


# What actives say


def heartbeat(sequence: int, oldest: int = 1, *, name: str = "fw1") -> Heartbeat:
    return _unpacked(messages.heartbeat(name, "active", sequence, oldest))


def events(number: int, *found: bytes) -> Stream:
    return Stream(messages.EVENTS, number, [list(found)] if found else [])


def begin(number: int) -> Stream:
    return Stream(messages.SNAPSHOT_BEGIN, number, [])


def part(number: int, *entries: bytes) -> Stream:
    return Stream(messages.SNAPSHOT_PART, number, [list(entries)] if entries else [])


def end(number: int) -> Stream:
    return Stream(messages.SNAPSHOT_END, number, [])


def lost(number: int) -> Stream:
    return Stream(messages.LOST, number, [])


def resync_all(number: int) -> Stream:
    return Stream(messages.RESYNC_ALL, number, [])


def compare(number: int) -> Stream:
    return Stream(messages.COMPARE, number, [])


def digests(number: int, of: Digests, *, first: int = 0) -> Stream:
    return Stream(messages.DIGESTS, number, [], Slice(SALT, of.bits, first, of.numbers[first:].tobytes()))


def scope(number: int, of: Scope, *, left: int = 0) -> Stream:
    return Stream(messages.SCOPE, number, [], Piece(of, left))


# What backups say


def ack(sequence: int, *missing: tuple[int, int], synced: bool = True, name: str = "fw2", epoch: bytes = STREAM) -> Ack:
    return Ack(name=name, epoch=epoch, sequence=sequence, missing=list(missing), synced=synced)


def resync(sequence: int, *, compare: bool = False, name: str = "fw2", epoch: bytes = STREAM) -> Resync:
    return Resync(name=name, epoch=epoch, sequence=sequence, compare=compare)


def want(sequence: int, of: Scope, *, name: str = "fw2", epoch: bytes = STREAM) -> Want:
    return Want(name=name, epoch=epoch, sequence=sequence, scope=of)


def present(name: str = "fw2") -> Heartbeat:
    """A backup that follows nobody is there."""
    return _unpacked(messages.heartbeat(name, "backup", 0, 0))


def _unpacked(body: bytes) -> Heartbeat:
    message = messages.unpack(body)
    assert isinstance(message, Heartbeat)
    return message


# What drivers do


def work(engine: Backup | Active, now: float) -> None:
    """All steps that are left."""
    assert isinstance(engine, Backup)
    while engine.work(now):
        pass


def step(engine: Backup | Active, now: float) -> None:
    """One step."""
    assert isinstance(engine, Backup)
    engine.work(now)


def unfollow(engine: Backup | Active, _now: float) -> None:
    assert isinstance(engine, Backup)
    engine.unfollow()


def want_snapshot(engine: Backup | Active, now: float) -> None:
    """An administrator asks a backup for everything."""
    assert isinstance(engine, Backup)
    engine.request_snapshot(now)


def want_compare(engine: Backup | Active, now: float) -> None:
    assert isinstance(engine, Backup)
    engine.request_compare(now)


def offer(*found: bytes) -> Act:
    """The kernel has told of something."""

    def act(engine: Backup | Active, now: float) -> None:
        assert isinstance(engine, Active)
        parts: list[Part] = [list(found)]
        engine.offer(parts, now)

    return act


def lose(engine: Backup | Active, now: float) -> None:
    assert isinstance(engine, Active)
    engine.lose(now)


def snapshot(*entries: bytes) -> Act:
    """The whole table, or what is wanted of it."""

    def act(engine: Backup | Active, now: float) -> None:
        assert isinstance(engine, Active)
        engine.begin_snapshot(now)
        engine.add_snapshot([list(entries)], now)
        engine.end_snapshot(now)

    return act
