"""Between the links and the protocol: frames out to every link, authentic messages in from any."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import trio

from ftfw.link.multicast import Multicast
from ftfw.replication import messages
from ftfw.replication.messages import BodyError, Message
from ftfw.seal import EPOCH_SIZE, OVERHEAD, Opener, RefusedError, Sealer

Receive = Callable[[bytes, Message, float], None]
"""Told the epoch and the message of an authentic frame, and the time."""


class Wire:
    """A node's links under one seal.  Every frame goes to every link."""

    def __init__(self, links: Sequence[Multicast], keys: Sequence[bytes], *, name: str) -> None:
        self.links = links
        self._keys = keys
        self._name = name
        self._opener = Opener(keys, name=name)
        self.epoch = b""
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Speak under a new key from now on: a new stream begins."""
        self.epoch = os.urandom(EPOCH_SIZE)
        self._sealer = Sealer(self._keys[0], name=self._name, epoch=self.epoch)

    @property
    def body_limit(self) -> int:
        """The longest body that every link carries in one datagram."""
        return min(link.frame_limit for link in self.links) - OVERHEAD

    def send(self, bodies: list[bytes]) -> None:
        """Seal and send all of `bodies`, and empty the list."""
        if not bodies:
            return
        frames = list(map(self._sealer.seal, bodies))
        for frame in frames:  # close behind each other: the other side wakes once
            for link in self.links:
                link.send(frame)
        bodies.clear()

    async def receive_all(self, link: Multicast, receive: Receive, after: Callable[[], None]) -> None:
        """Hand every authentic message of a link to `receive`; call `after` when a batch is through."""
        while True:
            await link.wait()
            now = trio.current_time()
            for frame in link.drain():
                self._open(link, frame, receive, now)
            after()

    def _open(self, link: Multicast, frame: bytes, receive: Receive, now: float) -> None:
        try:
            opened = self._opener.open(frame)
            message = messages.unpack(opened.body)
        except (RefusedError, BodyError) as refused:
            link.dropped[refused.reason] += 1
            return
        receive(opened.epoch, message, now)

    def status(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """`link` and `links` of the status."""
        each = [_counts(link) for link in self.links]
        total: dict[str, Any] = {
            name: sum(counts[name] for counts in each) for name in ("sent", "received", "bytes_sent", "bytes_received")
        }
        total["dropped"] = dict(sum((link.dropped for link in self.links), Counter[str]()))
        named = [{"name": link.name, "up": link.up, **counts} for link, counts in zip(self.links, each, strict=True)]
        return total, named


def _counts(link: Multicast) -> dict[str, Any]:
    return {
        "sent": link.sent,
        "received": link.received,
        "bytes_sent": link.bytes_sent,
        "bytes_received": link.bytes_received,
        "dropped": dict(link.dropped),
    }
