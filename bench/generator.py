"""The traffic generator: UDP packets of random flows at an even rate, from a process of its own.

Runs in the traffic namespace as `python -m bench.generator`. Prints `ready` when all frames are built, waits for a line
on standard input, sends the frames, and prints one JSON object: `seconds`, `user_s` and `system_s`.
"""

import argparse
import ctypes
import json
import os
import random
import socket
import struct
import sys
import time

from bench.pacing import Pace

SOURCES = "198.51.100.0"
DESTINATIONS = "203.0.113.0"
FRAME_BYTES = 42
BATCH = 1024

_ETHERNET = struct.Struct("!6s6sH")
_IPV4_UDP = struct.Struct("!BBHHHBBH4s4sHHHH")
_IPV4_LENGTH = 28


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("sent", ctypes.c_uint))


def tuples(count: int, seed: int) -> list[tuple[bytes, bytes, int, int]]:
    """Return source, destination (4 bytes each) and ports of `count` random flows; the same for the same seed."""
    source, destination = socket.inet_aton(SOURCES)[:3], socket.inet_aton(DESTINATIONS)[:3]
    drawn = struct.iter_unpack("!BBHH", random.Random(seed).randbytes(6 * count))
    return [
        (
            source + bytes([1 + from_host % 254]),
            destination + bytes([1 + to_host % 254]),
            1024 + from_port % 64512,
            1024 + to_port % 64512,
        )
        for from_host, to_host, from_port, to_port in drawn
    ]


def checksum(header: bytes) -> int:
    """Return the Internet checksum of an IPv4 header whose checksum field is 0."""
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - ((total & 0xFFFF) + (total >> 16))


def frame(gateway: bytes, source: bytes, destination: bytes, from_port: int, to_port: int) -> bytes:
    """Return an Ethernet frame with an empty UDP datagram to the hardware address `gateway` (6 bytes).

    The frame has no UDP checksum, as IPv4 allows.
    """
    fields = (0x45, 0, _IPV4_LENGTH, 0, 0x4000, 64, socket.IPPROTO_UDP)
    empty = _IPV4_UDP.pack(*fields, 0, source, destination, 0, 0, 0, 0)
    packet = _IPV4_UDP.pack(*fields, checksum(empty[:20]), source, destination, from_port, to_port, 8, 0)
    return _ETHERNET.pack(gateway, b"\x02" + bytes(5), 0x0800) + packet


class Sender:
    """Sends frames of FRAME_BYTES bytes each, many in one system call."""

    def __init__(self, outlet: socket.socket, frames: bytes) -> None:
        self._socket = outlet
        self._frames = (ctypes.c_char * len(frames)).from_buffer_copy(frames)
        self._iovecs = (_Iovec * BATCH)()
        self._messages = (_Mmsghdr * BATCH)()
        for message, iovec in zip(self._messages, self._iovecs, strict=True):
            iovec.length = FRAME_BYTES
            message.header.iov, message.header.iovlen = ctypes.pointer(iovec), 1
        self._sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg

    def send(self, first: int, count: int) -> int:
        """Send `count` frames from number `first` on, at most BATCH; return how many the kernel took."""
        count = min(count, BATCH)
        start = ctypes.addressof(self._frames) + first * FRAME_BYTES
        for offset in range(count):
            self._iovecs[offset].base = start + offset * FRAME_BYTES
        taken: int = self._sendmmsg(self._socket.fileno(), self._messages, count, 0)
        if taken < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return taken


def run(sender: Sender, pace: Pace, total: int) -> float:
    """Send `total` frames at `pace`; return how many seconds that took."""
    sent, start = 0, time.monotonic()
    while sent < total:
        due = pace.due(time.monotonic() - start, sent, total)
        while due:
            taken = sender.send(sent, due)
            sent, due = sent + taken, due - taken
        time.sleep(pace.pause(time.monotonic() - start))
    return time.monotonic() - start


def main() -> None:
    """Build the frames, wait for a line on standard input, send the frames, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--interface", required=True)
    parser.add_argument("--gateway", required=True, help="MAC address")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--slice", type=float, required=True, help="seconds")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    gateway = bytes.fromhex(arguments.gateway.replace(":", ""))
    frames = b"".join(frame(gateway, *each) for each in tuples(arguments.count, arguments.seed))
    outlet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    outlet.bind((arguments.interface, 0))
    sender = Sender(outlet, frames)
    # Interrupts forward packets on a real firewall, with priority over daemons; here this process does that work.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_max(os.SCHED_RR)))
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    before = os.times()
    seconds = run(sender, Pace(rate=arguments.rate, slice_s=arguments.slice), arguments.count)
    after = os.times()
    json.dump(
        {"seconds": seconds, "user_s": after.user - before.user, "system_s": after.system - before.system},
        sys.stdout,
    )


if __name__ == "__main__":
    main()
