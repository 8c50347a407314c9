import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.kernel import netlink, uapi
from ftfw.kernel.attributes import MESSAGE, MalformedError
from ftfw.kernel.netlink import GETS_MAX, SLOT_SIZE, SLOTS, EventSocket, OverrunError, RequestSocket
from tests.unit.conntrack import conn, flow_messages


@given(st.lists(flow_messages(), max_size=6))
def test_a_datagram_falls_into_its_messages(messages: list[bytes]) -> None:
    assert netlink.slices(b"".join(messages)) == messages


def test_messages_begin_at_multiples_of_four() -> None:
    odd = struct.pack("=IHHII", 17, 2, 0, 0, 0) + b"x"
    assert netlink.slices(odd + b"\0\0\0" + conn().new()) == [odd, conn().new()]


@pytest.mark.parametrize("length", [0, 15, 1 << 20])
def test_a_length_that_leaves_its_datagram_is_malformed(length: int) -> None:
    with pytest.raises(MalformedError):
        netlink.slices(struct.pack("=I", length) + conn().new()[4:])


@given(st.binary(max_size=80))
def test_any_bytes_are_messages_or_malformed(datagram: bytes) -> None:
    try:
        found = netlink.slices(datagram)
    except MalformedError:
        return
    start = 0
    for message in found:
        assert message == datagram[start : start + struct.unpack_from("=I", datagram, start)[0]]
        start += (len(message) + 3) & ~3
    assert start > len(datagram) - 4, "nothing that could be a message is left"


def test_errors_have_names_for_people() -> None:
    assert netlink.errno_name(errno.EEXIST) == "exists"
    assert netlink.errno_name(errno.EIO) == "eio"
    assert netlink.errno_name(9999) == "9999"


# Sockets, with a kernel that answers as the test says


Answer = bytes | OSError


class FakeSocket:
    """A netlink socket: `answer` makes the datagrams, and errors of recv, that follow a request."""

    def __init__(self, answer: Callable[[list[bytes]], list[Answer]]) -> None:
        self.sent: list[list[bytes]] = []
        self.waiting: list[Answer] = []
        self._answer = answer

    def send(self, requests: bytes) -> None:
        self.sent.append(netlink.slices(requests))
        self.waiting += self._answer(self.sent[-1])

    def recv(self, _size: int, _flags: int = 0) -> bytes:
        if not self.waiting:
            raise BlockingIOError
        found = self.waiting.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    def setsockopt(self, *_args: object) -> None: ...

    def setblocking(self, _blocking: bool) -> None: ...

    def bind(self, _address: object) -> None: ...

    def fileno(self) -> int:
        return -1


def numbered(message: bytes, sequence: int) -> bytes:
    return message[:8] + sequence.to_bytes(4, "little") + message[12:]


def sequence_of(message: bytes) -> int:
    return int(MESSAGE.unpack_from(message)[3])


def missing(request: bytes) -> bytes:
    """ENOENT, as the kernel says it with NETLINK_CAP_ACK."""
    body = struct.pack("=i", -errno.ENOENT) + request[:16]
    return struct.pack("=IHHII", 16 + len(body), uapi.NLMSG_ERROR, 0, sequence_of(request), 0) + body


def requests_to(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[list[bytes]], list[Answer]]
) -> tuple[RequestSocket, FakeSocket, Counter[str]]:
    made: list[FakeSocket] = []

    def make(*_args: object) -> FakeSocket:
        made.append(FakeSocket(answer))
        return made[-1]

    fakes: dict[str, Any] = {name: getattr(socket, name) for name in dir(socket)} | {"socket": make}
    monkeypatch.setattr(netlink, "socket", SimpleNamespace(**fakes))
    dropped: Counter[str] = Counter()
    found = RequestSocket(dropped)
    return found, made[1], dropped


GET = conn().full()  # any request


def test_answers_come_back_by_request_and_what_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(asked: list[bytes]) -> list[Answer]:
        return [missing(each) if sequence_of(each) % 3 else each for each in reversed(asked)]

    kernel, reader, dropped = requests_to(monkeypatch, answer)
    found = kernel.get([GET] * (2 * GETS_MAX + 5))
    assert sorted(found) == list(range(0, 2 * GETS_MAX + 5, 3))
    assert [len(each) for each in reader.sent] == [GETS_MAX, GETS_MAX, 5]
    assert not dropped
    assert kernel.get([]) == {}


def test_an_answer_to_an_earlier_request_is_not_taken_for_another_s(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = conn(ident=1).full(), conn(ident=2).full()

    def answer(asked: list[bytes]) -> list[Answer]:
        told = numbered(first if len(reader.sent) == 1 else second, sequence_of(asked[0]))
        return [OSError(errno.EIO, "broken off"), told] if len(reader.sent) == 1 else [told]

    kernel, reader, dropped = requests_to(monkeypatch, answer)
    with pytest.raises(OSError, match="broken off"):
        kernel.get([GET])
    (found,) = kernel.get([GET]).values()
    assert found[20:] == second[20:]
    assert dropped == {"answers_stale": 1}


def test_lost_answers_are_asked_for_again_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(asked: list[bytes]) -> list[Answer]:
        some: list[Answer] = [*asked[:1], *asked[3:]] if len(asked) > 3 else [*asked]
        return [OSError(errno.ENOBUFS, "full"), *some]

    kernel, _, dropped = requests_to(monkeypatch, answer)
    assert sorted(kernel.get([GET] * 9)) == list(range(9))
    assert dropped == {"answers_lost": 2}


def test_a_buffer_that_holds_no_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, _, _ = requests_to(monkeypatch, lambda _: [OSError(errno.ENOBUFS, "full")])
    with pytest.raises(OSError, match="answers") as failed:
        kernel.get([GET])
    assert failed.value.errno == errno.ENOBUFS


def test_sequence_numbers_begin_again_before_they_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, reader, dropped = requests_to(monkeypatch, lambda asked: [*asked])
    monkeypatch.setattr(netlink, "SEQUENCES", GETS_MAX + 2)
    for _ in range(4):
        assert sorted(kernel.get([GET] * (GETS_MAX - 1))) == list(range(GETS_MAX - 1))
    assert {sequence_of(each) for sent in reader.sent for each in sent} == set(range(GETS_MAX - 1))
    assert not dropped


def events(monkeypatch: pytest.MonkeyPatch, *batches: list[bytes] | OSError) -> EventSocket:
    """An event socket from which each system call reads one of these."""
    rest: Iterator[list[bytes] | OSError] = iter(batches)
    reader = SimpleNamespace(truncated=0)

    def read(_descriptor: int) -> list[bytes]:
        found = next(rest, [])
        if isinstance(found, OSError):
            raise found
        whole = [each for each in found if len(each) <= SLOT_SIZE]
        reader.truncated += len(found) - len(whole)
        return whole

    reader.read = read
    fakes: dict[str, Any] = {name: getattr(socket, name) for name in dir(socket)}
    monkeypatch.setattr(netlink, "socket", SimpleNamespace(**fakes | {"socket": lambda *_: FakeSocket(lambda _: [])}))
    monkeypatch.setattr(netlink, "BatchReader", lambda **_: reader)
    return EventSocket(own_port=1, buffer_bytes=1 << 16)


OVERRUN = OSError(errno.ENOBUFS, "overrun")
EVENT = conn().new()


def test_events_that_were_read_before_an_overrun_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    read = events(monkeypatch, [EVENT] * SLOTS, [EVENT] * SLOTS, OVERRUN, [EVENT])
    assert read.drain(10 * SLOTS) == [EVENT] * (2 * SLOTS)
    with pytest.raises(OverrunError):
        read.drain(10 * SLOTS)
    assert read.drain(10 * SLOTS) == [EVENT]
    assert read.drain(10 * SLOTS) == []


def test_an_event_that_is_too_long_is_an_overrun_behind_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = events(monkeypatch, [EVENT, bytes(SLOT_SIZE + 1), EVENT], [EVENT])
    assert read.drain(10 * SLOTS) == [EVENT, EVENT]
    with pytest.raises(OverrunError):
        read.drain(10 * SLOTS)
    assert read.drain(10 * SLOTS) == [EVENT]


def test_an_overrun_before_all_else_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OverrunError):
        events(monkeypatch, OVERRUN).drain(1)
    with pytest.raises(OSError, match="gone"):
        events(monkeypatch, OSError(errno.ENODEV, "gone")).drain(1)
