"""Runs the filter in the kernel itself, which needs no privileges."""

import secrets
import socket
from collections.abc import Iterator

import pytest

from ftfw.link import socket_filter
from ftfw.security.frames import EPOCH_SIZE, VERSION, Sealer
from ftfw.system.recvmmsg import attach_filter

KEY, OTHER = b"k" * 32, b"o" * 32


def frame(key: bytes, name: str = "fw2") -> bytes:
    return Sealer(key, name=name, epoch=bytes(EPOCH_SIZE)).seal(b"body")


def key_id(key: bytes) -> bytes:
    return frame(key)[4:8]


@pytest.fixture(params=["127.0.0.1", "::1"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    one, two = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    with one, two:
        one.bind((request.param, 0))
        one.setblocking(False)
        two.connect(one.getsockname())
        yield one, two


def passing(ends: tuple[socket.socket, socket.socket], *datagrams: bytes) -> list[bytes]:
    receiver, sender = ends
    for datagram in datagrams:
        sender.send(datagram)
    found = []
    while True:
        try:
            found.append(receiver.recv(1 << 16))
        except BlockingIOError:
            return found


def other_version(sealed: bytes) -> bytes:
    return sealed[:2] + bytes([VERSION + 1]) + sealed[3:]


def test_only_frames_under_a_known_key_pass(ends: tuple[socket.socket, socket.socket]) -> None:
    attach_filter(ends[0], socket_filter.program([key_id(KEY)]))
    strangers = [b"", b"F", b"FW", b"FW\x01", b"FW\x01\0ab", b"GET / HTTP/1.1", secrets.token_bytes(1400), frame(OTHER)]
    assert passing(ends, *strangers, frame(KEY)) == [frame(KEY)]


def test_other_versions_and_other_names_pass_since_the_daemon_tells_of_them(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    attach_filter(ends[0], socket_filter.program([key_id(KEY)]))
    wanted = [other_version(frame(OTHER)), frame(KEY, name="fw1")]
    assert passing(ends, *wanted) == wanted


def test_keys_change_at_run_time(ends: tuple[socket.socket, socket.socket]) -> None:
    attach_filter(ends[0], socket_filter.program([key_id(KEY)]))
    assert passing(ends, frame(OTHER)) == []
    attach_filter(ends[0], socket_filter.program([key_id(KEY), key_id(OTHER)]))
    assert passing(ends, frame(OTHER), frame(KEY)) == [frame(OTHER), frame(KEY)]
    attach_filter(ends[0], socket_filter.program([key_id(OTHER)]))
    assert passing(ends, frame(KEY)) == []


def test_without_keys_any_frame_passes(ends: tuple[socket.socket, socket.socket]) -> None:
    attach_filter(ends[0], socket_filter.program([]))
    assert passing(ends, b"x" * 100, frame(KEY)) == [frame(KEY)]


def test_many_keys(ends: tuple[socket.socket, socket.socket]) -> None:
    keys = [secrets.token_bytes(32) for _ in range(300)]
    attach_filter(ends[0], socket_filter.program(map(key_id, keys)))
    assert passing(ends, frame(keys[0]), frame(keys[-1]), frame(KEY)) == [frame(keys[0]), frame(keys[-1])]
