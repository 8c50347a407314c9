import socket
from collections.abc import Iterator

import pytest

from ftfw.system.recvmmsg import BatchReader, attach_filter

SIZE, USUAL, SLOTS = 300, 100, 4


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with receiver, sender:
        yield receiver, sender


@pytest.mark.parametrize("usual", [USUAL, SIZE])
def test_datagrams_come_whole_in_their_order_and_in_batches(
    ends: tuple[socket.socket, socket.socket], usual: int
) -> None:
    receiver, sender = ends
    reader = BatchReader(slots=SLOTS, size=SIZE, usual=usual)
    assert reader.read(receiver.fileno()) == []
    sent = [bytes([length % 251]) * length for length in (1, USUAL - 1, USUAL, USUAL + 1, SIZE - 1, SIZE)]
    for datagram in sent:
        sender.send(datagram)
    assert reader.read(receiver.fileno()) == sent[:SLOTS]
    assert reader.read(receiver.fileno()) == sent[SLOTS:]
    assert reader.truncated == 0


@pytest.mark.parametrize("usual", [USUAL, SIZE])
def test_a_datagram_longer_than_the_size_is_left_out_and_counted(
    ends: tuple[socket.socket, socket.socket], usual: int
) -> None:
    receiver, sender = ends
    reader = BatchReader(slots=SLOTS, size=SIZE, usual=usual)
    for length in (SIZE + 1, 5, 10 * SIZE, SIZE):
        sender.send(b"x" * length)
    assert reader.read(receiver.fileno()) == [b"x" * 5, b"x" * SIZE]
    assert reader.truncated == 2
    sender.send(b"y")
    assert reader.read(receiver.fileno()) == [b"y"]
    assert reader.truncated == 2


def test_an_error_of_the_socket_is_raised() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as unconnected:
        reader = BatchReader(slots=SLOTS, size=SIZE, usual=USUAL)
        with pytest.raises(OSError, match="not connected"):
            reader.read(unconnected.fileno())


def test_the_kernel_drops_what_the_filter_returns_zero_for(ends: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = ends
    attach_filter(receiver, [(0x30, 0, 0, 0), (0x15, 1, 0, ord("x")), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)])
    for datagram in (b"dropped", b"x passes"):
        sender.send(datagram)
    assert BatchReader(slots=SLOTS, size=SIZE, usual=USUAL).read(receiver.fileno()) == [b"x passes"]
