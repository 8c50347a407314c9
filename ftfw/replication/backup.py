"""The backup's side of the protocol: follows one active's stream, asks for a snapshot when it has to.  Sans-I/O."""

from ftfw.replication import messages
from ftfw.replication.messages import Heartbeat, Stream
from ftfw.store import Store

HEARTBEAT_S = 0.1
FRESH_S = 1.0  # a heartbeat older than this: the active is not heard any more
RESYNC_RETRY_S = 0.5  # between two requests for a snapshot that does not come
ACK_FRAMES = 128  # acknowledge at least so often,
ACK_S = 0.1  # or so often while frames come


class Backup:
    """Follows an active into `store`.  `outgoing` holds the bodies to send.

    A gap in the stream costs a snapshot; events behind it are taken all the same, they are true.
    """

    def __init__(self, *, name: str, store: Store, now: float) -> None:
        self.name = name
        self.store = store
        self.outgoing: list[bytes] = []
        self.epoch: bytes | None = None  # of the active that is followed
        self.active_name: str | None = None
        self.gaps = 0
        self.snapshots = 0  # completed
        self.stale = 0  # entries that went at the end of a snapshot
        self.was_synced = False  # when the active was last heard
        self._complete = False  # this epoch's snapshot is in, without a gap since
        self._applied = 0
        self._announced = 0
        self._heard_at = float("-inf")
        self._acked = 0
        self._acked_at = now
        self._resync_at = now
        self._heartbeat_at = now

    def receive(self, epoch: bytes, message: Stream | Heartbeat, now: float) -> None:
        """Take in what an active says; `epoch` is that of the frame it came in."""
        if epoch != self.epoch:
            self._follow(epoch, now)
        if isinstance(message, Heartbeat):
            self.active_name = message.name
            self._announced = max(self._announced, message.sequence)
            if message.sequence > self._applied:
                self._lose(message.sequence, now)
        else:
            self._take(message, now)
        self._heard_at = now
        self.was_synced = self.synced(now)

    def unfollow(self) -> None:
        """The active that is followed is active no more: the next one need not wait until it counts as lost."""
        if self.store.in_snapshot:
            self.store.abort_snapshot()
        self.epoch = None
        self._complete = False

    def _follow(self, epoch: bytes, now: float) -> None:
        if self.store.in_snapshot:
            self.store.abort_snapshot()
        self.epoch, self._complete, self._applied, self._announced, self._acked = epoch, False, 0, 0, 0
        self._resync_at = now

    def _take(self, frame: Stream, now: float) -> None:
        if frame.sequence <= self._applied:
            return  # behind a gap that a snapshot is mending already
        if frame.sequence != self._applied + 1:
            self._lose(frame.sequence - 1, now)
        if frame.kind != messages.EVENTS:
            self._take_snapshot(frame)
        else:
            for part in frame.parts:
                self.store.apply(part)
        self._applied = frame.sequence
        if self._applied - self._acked >= ACK_FRAMES or now >= self._acked_at + ACK_S:
            self._acknowledge(now)

    def _take_snapshot(self, frame: Stream) -> None:
        if frame.kind in (messages.SNAPSHOT_BEGIN, messages.SNAPSHOT_FOR_ALL):
            if frame.kind == messages.SNAPSHOT_FOR_ALL:
                self._complete = False
            if not self._complete:
                self.store.begin_snapshot()
        elif not self.store.in_snapshot:
            return
        elif frame.kind == messages.SNAPSHOT_PART:
            for part in frame.parts:
                self.store.add_snapshot(part)
        else:
            self.stale += self.store.end_snapshot()
            self.snapshots += 1
            self._complete = True

    def _lose(self, sequence: int, now: float) -> None:
        """Frames up to `sequence` are missing."""
        if self._applied or self._complete:  # before the first frame nothing is lost, only not known yet
            self.gaps += 1
        self._applied = sequence
        self._complete = False
        if self.store.in_snapshot:
            self.store.abort_snapshot()
            self._resync_at = now

    def request_snapshot(self, now: float) -> None:
        """Ask anew, as an administrator may."""
        self._complete = False
        self._resync_at = now

    def tick(self, now: float) -> None:
        """Acknowledge what came since; ask for a snapshot if one is needed; show that this node is here."""
        if self.epoch is not None and self._applied != self._acked:
            self._acknowledge(now)
        if self.epoch is not None and not self._complete and not self.store.in_snapshot and now >= self._resync_at:
            self._resync_at = now + RESYNC_RETRY_S
            self.outgoing.append(messages.resync(self.name, self.epoch))
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_S
            if self.epoch is not None:
                self._acknowledge(now)
            else:
                self.outgoing.append(messages.heartbeat(self.name, "backup", 0))

    def _acknowledge(self, now: float) -> None:
        assert self.epoch is not None
        self._acked, self._acked_at = self._applied, now
        self.outgoing.append(messages.ack(self.name, self.epoch, self._applied, synced=self.synced(now)))

    @property
    def complete(self) -> bool:
        """Whether the snapshot of the active that is followed is in."""
        return self._complete

    def heard(self, now: float) -> bool:
        """Whether the active was heard lately."""
        return now - self._heard_at < FRESH_S

    def synced(self, now: float) -> bool:
        """Whether the store is the active's table, as far as can be known."""
        return self._complete and self._applied >= self._announced and (self.heard(now) or self._heard_at == now)
