"""Between the links and the protocol: frames out to every link, authentic messages in from any."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import trio

from ftfw.conversation import Conversation
from ftfw.link.multicast import Multicast
from ftfw.replication.messages import BodyError, Message
from ftfw.seal import OVERHEAD, VERSION, RefusedError

log = logging.getLogger(__name__)

SHOUT_S = 60.0
SHOUTED = {
    "own_name": "another node calls itself {name}, too; give each node a name of its own (node.name)",
    "version": f"frames of another protocol version than this node's, {VERSION}; run the same ftfw on both nodes",
    "unknown_key": "frames under a key that this node does not have; compare security.key_files on both nodes",
}

Receive = Callable[[bytes, Message, float], None]
"""Told the epoch and the message of an authentic frame, and the time."""


class Wire:
    """A node's links under one seal.  Every frame goes to every link."""

    def __init__(self, links: Sequence[Multicast], keys: Sequence[bytes], *, name: str) -> None:
        self.links = links
        self._name = name
        self._shouted_at: dict[str, float] = {}
        self.conversation = Conversation(keys, name=name, links=len(links), random=os.urandom)

    @property
    def body_limit(self) -> int:
        """The longest body that every link carries in one datagram."""
        return min(link.frame_limit for link in self.links) - OVERHEAD

    def send(self, bodies: list[bytes]) -> None:
        """Seal and send all of `bodies`, and empty the list."""
        if not bodies:
            return
        for frame in self.conversation.seal(bodies):  # close behind each other: the other side wakes once
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
            self.send(self.conversation.outgoing)
            after()

    def _open(self, link: Multicast, frame: bytes, receive: Receive, now: float) -> None:
        try:
            heard = self.conversation.hear(frame, self.links.index(link), now)
        except (RefusedError, BodyError) as refused:
            link.dropped[refused.reason] += 1
            self._shout(refused.reason, link, now)
            return
        if heard is not None:
            receive(heard.epoch, heard.message, now)

    def _shout(self, reason: str, link: Multicast, now: float) -> None:
        """Tell of what will not mend itself, once in a while."""
        text = SHOUTED.get(reason)
        if text is not None and now - self._shouted_at.get(reason, float("-inf")) >= SHOUT_S:
            self._shouted_at[reason] = now
            log.error("%s: %s", link.name, text.format(name=self._name))

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
