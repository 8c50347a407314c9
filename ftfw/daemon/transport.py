"""Connects links and engines: sends frames over every link, and hands on authentic messages from any link."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from ftfw import __version__
from ftfw.link.link_base import BatchOrigin, Link
from ftfw.replication import messages
from ftfw.replication.limits import PEER_LOST_S
from ftfw.replication.member import Member
from ftfw.replication.messages import BodyError
from ftfw.security.frames import OVERHEAD, VERSION, RefusedError, key_id, sender_id
from ftfw.security.freshness import Freshness, FreshnessEvent, PeerResumed

log = logging.getLogger(__name__)

REPORT_S = 60.0  # between two log lines about refusals of one reason
REPORTED = {
    "own_name": "another node calls itself {name}, too; give each node a name of its own (node.name)",
    "version": (
        "frames of protocol version {theirs} arrive, and this node, {name} with ftfw {program}, speaks {ours};"
        " run the same ftfw on all nodes"
    ),
    "unknown_key": "frames under a key that this node does not have; compare security.key_files on both nodes",
}

# Reasons that a sender without a key can cause; under all other reasons, the refused frame is authentic.
STRANGE: Final = frozenset({"short", "foreign", "version", "own_name", "own_frame", "unknown_key", "forged"})
UNHEARD: Final = "no node is heard on it, but on another link; look at the path, and at packet filters on both nodes"


class Transport:
    """Seals and sends frames over all links of a node, and opens the frames that arrive over any of them."""

    def __init__(self, links: Sequence[Link], keys: Sequence[bytes], *, name: str) -> None:
        self.links = links
        self._name = name
        self._told_at: dict[str, float] = {}
        self.freshness = Freshness(keys, name=name, links=len(links), random=os.urandom)
        self._admit(keys)

    def rekey(self, keys: Sequence[bytes]) -> None:
        """Seal with the first of `keys` and open with all; have the kernel drop frames under other keys."""
        self.freshness.rekey(keys)
        self._admit(keys)

    def _admit(self, keys: Sequence[bytes]) -> None:
        key_ids = list(map(key_id, keys))
        for link in self.links:
            link.admit(key_ids)

    @property
    def body_limit(self) -> int:
        """Return the length in bytes of the longest body that every link carries in one frame."""
        return min(link.frame_limit for link in self.links) - OVERHEAD

    def send(self, bodies: Sequence[bytes]) -> None:
        """Seal `bodies`, and send each frame over every link."""
        for frame in self.freshness.seal(bodies):  # without a pause between them: the receiver wakes once
            for link in self.links:
                link.send(frame)

    async def receive_all(self, link: Link, member: Member, after: Callable[[], None]) -> None:
        """Hand every fresh message that arrives over a link to `member`; call `after` at the end of each batch."""
        number = self.links.index(link)
        await link.run(partial(self._receive, link, number, member, after))

    def _receive(
        self, link: Link, number: int, member: Member, after: Callable[[], None], frames: list[bytes]
    ) -> BatchOrigin:
        now = trio.current_time()
        authentic = len(frames)
        name = None
        for frame in frames:
            try:
                heard = self.freshness.receive(frame, number, now)
                message = messages.unpack(heard.body) if heard is not None else None
            except (RefusedError, BodyError) as refused:
                link.dropped[refused.reason] += 1
                authentic -= refused.reason in STRANGE
                self._log_refusal(refused, link, now)
                continue
            if heard is not None and message is not None:
                name = getattr(message, "name", name)
                member.receive(heard.epoch, message, now)
            while (event := self.freshness.next_event()) is not None:
                self._handle_event(event, member, now)
        if authentic:
            link.heard_at = now
        after()
        return BatchOrigin(authentic, name)

    def _handle_event(self, event: FreshnessEvent, member: Member, now: float) -> None:
        if isinstance(event, PeerResumed):
            names = {sender_id(name): name for name in member.peers.known}
            name = names.get(event.sender, f"the node with the id {event.sender.hex()}")
            log.warning("%s was resumed from a snapshot of its memory; it is asked to begin a new epoch", name)
        else:
            log.warning("this node was resumed from a snapshot of its memory, as a peer says; a new epoch begins")
            member.begin_epoch(self.freshness.epoch, now)

    def _log_refusal(self, refused: RefusedError | BodyError, link: Link, now: float) -> None:
        """Log a refusal that needs an administrator, at most once in REPORT_S for each reason."""
        text = REPORTED.get(refused.reason)
        if text is not None and now - self._told_at.get(refused.reason, float("-inf")) >= REPORT_S:
            self._told_at[refused.reason] = now
            theirs = refused.version if isinstance(refused, RefusedError) else VERSION
            told = text.format(name=self._name, program=__version__, theirs=theirs, ours=VERSION)
            log.error("%s: %s", link.name, told)

    def status(self, now: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return `link` and `links` of the status at `now` (seconds, monotonic).

        A link on which nobody is heard counts as down if somebody is heard on another one.
        """
        each = [link.counts() for link in self.links]
        total: dict[str, Any] = {
            name: sum(counts[name] for counts in each) for name in ("sent", "received", "bytes_sent", "bytes_received")
        }
        total["dropped"] = dict(sum((Counter(counts["dropped"]) for counts in each), Counter[str]()))
        heard = [now - link.heard_at < PEER_LOST_S for link in self.links]
        links = []
        for link, counts, is_heard in zip(self.links, each, heard, strict=True):
            trouble = link.trouble or (UNHEARD if any(heard) and not is_heard else None)
            links.append({"name": link.name, "up": trouble is None, "trouble": trouble, **counts})
        return total, links
