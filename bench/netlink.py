"""The speed of the kernel alone: entries written to a conntrack table by messages that are built before."""

import socket
import struct
import time

from bench.errors import BenchError
from bench.generator import tuples
from bench.lab import entered

# linux/netlink.h, linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
_NETLINK_NETFILTER = 12
_CT_NEW = 1 << 8
_REQUEST_CREATE_EXCL = 0x1 | 0x400 | 0x200
_NLMSG_ERROR = 2
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _TIMEOUT = 1, 2, 3, 7
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_STATUS_CONFIRMED = 8
MESSAGES_PER_SEND = 256


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded to a multiple of 4 bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _tuple(kind: int, source: bytes, destination: bytes, from_port: int, to_port: int) -> bytes:
    ends = attribute(1, source) + attribute(2, destination)
    ports = attribute(2, struct.pack("!H", from_port)) + attribute(3, struct.pack("!H", to_port))
    return attribute(
        kind | _NESTED,
        attribute(_TUPLE_IP | _NESTED, ends)
        + attribute(_TUPLE_PROTO | _NESTED, attribute(1, bytes([socket.IPPROTO_UDP])) + ports),
    )


def create_message(source: bytes, destination: bytes, from_port: int, to_port: int) -> bytes:
    """Return the netlink message by which a commit creates a plain UDP flow over IPv4; addresses are 4 bytes each."""
    body = (
        struct.pack("!BBH", socket.AF_INET, 0, 0)
        + _tuple(_TUPLE_ORIG, source, destination, from_port, to_port)
        + _tuple(_TUPLE_REPLY, destination, source, to_port, from_port)
        + attribute(_STATUS, struct.pack("!I", _STATUS_CONFIRMED))
        + attribute(_TIMEOUT, struct.pack("!I", 3600))
    )
    return struct.pack("=IHHII", 16 + len(body), _CT_NEW, _REQUEST_CREATE_EXCL, 0, 0) + body


def seconds_alone(namespace: str, entries: int, seed: int) -> float:
    """Return how many seconds the kernel takes to create that many entries from messages that are built before.

    Raises BenchError if the kernel refuses one.
    """
    messages = [create_message(*each) for each in tuples(entries, seed)]
    batches = [b"".join(messages[first : first + MESSAGES_PER_SEND]) for first in range(0, entries, MESSAGES_PER_SEND)]
    with entered(namespace):
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    with kernel:
        kernel.bind((0, 0))
        start = time.monotonic()
        for batch in batches:
            kernel.send(batch)
        seconds = time.monotonic() - start
        _raise_error(kernel)
    return seconds


def _raise_error(kernel: socket.socket) -> None:
    """Raise BenchError if the kernel has refused a message; it answers before `send` returns, and only refusals."""
    try:
        answer = kernel.recv(65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    _, kind, _, _, _, code = struct.unpack_from("=IHHIIi", answer)
    assert kind == _NLMSG_ERROR
    raise BenchError(f"the kernel refused a prebuilt conntrack entry: error {-code}")
