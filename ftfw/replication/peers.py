"""Tracks the other nodes, their roles, and conflicts between them.  Pure: `now` is an argument (seconds, monotonic)."""

import logging
import sys
from dataclasses import dataclass, field
from itertools import permutations

from ftfw.replication import limits
from ftfw.replication.host_facts import Fact
from ftfw.replication.messages import Heartbeat

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Peer:
    """Holds the last known state of another node.  Times are seconds, monotonic."""

    name: str
    role: str
    epoch: bytes
    heard_at: float
    since: float  # when the node was first heard in this role and epoch
    facts: dict[str, Fact] = field(default_factory=dict)  # that the node has reported about its host
    told_at: float = float("-inf")  # when the node reported them


class Peers:
    """Keeps account of the other nodes that were heard, at most PEERS_MAX."""

    def __init__(self) -> None:
        self.known: dict[str, Peer] = {}
        self._active_since: float | None = None  # when this node became active; None: it is not
        self._told_of_conflict = False
        self._unfit: set[str] = set()  # names of nodes whose byte order was logged

    def record(self, name: str, role: str, epoch: bytes, now: float) -> None:
        """Record that a node was heard, in this role and epoch."""
        peer = self.known.pop(name, None) or Peer(name, role, epoch, now, now)
        if (peer.role, peer.epoch) != (role, epoch):
            peer.since = now
        peer.role, peer.epoch, peer.heard_at = role, epoch, now
        self.known[name] = peer  # the one heard last stands last
        if len(self.known) > limits.PEERS_MAX:
            del self.known[next(iter(self.known))]

    def record_facts(self, name: str, told: dict[str, Fact], now: float) -> None:
        """Record the facts that a node reports; ignore the facts of a node that was not heard before."""
        if (peer := self.known.get(name)) is not None:
            peer.facts, peer.told_at = told, now

    def fits(self, heartbeat: Heartbeat) -> bool:
        """Return True if the node has this node's byte order, as attributes need it; log a difference once."""
        if heartbeat.byte_order == sys.byteorder:
            return True
        if heartbeat.name not in self._unfit and len(self._unfit) < limits.PEERS_MAX:
            self._unfit.add(heartbeat.name)
            log.error(
                "%s is a %s-endian machine and this one is %s-endian; they cannot replicate to each other",
                heartbeat.name,
                heartbeat.byte_order,
                sys.byteorder,
            )
        return False

    def actives(self, now: float) -> list[Peer]:
        """Return the other nodes that were heard as active within PEER_LOST_S."""
        return [
            peer for peer in self.known.values() if peer.role == "active" and now - peer.heard_at < limits.PEER_LOST_S
        ]

    def rivals(self, own_role: str, now: float) -> list[str]:
        """Return the names of other nodes that are active together with another one, or with this one.

        Both must have been active together for CONFLICT_S.  A node that was last heard before the other became active
        has failed: that is a takeover and no conflict.
        """
        self._active_since = None if own_role != "active" else now if self._active_since is None else self._active_since
        this = [] if self._active_since is None else [Peer("", own_role, b"", now, self._active_since)]
        pairs = permutations(self.actives(now) + this, 2)
        return sorted({one.name for one, other in pairs if _together_s(one, other) >= limits.CONFLICT_S} - {""})

    def conflict(self, own_role: str, now: float) -> bool:
        """Return True if more than one node is active; log an error when a conflict begins."""
        rivals = self.rivals(own_role, now)
        found = bool(rivals)
        if found and not self._told_of_conflict:
            log.error(
                "conflict: %s active%s; demote all but one (`ftfw demote`)",
                " and ".join(rivals) + (" is" if len(rivals) == 1 else " are"),
                " as well as this node" if own_role == "active" else "",
            )
        self._told_of_conflict = found
        return found


def _together_s(one: Peer, other: Peer) -> float:
    """Return for how many seconds both nodes are known to have been in their roles at the same time."""
    return min(one.heard_at, other.heard_at) - max(one.since, other.since)
