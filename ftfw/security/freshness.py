"""Seals this node's bodies, opens the frames of other nodes, and refuses recordings.  Sans-I/O.

An authentic frame may be a recording.  Within an epoch, a window of counters shows it (`replay_window`).  A new epoch
is believed only after its sender has sealed a challenge of this node in it: a recording cannot contain bytes that were
just drawn.  Until then the epoch's frames are dropped, except challenges and responses.  A challenge goes to a sender,
not to an epoch, so that recordings cannot prevent the live epoch's proof.

A virtual machine that is resumed from a snapshot of its memory continues its epoch with counters of the past.  Its
frames look replayed.  After REPLAYS_MAX of them it is challenged.  If it answers under a counter of the past, it gets
REWOUND and begins a new epoch.  Its window is never reset: recordings made between snapshot and resumption would be
fresh again.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from ftfw.security import security_limits as limits
from ftfw.security.frames import EPOCH_SIZE, OVERHEAD, Opened, Opener, RefusedError, Sealer, sender_id
from ftfw.security.freshness_messages import (
    CHALLENGE_BYTES,
    Challenge,
    Proof,
    Response,
    Rewound,
    challenge,
    response,
    rewound,
    unpack_proof,
)
from ftfw.security.replay_window import ReplayWindow


class Heard(NamedTuple):
    """Holds the body of an authentic, fresh frame of a live sender."""

    epoch: bytes
    body: bytes


class PeerResumed(NamedTuple):
    """Reports that a sender was resumed from a snapshot of its memory."""

    sender: bytes


class SelfResumed(NamedTuple):
    """Reports that this node was resumed from a snapshot of its memory, and has begun a new epoch."""


FreshnessEvent = PeerResumed | SelfResumed


@dataclass(slots=True)
class _Sender:
    """Holds the state of one sender.  Times are seconds, monotonic."""

    epoch: bytes | None = None
    """The sender's one proved epoch."""
    window: ReplayWindow = field(default_factory=ReplayWindow)
    """The counters of `epoch` that were accepted, over all links together."""
    by_link: dict[int, ReplayWindow] = field(default_factory=dict)
    """The same for each link, if there are several: a counter comes once over each of them."""
    replays: int = 0
    """Frames of `epoch` refused as replayed since one was accepted."""
    nonce: bytes = b""
    """The bytes of the challenge under way; empty if there is none."""
    drawn_at: float = -inf
    """When `nonce` was drawn."""
    highest_at_draw: int = -1
    """The highest counter accepted before `nonce` was drawn: a live sender answers under a higher one."""
    challenged_at: float = -inf
    """When the last challenge was sent."""

    def is_answered_by(self, proof: Proof | None, now: float) -> bool:
        """Return True if `proof` is a response to the challenge under way, within ANSWER_S of its draw."""
        if not isinstance(proof, Response) or not self.nonce or proof.nonce != self.nonce:
            return False
        return now - self.drawn_at < limits.ANSWER_S

    def begin(self, epoch: bytes, counter: int) -> None:
        """Accept `epoch` as proved by the frame with this counter; frames with lower counters may be recordings."""
        self.epoch, self.nonce, self.replays = epoch, b"", 0
        self.window, self.by_link = ReplayWindow.behind(counter), {}


class Freshness:
    """Proves that senders are live, and to them that this node is.

    `keys`: the first one seals, all of them open; 32 bytes each.  `links`: the number of links over which each frame is
    sent.  `random(n)` returns n random bytes.  `now` is in seconds, monotonic.
    """

    def __init__(self, keys: Sequence[bytes], *, name: str, links: int, random: Callable[[int], bytes]) -> None:
        self.counts = Counter({"challenges": 0, "responses": 0, "proofs": 0, "resumed": 0})  # zeros are shown
        self._bodies: list[bytes] = []
        self._events: deque[FreshnessEvent] = deque()
        self._name = name
        self._links = links
        self._id = sender_id(name)
        self._random = random
        self._opener = Opener(keys)
        self._keys = keys
        self._senders: dict[bytes, _Sender] = {}
        self._responded_at = -inf
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Seal in a new epoch from now on."""
        self.epoch = self._random(EPOCH_SIZE)
        self._sealer = Sealer(self._keys[0], name=self._name, epoch=self.epoch)

    def rekey(self, keys: Sequence[bytes]) -> None:
        """Seal with the first of `keys` from now on, and open with all.  Epochs, counters and proofs stay."""
        self._keys = keys
        self._opener.rekey(keys)
        self._sealer.rekey(keys[0])

    def bodies_to_send(self) -> list[bytes]:
        """Return the bodies that prove freshness, in their order, and forget them."""
        bodies, self._bodies = self._bodies, []
        return bodies

    def next_event(self) -> FreshnessEvent | None:
        """Return the next event, and forget it; None if there is none."""
        return self._events.popleft() if self._events else None

    def get_timer(self) -> None:
        """Return None: every body answers a frame at once."""

    def handle_timer(self, now: float) -> None:
        """Do nothing: no timer is ever due."""

    def seal(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Return the sealed frames that carry `bodies`, in their order."""
        return list(map(self._sealer.seal, bodies))

    def receive(self, frame: bytes, link: int, now: float) -> Heard | None:
        """Return the body in a frame that arrived over the link of this number; None if the frame was about freshness.

        Raises RefusedError, whose `reason` tells why the frame is dropped.
        """
        opened = self._opener.open(frame)
        if opened.sender == self._id:
            raise RefusedError("own_frame" if opened.epoch == self.epoch else "own_name")
        sender = self._sender(opened.sender)
        if opened.epoch != sender.epoch:
            self._receive_unproved(sender, opened, len(frame), now)
            return None
        try:
            self._check_replay(sender, opened, link)
        except RefusedError as refused:
            if refused.reason == "replayed" and self._receive_replayed(sender, opened, len(frame), now):
                return None
            raise
        sender.replays = 0
        if (proof := unpack_proof(opened.body)) is not None:
            self._answer(proof, now)
            return None
        return Heard(opened.epoch, opened.body)

    def _sender(self, identity: bytes) -> _Sender:
        known = self._senders.pop(identity, None) or _Sender()
        self._senders[identity] = known  # in the order of the last frame
        if len(self._senders) > limits.SENDERS_MAX:
            del self._senders[next(iter(self._senders))]
        return known

    def _check_replay(self, sender: _Sender, opened: Opened, link: int) -> None:
        """Accept the counter of a frame of the proved epoch.  Raises RefusedError if it is not fresh.

        A frame arrives once over each link.  Over another link it is a duplicate; over the same link it was replayed.
        """
        if self._links > 1:
            window = sender.by_link.setdefault(link, ReplayWindow())
            if not window.is_fresh(opened.counter):
                raise RefusedError("replayed")
            window.accept(opened.counter)
        if not sender.window.is_fresh(opened.counter):
            raise RefusedError("duplicate" if self._links > 1 else "replayed")
        sender.window.accept(opened.counter)

    def _receive_replayed(self, sender: _Sender, opened: Opened, size: int, now: float) -> bool:
        """Return True if a replayed frame shows that its sender was resumed from a snapshot; else count it."""
        proof = unpack_proof(opened.body)
        if sender.is_answered_by(proof, now) and opened.counter <= sender.highest_at_draw:
            sender.nonce, sender.replays = b"", 0
            self.counts["resumed"] += 1
            self._events.append(PeerResumed(opened.sender))
            self._bodies.append(rewound(opened.epoch))
            return True
        sender.replays += 1
        if sender.replays >= limits.REPLAYS_MAX:
            self._challenge(sender, opened.sender, size, now)
        return False

    def _receive_unproved(self, sender: _Sender, opened: Opened, size: int, now: float) -> None:
        """Process a frame of an epoch that is not proved: only challenges and responses in it are read."""
        proof = unpack_proof(opened.body)
        if sender.is_answered_by(proof, now):
            sender.begin(opened.epoch, opened.counter)
            self.counts["proofs"] += 1
            return
        if proof is not None:
            self._answer(proof, now)
        self._challenge(sender, opened.sender, size, now)
        if proof is None:
            raise RefusedError("unproved")

    def _challenge(self, sender: _Sender, identity: bytes, size: int, now: float) -> None:
        """Challenge a sender, unless it was just challenged, or its frame of `size` bytes is shorter than a challenge.

        The limits keep this node from being used to flood others.
        """
        if now - sender.challenged_at < limits.CHALLENGE_S or size < OVERHEAD + CHALLENGE_BYTES:
            return
        if not sender.nonce or now - sender.drawn_at >= limits.NONCE_S:
            sender.nonce, sender.drawn_at = self._random(limits.NONCE_BYTES), now
            sender.highest_at_draw = sender.window.highest
        sender.challenged_at = now
        self.counts["challenges"] += 1
        self._bodies.append(challenge(identity, sender.nonce))

    def _answer(self, proof: Proof, now: float) -> None:
        """Answer a challenge to this node; after REWOUND begin a new epoch, as this epoch's counters have gone back."""
        if isinstance(proof, Challenge) and proof.target == self._id:
            if now - self._responded_at >= limits.RESPONSE_S:
                self._responded_at = now
                self.counts["responses"] += 1
                self._bodies.append(response(proof.nonce))
        elif isinstance(proof, Rewound) and proof.epoch == self.epoch:
            self.begin_epoch()
            self._senders.clear()  # frames received since the snapshot could be replayed to this node
            self._events.append(SelfResumed())
