"""Holds recordings of a real kernel: for each step a packet or a command, its events, and the table after it.

`./dev record` makes recordings (`record`), `recorded` plays them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgpack
import zstandard

from ftfw.kernel import expectation, flow_entry, uapi
from ftfw.kernel.attributes import BODY, HEADER, split
from tests.unit.conntrack import is_expectation

Rows = dict[bytes, bytes]
"""A table: key → the message in which a dump tells of the entry."""

FOLDER = Path(__file__).with_name("recordings")
SUFFIX = ".msgpack.zst"
LEVEL = 19


class Step(NamedTuple):
    """Holds what one packet did, or a command, or time."""

    events: list[bytes]  # as they came
    rows: list[bytes]  # what has changed in the table, or come into it, as a dump tells it
    gone: list[bytes]  # keys


@dataclass(frozen=True)
class Recording:
    """`kernel`: the release it was made on."""

    name: str
    kernel: str
    steps: list[Step]

    def save(self) -> int:
        """Write it down; returns how many bytes it takes."""
        FOLDER.mkdir(exist_ok=True)
        packed = msgpack.packb({"kernel": self.kernel, "steps": self.steps})
        return (FOLDER / f"{self.name}{SUFFIX}").write_bytes(zstandard.ZstdCompressor(level=LEVEL).compress(packed))


def load(name: str) -> Recording:
    """A recording of those that are kept with the tests."""
    packed = zstandard.ZstdDecompressor().decompress((FOLDER / f"{name}{SUFFIX}").read_bytes())
    said = msgpack.unpackb(packed)
    return Recording(name, said["kernel"], [Step(*step) for step in said["steps"]])


def key_of(message: bytes) -> bytes:
    """The key of the flow or expectation that a message is about."""
    attributes = split(message, BODY)
    return expectation.key_of(attributes) if is_expectation(message) else flow_entry.key_of(attributes)


def without_silent_flags(protoinfo: bytes) -> bytes:
    """The payload of CTA_PROTOINFO without the flags of TCP that the kernel changes without an event."""
    told = bytearray(protoinfo)
    at = HEADER.size  # of CTA_PROTOINFO_TCP
    while at < len(told):
        length, kind = HEADER.unpack_from(told, at)
        if kind in (uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY):
            told[at + HEADER.size] &= ~uapi.TCP_FLAGS_SILENT
        at += (length + 3) & ~3
    return bytes(told)
