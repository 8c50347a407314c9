"""Everything that reads bytes from outside, as functions of any bytes.

A target returns, or raises one of the errors that it names; anything else is a defect.  What it is given is not sorted
out: also bytes that only somebody with a key can send are tried, sealed or already unsealed.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ftfw.kernel.attributes import split
from tests.fuzz import local, protocol, table


@dataclass(frozen=True)
class Target:
    """`consume` takes any bytes, and raises nothing but `allowed`; `seeds` are bytes that lead far into it."""

    consume: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    allowed: tuple[type[Exception], ...] = ()

    def __call__(self, data: bytes) -> None:
        with suppress(*self.allowed):
            self.consume(data)


TARGETS: Final = {
    "open": Target(protocol.open_frame, protocol.sealed_frames, (protocol.RefusedError,)),
    "framing": Target(protocol.split_stream, protocol.streams, (protocol.FramingError,)),
    "body": Target(protocol.unpack, protocol.bodies, (protocol.BodyError,)),
    "blob": Target(protocol.unpack_blob, protocol.blobs, (protocol.BodyError,)),
    "run": Target(protocol.unfold, protocol.runs, (protocol.MalformedError,)),
    "hear": Target(protocol.hear, protocol.conversations),
    "member": Target(protocol.receive, protocol.exchanges),
    "store": Target(table.hold, table.histories),
    "kernel": Target(table.select, table.datagrams, (table.MalformedError,)),
    "config": Target(local.load_config, local.configs, (local.ConfigError,)),
    "socket": Target(local.find_socket, local.configs),
    "keepalived": Target(local.read_keepalived_conf, local.keepalived_confs),
    "conntrackd": Target(local.migrate, local.conntrackd_configs, (local.MigrationError, local.NothingToDoError)),
    "key": Target(local.read_key, local.keys, (local.KeyFileError,)),
    "fifo": Target(local.read_fifo, local.notifications),
    "request": Target(local.read_request, local.requests, (local.ControlError,)),
    "reply": Target(local.read_reply, local.replies, (local.ControlError,)),
}


def _fail_at_a_seven(data: bytes) -> None:
    assert 7 not in split(data)


# Not tried by `./dev fuzz`: they fail, and show that the fuzzer finds it.
CONTROLS: Final = {"control": Target(_fail_at_a_seven, lambda: iter([b""]), (protocol.MalformedError,))}
