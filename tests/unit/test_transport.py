import contextlib
import os
import socket
from collections.abc import Iterable

import pytest
import trio

from ftfw import __version__
from ftfw.daemon.transport import UNHEARD, Transport
from ftfw.link.link_base import BatchOrigin, Link, Received
from ftfw.replication import messages
from ftfw.replication.limits import PEER_LOST_S
from ftfw.replication.member import Member
from ftfw.replication.messages import Heartbeat, Message
from ftfw.security.frames import RefusedError
from ftfw.security.freshness import Freshness

KEY, OTHER = b"k" * 32, b"o" * 32


class Pipe(Link):
    """A link that carries to nobody, and brings what a test gives it."""

    trouble: str | None = None

    def __init__(self, name: str) -> None:
        super().__init__(name=name, port=0, pinned_to=None, version=4)
        self.frame_limit = 1400
        self.frames: list[bytes] = []
        self.key_ids: list[bytes] = []
        self.batches: list[list[bytes]] = []
        self.taken: list[BatchOrigin] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)

    def admit(self, key_ids: Iterable[bytes]) -> None:
        self.key_ids = list(key_ids)

    async def run(self, received: Received) -> None:
        self.taken += [received(batch) for batch in self.batches]
        await trio.lowlevel.checkpoint()

    def _make(self) -> socket.socket:
        raise NotImplementedError


class Heard(Member):
    """Keeps what a transport has handed on."""

    def __init__(self) -> None:
        super().__init__("fw1")
        self.messages: list[Message] = []
        self.batches = 0

    def receive(self, epoch: bytes, message: Message, now: float) -> None:
        super().receive(epoch, message, now)
        self.messages.append(message)

    def after(self) -> None:
        self.batches += 1


def sealed(*bodies: bytes, key: bytes = KEY, name: str = "fw2") -> list[bytes]:
    link = Pipe("theirs")
    Transport([link], [key], name=name).send(list(bodies))
    return link.frames


BEAT = messages.heartbeat("fw2", "active", 0, 0)


async def introduced(wire: Transport) -> Freshness:
    """A node that the wire believes, since it has answered the wire's challenge."""
    peer = Freshness([KEY], name="fw2", links=len(wire.links), random=os.urandom)
    link, heard = wire.links[0], Heard()
    assert isinstance(link, Pipe)
    for _ in range(2):
        link.batches = [peer.seal([BEAT, *peer.bodies_to_send()])]
        await wire.receive_all(link, heard, heard.after)
        wire.send(wire.freshness.bodies_to_send())
        for frame in link.frames:
            with contextlib.suppress(RefusedError):
                peer.receive(frame, 0, 0.0)
        link.frames.clear()
    link.taken.clear()
    link.dropped.clear()
    return peer


def test_a_frame_is_the_same_on_every_link() -> None:
    links = [Pipe("one"), Pipe("two")]
    wire = Transport(links, [KEY], name="fw1")
    wire.send([BEAT, BEAT])
    assert links[0].frames == links[1].frames
    assert len(set(links[0].frames)) == 2


def test_links_are_told_the_keys() -> None:
    link = Pipe("one")
    Transport([link], [KEY, OTHER], name="fw1")
    assert link.key_ids == [sealed(BEAT)[0][4:8], sealed(BEAT, key=OTHER)[0][4:8]]


async def test_a_link_learns_what_was_authentic_and_who_spoke() -> None:
    first, second = Pipe("one"), Pipe("two")
    wire = Transport([first, second], [KEY], name="fw1")
    heard, peer = Heard(), await introduced(wire)
    (frame,) = peer.seal([BEAT])
    first.batches = [[frame, *sealed(BEAT, key=OTHER), b"x"], peer.seal([b"\xc1"])]
    second.batches = [[frame], sealed(BEAT, name="fw1"), sealed(BEAT, name="fw3")]
    for link in (first, second):
        await wire.receive_all(link, heard, heard.after)
    assert first.taken == [
        BatchOrigin(1, "fw2"),
        BatchOrigin(1, None),
    ]  # a body that nobody understands is authentic all the same
    # So is a copy of what came over another link, and what may be a recording.
    assert second.taken == [BatchOrigin(1, None), BatchOrigin(0, None), BatchOrigin(1, None)]
    assert heard.batches == 5
    assert [type(message) for message in heard.messages] == [Heartbeat]
    assert first.dropped["unknown_key"] == first.dropped["short"] == second.dropped["own_name"] == 1
    assert second.dropped["duplicate"] == second.dropped["unproved"] == 1


async def test_another_protocol_version_is_refused_naming_both(caplog: pytest.LogCaptureFixture) -> None:
    link = Pipe("one")
    (frame,) = sealed(BEAT)
    link.batches = [[frame[:2] + bytes((9,)) + frame[3:]] * 2]
    heard = Heard()
    await Transport([link], [KEY], name="fw1").receive_all(link, heard, heard.after)
    assert link.dropped["version"] == 2
    (told,) = caplog.messages  # once
    assert told.startswith(
        f"one: frames of protocol version 9 arrive, and this node, fw1 with ftfw {__version__}, speaks"
    )


@pytest.mark.parametrize(
    ("ages", "up"),
    [
        ((None, None), [True, True]),  # nobody is there: no link's fault
        ((0.0, 0.0), [True, True]),
        ((0.0, None), [True, False]),
        ((PEER_LOST_S, 0.0), [False, True]),
        ((PEER_LOST_S, PEER_LOST_S), [True, True]),
    ],
)
def test_a_silent_link_is_down_if_another_one_is_not(ages: tuple[float | None, float | None], up: list[bool]) -> None:
    links = [Pipe("one"), Pipe("two")]
    for link, age in zip(links, ages, strict=True):
        if age is not None:
            link.heard_at = 100.0 - age
    _, told = Transport(links, [KEY], name="fw1").status(100.0)
    assert [link["up"] for link in told] == up
    assert [link["trouble"] for link in told] == [None if each else UNHEARD for each in up]


def test_a_link_s_own_trouble_is_told_first() -> None:
    links = [Pipe("one"), Pipe("two")]
    links[0].heard_at = 100.0
    links[1].trouble = "there is no interface two; create it"
    _, told = Transport(links, [KEY], name="fw1").status(100.0)
    assert [(link["up"], link["trouble"]) for link in told] == [(True, None), (False, links[1].trouble)]


def test_all_links_counters_are_added_up() -> None:
    links = [Pipe("one"), Pipe("two")]
    for link in links:
        link.sent, link.bytes_received = 2, 30
        link.dropped["forged"] = 1
    total, each = Transport(links, [KEY], name="fw1").status(0.0)
    assert (total["sent"], total["bytes_received"], total["dropped"]) == (4, 60, {"forged": 2})
    assert [link["name"] for link in each] == ["one", "two"]
    assert set(each[0]) == {"name", "up", "trouble", "sent", "received", "bytes_sent", "bytes_received", "dropped"}
