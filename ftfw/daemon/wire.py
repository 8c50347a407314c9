"""Between the links and the protocol: frames out to every link, authentic messages in from any."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from ftfw.link.base import Link, Taken
from ftfw.replication import messages
from ftfw.replication.messages import BodyError, Message
from ftfw.seal import EPOCH_SIZE, OVERHEAD, Opener, RefusedError, Sealer

Receive = Callable[[bytes, Message, float], None]
"""Told the epoch and the message of an authentic frame, and the time."""

# What whoever has no key of ours can bring about; under all other reasons, what is refused is authentic.
STRANGE: Final = frozenset({"short", "foreign", "version", "own_name", "unknown_key", "forged"})
SILENT_S: Final = 3.0  # a link on which nobody was heard for so long is down if somebody is heard on another one
KEY_ID: Final = slice(4, 8)  # in a frame


class Wire:
    """A node's links under one seal.  Every frame goes to every link."""

    def __init__(self, links: Sequence[Link], keys: Sequence[bytes], *, name: str) -> None:
        self.links = links
        self._keys = keys
        self._name = name
        self._opener = Opener(keys, name=name)
        self.epoch = b""
        self.admit()
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Speak under a new key from now on: a new stream begins."""
        self.epoch = os.urandom(EPOCH_SIZE)
        self._sealer = Sealer(self._keys[0], name=self._name, epoch=self.epoch)

    def admit(self) -> None:
        """Have the kernel drop what comes under none of the keys."""
        sealers = (Sealer(key, name=self._name, epoch=bytes(EPOCH_SIZE)) for key in self._keys)
        key_ids = [sealer.seal(b"")[KEY_ID] for sealer in sealers]
        for link in self.links:
            link.admit(key_ids)

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

    async def receive_all(self, link: Link, receive: Receive, after: Callable[[], None]) -> None:
        """Hand every authentic message of a link to `receive`; call `after` when a batch is through."""
        await link.run(partial(self._take, link, receive, after))

    def _take(self, link: Link, receive: Receive, after: Callable[[], None], frames: list[bytes]) -> Taken:
        now = trio.current_time()
        authentic = len(frames)
        name = None
        for frame in frames:
            try:
                opened = self._opener.open(frame)
                message = messages.unpack(opened.body)
            except (RefusedError, BodyError) as refused:
                link.dropped[refused.reason] += 1
                authentic -= refused.reason in STRANGE
            else:
                name = getattr(message, "name", name)
                receive(opened.epoch, message, now)
        if authentic:
            link.heard_at = now
        after()
        return Taken(authentic, name)

    def status(self, now: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """`link` and `links` of the status."""
        each = [link.counts() for link in self.links]
        total: dict[str, Any] = {
            name: sum(counts[name] for counts in each) for name in ("sent", "received", "bytes_sent", "bytes_received")
        }
        total["dropped"] = dict(sum((Counter(counts["dropped"]) for counts in each), Counter[str]()))
        somebody_is_heard = any(now - link.heard_at < SILENT_S for link in self.links)
        links = [
            {"name": link.name, "up": link.up and (now - link.heard_at < SILENT_S or not somebody_is_heard), **counts}
            for link, counts in zip(self.links, each, strict=True)
        ]
        return total, links
