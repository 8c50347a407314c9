"""The backup's side of the protocol: follows one active's stream, asks for what is missing, acknowledges.

Sans-I/O: time is an argument, bodies to send come out.
"""

from itertools import pairwise

from ftfw.replication import messages
from ftfw.replication.messages import Heartbeat, Stream
from ftfw.replication.states import TRANSITIONS, Event, State
from ftfw.store import Store

HEARTBEAT_S = 0.1
FRESH_S = 1.0  # a heartbeat older than this: the active is not heard any more
RESYNC_RETRY_S = 0.5  # between two requests for a snapshot that does not come
ACK_FRAMES = 128  # acknowledge at least so often,
ACK_S = 0.1  # or so often while frames come
NACK_S = 0.03  # between two requests for frames that are missing
WAITING_FRAMES = 4096  # frames held behind a gap; more, and a snapshot is the shorter way
RANGES_MAX = 64  # ranges of missing frames named at once; the rest is asked for when these have come


class Backup:
    """Follows an active into `store`.  `outgoing` holds the bodies to send.

    Frames are applied in their order.  Those behind a gap wait for it to be filled; if that is too much, or the active
    does not have the missing ones any more, a snapshot makes up for them.
    """

    def __init__(self, *, name: str, store: Store, now: float) -> None:
        self.name = name
        self.store = store
        self.outgoing: list[bytes] = []
        self.epoch: bytes | None = None  # of the active that is followed
        self.active_name: str | None = None
        self.gaps = 0  # that could not be filled
        self.repeated = 0  # frames that were there already
        self.snapshots = 0  # completed
        self.stale = 0  # entries that went at the end of a snapshot
        self.was_synced = False  # when the active was last heard
        self.state = State.IDLE
        self._applied = 0
        self._known = 0  # the highest number that the active is known to have sent
        self._waiting: dict[int, Stream] = {}  # behind a gap
        self._heard_at = float("-inf")
        self._acked = 0
        self._acked_at = now
        self._nack_at = now
        self._resync_at = now
        self._heartbeat_at = now

    def receive(self, epoch: bytes, message: Stream | Heartbeat, now: float) -> None:
        """Take in what an active says; `epoch` is that of the frame it came in.  A heartbeat begins a new one."""
        if isinstance(message, Heartbeat):
            if epoch != self.epoch:
                self._follow(epoch, message, now)
            self._known = max(self._known, message.sequence)
            if message.oldest > self._applied + 1:
                self._give_up(message.oldest - 1, now)
        else:
            self._take(message, now)
        self._heard_at = now
        self.was_synced = self.synced(now)

    def unfollow(self, now: float) -> None:
        """The active that is followed is active no more: nothing more is expected of it, and what there is is taken."""
        self._leave(Event.GONE, now)
        self.epoch = None

    def _follow(self, epoch: bytes, first: Heartbeat, now: float) -> None:
        self._leave(Event.INTRODUCED, now)
        self.epoch, self.active_name = epoch, first.name
        self._applied = self._known = self._acked = first.sequence
        self._resync_at = now

    def _leave(self, event: Event, now: float) -> None:
        """The stream that was followed ends here: what waits behind its gaps is the last of it, and is true."""
        for number in sorted(self._waiting):
            self._apply(self._waiting.pop(number), now)
        self._turn(event)

    def _turn(self, event: Event) -> None:
        """Change the state by the table, and the store with it."""
        before, self.state = self.state, TRANSITIONS[self.state, event]
        if event is Event.BEGIN and self.state is State.FILLING:
            self.store.begin_snapshot()
        elif before is State.FILLING and event is Event.END:
            self.stale += self.store.end_snapshot()
            self.snapshots += 1
        elif before is State.FILLING:
            self.store.abort_snapshot()

    def _take(self, frame: Stream, now: float) -> None:
        if frame.sequence <= self._applied or frame.sequence in self._waiting:
            self.repeated += 1
            return
        self._known = max(self._known, frame.sequence)
        if frame.sequence != self._applied + 1:
            self._waiting[frame.sequence] = frame
            if len(self._waiting) > WAITING_FRAMES:
                self._give_up(min(self._waiting) - 1, now)
            return
        self._apply(frame, now)
        self._apply_waiting(now)
        if self._applied - self._acked >= ACK_FRAMES or now >= self._acked_at + ACK_S:
            self._acknowledge(now)

    def _apply_waiting(self, now: float) -> None:
        while self._waiting and (following := self._waiting.pop(self._applied + 1, None)):
            self._apply(following, now)

    def _apply(self, frame: Stream, now: float) -> None:
        self._applied = frame.sequence
        if frame.kind == messages.EVENTS:
            for part in frame.parts:
                self.store.apply(part)
        elif frame.kind == messages.SNAPSHOT_PART:
            for part in frame.parts if self.state is State.FILLING else ():
                self.store.add_snapshot(part)
        elif frame.kind == messages.LOST:
            self.request_snapshot(now)
        else:
            self._turn(Event.BEGIN if frame.kind == messages.SNAPSHOT_BEGIN else Event.END)

    def _give_up(self, sequence: int, now: float) -> None:
        """Frames up to `sequence` are not to be had any more."""
        self.gaps += 1
        self.request_snapshot(now)
        for waiting in [number for number in self._waiting if number <= sequence]:
            del self._waiting[waiting]
        self._applied = sequence
        self._apply_waiting(now)

    def request_snapshot(self, now: float) -> None:
        """Ask anew: something was lost, or an administrator wants it."""
        self._turn(Event.LOSS)
        self._resync_at = now

    def tick(self, now: float) -> None:
        """Say what is due: acknowledgements, requests for what is missing, a sign of life."""
        if self.epoch is None:
            if now >= self._heartbeat_at:
                self._heartbeat_at = now + HEARTBEAT_S
                self.outgoing.append(messages.heartbeat(self.name, "backup", 0, 0))
            return
        if now >= self._acknowledgement_due():
            self._heartbeat_at = now + HEARTBEAT_S
            self._nack_at = now + NACK_S
            self._acknowledge(now)
        if self.state is State.ASKING and now >= self._resync_at:
            self._resync_at = now + RESYNC_RETRY_S
            self.outgoing.append(messages.resync(self.name, self.epoch, self._applied))

    def _acknowledgement_due(self) -> float:
        if self.missing:
            return self._nack_at
        return self._heartbeat_at if self._applied == self._acked else self._acked_at + ACK_S

    def _acknowledge(self, now: float) -> None:
        assert self.epoch is not None
        self._acked, self._acked_at = self._applied, now
        synced = self.synced(now)
        self.outgoing.append(messages.ack(self.name, self.epoch, self._applied, self._missing(), synced=synced))

    def _missing(self) -> list[tuple[int, int]]:
        """The first and last numbers of stretches of frames that have not come."""
        if self._known == self._applied:
            return []
        there = [self._applied, *sorted(self._waiting), self._known + 1]
        stretches = [(before + 1, behind - 1) for before, behind in pairwise(there) if behind > before + 1]
        return stretches[:RANGES_MAX]

    @property
    def complete(self) -> bool:
        """Whether the snapshot of the active that is followed is in."""
        return self.state is State.COMPLETE

    @property
    def missing(self) -> bool:
        """Whether frames are missing that the active may still have."""
        return self.epoch is not None and self.behind > 0

    def heard(self, now: float) -> bool:
        """Whether the active was heard lately."""
        return now - self._heard_at < FRESH_S

    def synced(self, now: float) -> bool:
        """Whether the store is the active's table, as far as can be known."""
        return self.complete and self._applied >= self._known and (self.heard(now) or self._heard_at == now)

    def why_not(self, now: float) -> str | None:
        """Why the store may not be the active's table; None if this backup is in sync."""
        if self.synced(now):
            return None
        if self.state is State.IDLE:
            return "no active is heard" if self.active_name is None else f"{self.active_name} is active no more"
        if not self.heard(now):
            return f"{self.active_name} was last heard {now - self._heard_at:.1f} s ago"
        if self.state is State.ASKING:
            return f"a snapshot is asked for; {self.active_name} has not begun one yet"
        if self.state is State.FILLING:
            return f"a snapshot of {self.active_name} is coming in"
        return f"{self.behind} frames of {self.active_name} are missing, and asked for"

    @property
    def behind(self) -> int:
        """How many frames of the active, as far as is known, are not applied."""
        return self._known - self._applied
