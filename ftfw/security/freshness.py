"""Whom a node believes.  Seals what it says, opens what it hears, and lets nothing old through.  Sans-I/O.

An authentic frame may be a recording.  Within an epoch a window of counters tells (`window`).  A new epoch is believed
only after its sender has sealed a challenge of ours in it: a recording cannot know a number that was drawn today.  Its
frames are dropped until then, but for what proves freshness itself.  A challenge goes to a sender, not to an epoch, so
that recordings cannot get in the way of the live one's proof.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ftfw.security import security_limits as limits
from ftfw.security.frames import EPOCH_SIZE, OVERHEAD, Opened, Opener, RefusedError, Sealer, sender_id
from ftfw.security.freshness_messages import (
    CHALLENGE_BYTES,
    Challenge,
    Proof,
    Response,
    challenge,
    response,
    unpack_proof,
)
from ftfw.security.replay_window import ReplayWindow


class Heard(NamedTuple):
    """An authentic body that was not heard before, from a live sender."""

    epoch: bytes
    body: bytes


@dataclass(slots=True)
class _Sender:
    """What is known of a sender."""

    epoch: bytes | None = None  # the one that is proved
    window: ReplayWindow = field(default_factory=ReplayWindow)
    by_link: dict[int, ReplayWindow] = field(default_factory=dict)
    nonce: bytes = b""  # of the challenge that is under way
    drawn_at: float = float("-inf")
    challenged_at: float = float("-inf")

    def answered_by(self, nonce: bytes, now: float) -> bool:
        """Whether this is the nonce of the challenge that is under way, and not too late."""
        return bool(self.nonce) and nonce == self.nonce and now - self.drawn_at < limits.ANSWER_S


class Freshness:
    """Proves that senders are live, and to them that this node is; `random` returns so many random bytes.

    `links`: over how many of them a frame is sent.
    """

    def __init__(self, keys: Sequence[bytes], *, name: str, links: int, random: Callable[[int], bytes]) -> None:
        self._bodies: list[bytes] = []
        self.counts: Counter[str] = Counter()  # challenges, responses, proofs
        self._name = name
        self._links = links
        self._id = sender_id(name)
        self._random = random
        self._opener = Opener(keys)
        self._keys = keys
        self._senders: dict[bytes, _Sender] = {}
        self._responded_at = float("-inf")
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Speak under a new key from now on: a new stream begins."""
        self.epoch = self._random(EPOCH_SIZE)
        self._sealer = Sealer(self._keys[0], name=self._name, epoch=self.epoch)

    def rekey(self, keys: Sequence[bytes]) -> None:
        """The first of `keys` seals from now on, all of them open.  Epochs, counters and proofs go on."""
        self._keys = keys
        self._opener.rekey(keys)
        self._sealer.rekey(keys[0])

    def bodies_to_send(self) -> list[bytes]:
        """Return the bodies that prove freshness, in their order, and forget them."""
        bodies, self._bodies = self._bodies, []
        return bodies

    def get_timer(self) -> None:
        """Return None: all that is said answers a frame."""

    def handle_timer(self, now: float) -> None:
        """Do nothing: no timer is ever due."""

    def seal(self, bodies: Sequence[bytes]) -> list[bytes]:
        """The frames that carry these."""
        return list(map(self._sealer.seal, bodies))

    def receive(self, frame: bytes, link: int, now: float) -> Heard | None:
        """Return the body in a frame that came over the link of this number; None if it was about freshness.

        Raises RefusedError, whose `reason` tells why the frame is dropped.
        """
        opened = self._opener.open(frame)
        if opened.sender == self._id:
            raise RefusedError("own_frame" if opened.epoch == self.epoch else "own_name")
        sender = self._sender(opened.sender)
        if opened.epoch != sender.epoch:
            self._prove(sender, opened, len(frame), now)
            return None
        self._check_replay(sender, opened, link)
        if (proof := unpack_proof(opened.body)) is not None:
            self._answer(proof, now)
            return None
        return Heard(opened.epoch, opened.body)

    def _sender(self, identity: bytes) -> _Sender:
        known = self._senders.pop(identity, None) or _Sender()
        self._senders[identity] = known  # the one heard last stands last
        if len(self._senders) > limits.SENDERS_MAX:
            del self._senders[next(iter(self._senders))]
        return known

    def _check_replay(self, sender: _Sender, opened: Opened, link: int) -> None:
        """A frame comes once over each link: over another it is a duplicate, over the same one a replay."""
        if self._links > 1:
            window = sender.by_link.setdefault(link, ReplayWindow())
            if not window.is_fresh(opened.counter):
                raise RefusedError("replayed")
            window.accept(opened.counter)
        if not sender.window.is_fresh(opened.counter):
            raise RefusedError("duplicate" if self._links > 1 else "replayed")
        sender.window.accept(opened.counter)

    def _prove(self, sender: _Sender, opened: Opened, size: int, now: float) -> None:
        """Of an epoch that is not proved, only what proves freshness is looked at."""
        message = unpack_proof(opened.body)
        if isinstance(message, Response) and sender.answered_by(message.nonce, now):
            sender.epoch, sender.nonce = opened.epoch, b""
            sender.window, sender.by_link = ReplayWindow(), {}
            sender.window.accept(opened.counter)
            self.counts["proofs"] += 1
            return
        if isinstance(message, Challenge):
            self._answer(message, now)
        # No larger than what caused it, and seldom: nobody can have other nodes flooded by this one.
        if now - sender.challenged_at >= limits.CHALLENGE_S and size >= OVERHEAD + CHALLENGE_BYTES:
            self._challenge(sender, opened.sender, now)
        if message is None:
            raise RefusedError("unproved")

    def _challenge(self, sender: _Sender, identity: bytes, now: float) -> None:
        if not sender.nonce or now - sender.drawn_at >= limits.NONCE_S:
            sender.nonce, sender.drawn_at = self._random(limits.NONCE_BYTES), now
        sender.challenged_at = now
        self.counts["challenges"] += 1
        self._bodies.append(challenge(identity, sender.nonce))

    def _answer(self, message: Proof, now: float) -> None:
        if (
            isinstance(message, Challenge)
            and message.target == self._id
            and now - self._responded_at >= limits.RESPONSE_S
        ):
            self._responded_at = now
            self.counts["responses"] += 1
            self._bodies.append(response(message.nonce))
