"""Runs the active's side of the protocol: numbers the stream, resends lost frames, keeps account of every backup.

Sans-I/O: `now` is an argument (seconds, monotonic), and `bodies_to_send` returns the bodies to send.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ftfw.kernel.message_run import Part
from ftfw.replication import limits, messages
from ftfw.replication.bucket_digests import Digests, Scope, bits_for
from ftfw.replication.messages import Ack, Heartbeat, Packer, Resync, Want
from ftfw.replication.state_tables import READING_TRANSITIONS, Reading, ReadingEvent, next_state


@dataclass(slots=True)
class BackupProgress:
    """Holds the progress of one backup, as the active knows it.

    Invariant: `acked` never exceeds the number of the last frame sent, and only grows while `epoch` stays the same.
    """

    name: str
    epoch: bytes
    """The epoch in which the backup seals its frames.  A new epoch resets this record: the backup has restarted."""
    last_seen: float
    """When the backup was last heard (seconds, monotonic).  After PEER_LOST_S nothing waits for it any longer."""
    acked: int = 0
    """The backup has applied the stream up to this frame, and will not ask for it or for earlier frames."""
    synced: bool = False
    """The backup's last message was an ACK for this stream that says "in sync"."""
    follows: bool = False
    """The backup's last message named this active's epoch, and not another active's or none."""


@dataclass(slots=True)
class _Kept:
    """Holds a frame that some backup may ask for again."""

    body: bytes
    sent_at: float
    resent_at: float = field(default=float("-inf"))


@dataclass(slots=True)
class _Wanted:
    """Holds the readings of the kernel's table that are requested, and where in the stream the last ones began.

    A request carries the number of the last frame that its backup had applied.  A reading that began after that frame
    answers the request.
    """

    snapshot: bool = False
    """Some backup wants a snapshot of everything."""
    compare: bool = False
    """Some backup, an administrator or the interval wants a compare."""
    buckets: Scope | None = None
    """Backups want a snapshot of these buckets.  Never more than WANTED_MAX: then `snapshot` is set instead."""
    snapshot_began: int = 0
    """The number of the last SNAPSHOT_BEGIN."""
    compare_began: int = 0
    """The number of the last COMPARE."""
    buckets_began: tuple[int, Scope] | None = None
    """The number of the last SCOPE that began a snapshot of buckets, and these buckets."""

    def add(self, request: Resync | Want) -> None:
        """Note a backup's request, unless a reading that began later answers it."""
        if request.sequence < self.snapshot_began:
            return
        if isinstance(request, Want):
            self._add_buckets(request)
        elif not request.compare:
            self.snapshot = True
        elif request.sequence >= self.compare_began:
            self.compare = True

    def _add_buckets(self, request: Want) -> None:
        began, sent = self.buckets_began or (0, None)
        left = request.scope if sent is None or request.sequence >= began else request.scope.without(sent)
        wanted = left and left.joined(self.buckets)
        if wanted is not None and len(wanted.buckets) > limits.WANTED_MAX:
            self.snapshot = True
        elif wanted is not None:
            self.buckets = wanted


class Active:
    """Numbers and keeps the frames of one active's stream, and keeps account of its backups.

    `epoch`: the epoch in which the frames are sealed.  `limit`: the largest body in bytes.  `compress`: compress with
    zstd.  `compare_s`: seconds between two compares with the backups that follow.  All times are seconds, monotonic.
    """

    def __init__(self, *, name: str, epoch: bytes, limit: int, compress: bool, compare_s: float, now: float) -> None:
        self.name = name
        self.epoch = epoch
        self.backups: dict[str, BackupProgress] = {}
        self.sequence = 0  # the number of the last frame of the stream
        self.resent = 0  # frames sent again
        self.compared = 0  # compares that were streamed to their end
        self.outrun = 0  # frames that were dropped before every live backup had acknowledged them
        self._bodies: list[bytes] = []
        self._reading = Reading.NOTHING
        self._wanted = _Wanted()
        self._compare_s = compare_s
        self._compare_at = now + compare_s
        self._heartbeat_at = now
        self._limit = limit
        self._packer = Packer(limit=limit, compress=compress)
        self._kept: dict[int, _Kept] = {}  # in the order of their numbers, without gaps, up to `sequence`
        self._kept_bytes = 0

    def bodies_to_send(self) -> list[bytes]:
        """Return the bodies to send, in their order, and forget them."""
        bodies, self._bodies = self._bodies, []
        return bodies

    def get_timer(self) -> float:
        """Return when `handle_timer` is to be called (seconds, monotonic)."""
        return min(self._heartbeat_at, self._compare_at)

    def handle_timer(self, now: float) -> None:
        """Send a heartbeat and request a compare when they are due; forget frames that no backup can ask for."""
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + limits.HEARTBEAT_S
            self._free(now)
            self._bodies.append(messages.heartbeat(self.name, "active", self.sequence, self.oldest))
        if now >= self._compare_at:
            self._compare_at = now + self._compare_s
            self._wanted.compare = self._wanted.compare or bool(self._following(now))

    # The stream

    def restart(self, epoch: bytes, now: float) -> None:
        """Begin a new stream, sealed in `epoch`: its numbers begin at 1, and no backup is known.

        A reading that is under way may continue; the backups of the new stream ignore the rest of it.
        """
        self.epoch, self.sequence = epoch, 0
        self.backups.clear()
        self._kept.clear()
        self._kept_bytes = 0
        self._bodies.clear()
        self._wanted = _Wanted()
        self._heartbeat_at = now

    def offer(self, parts: Sequence[Part], now: float) -> None:
        """Stream live messages, in as few frames as they fit."""
        self._stream(messages.EVENTS, parts, now)

    def lose(self, now: float) -> None:
        """Tell the backups that events were lost: no store can be right before its next snapshot or compare."""
        self._frame(messages.LOST, messages.STORED, b"", now)

    def resync_backups(self, now: float) -> None:
        """Send RESYNC_ALL, so that every backup requests a snapshot of the whole table: an administrator wants it."""
        self._frame(messages.RESYNC_ALL, messages.STORED, b"", now)

    def _stream(self, kind: int, parts: Sequence[Part], now: float) -> None:
        for codec, blob in self._packer.blobs(parts):
            self._frame(kind, codec, blob, now)

    def _frame(self, kind: int, codec: int, blob: bytes, now: float) -> None:
        self.sequence += 1
        body = messages.stream(kind, self.sequence, codec, blob)
        self._kept[self.sequence] = _Kept(body, now)
        self._kept_bytes += len(body)
        self._bodies.append(body)
        while self._kept_bytes > limits.KEPT_BYTES:
            self.outrun += 1
            self._forget(self.oldest)

    def _forget(self, sequence: int) -> None:
        self._kept_bytes -= len(self._kept.pop(sequence).body)

    @property
    def kept_bytes(self) -> int:
        """Return the bytes of the frames that can be sent again, at most KEPT_BYTES of `limits`."""
        return self._kept_bytes

    @property
    def oldest(self) -> int:
        """Return the number of the oldest frame that can be sent again; the next frame's number if there is none."""
        return self.sequence + 1 - len(self._kept)

    def _free(self, now: float) -> None:
        """Forget the frames that every live following backup has acknowledged."""
        wanted = min((backup.acked for backup in self._following(now)), default=self.sequence)
        for sequence in range(self.oldest, wanted + 1):
            self._forget(sequence)

    # Readings of the kernel's table

    def wanted(self, now: float) -> Reading:
        """Return the reading of the kernel's table that is needed next; NOTHING while no backup is live."""
        if not self.live(now):
            return Reading.NOTHING
        if self._wanted.snapshot or self._wanted.buckets is not None:
            return Reading.SNAPSHOT
        return Reading.COMPARE if self._wanted.compare else Reading.NOTHING

    def request_compare(self) -> None:
        """Compare the kernel's table with the backups' stores: an administrator wants it."""
        self._wanted.compare = True

    def begin_snapshot(self, now: float) -> Scope | None:
        """Begin a snapshot; return the buckets whose entries `add_snapshot` is to stream, or None for the whole table.

        Raises LocalProtocolError if a reading is under way.
        """
        self._turn(ReadingEvent.SNAPSHOT_BEGIN)
        scope, self._wanted.buckets = self._wanted.buckets, None
        if scope is None or self._wanted.snapshot:
            self._wanted.snapshot = False
            self._frame(messages.SNAPSHOT_BEGIN, messages.STORED, b"", now)
            self._wanted.snapshot_began = self.sequence
            return None
        for blob in messages.scopes(scope, self._limit):
            self._frame(messages.SCOPE, messages.STORED, blob, now)
        self._wanted.buckets_began = self.sequence, scope
        return scope

    def add_snapshot(self, parts: Sequence[Part], now: float) -> None:
        """Stream a part of the snapshot that is under way."""
        self._stream(messages.SNAPSHOT_PART, parts, now)

    def end_snapshot(self, now: float) -> None:
        """End the snapshot.  A backup that received LOST during the snapshot discards it.

        Raises LocalProtocolError if no snapshot is under way.
        """
        self._turn(ReadingEvent.SNAPSHOT_END)
        self._frame(messages.SNAPSHOT_END, messages.STORED, b"", now)

    def begin_compare(self, now: float) -> None:
        """Begin a compare: the digests are to be made of a reading of the table that begins now.

        Raises LocalProtocolError if a reading is under way.
        """
        self._turn(ReadingEvent.COMPARE)
        self._wanted.compare = False
        self._frame(messages.COMPARE, messages.STORED, b"", now)
        self._wanted.compare_began = self.sequence

    def end_compare(self, digests: Digests, salt: bytes, now: float) -> Iterator[None]:
        """Stream the digests, one frame for each step of the iterator.

        All events from before the table was read must have been offered.  Raises LocalProtocolError if no compare is
        under way.
        """
        for blob in messages.slices(digests.folded(bits_for(digests.count)), salt, self._limit):
            self._frame(messages.DIGESTS, messages.STORED, blob, now)
            yield
        self.compared += 1
        self._turn(ReadingEvent.LAST_DIGESTS)

    def _turn(self, event: ReadingEvent) -> None:
        self._reading = next_state("active", READING_TRANSITIONS, self._reading, event)

    def may_snapshot(self, now: float) -> bool:
        """Return True if every live backup that follows has acknowledged enough of a reading for more to be sent."""
        return all(self.sequence - backup.acked < limits.SNAPSHOT_WINDOW for backup in self._following(now))

    # Backups

    def receive(self, epoch: bytes, message: Ack | Resync | Want | Heartbeat, now: float) -> None:
        """Process a message of a backup; `epoch` is the epoch of the frame that carried it."""
        backup = self.backups.pop(message.name, None)
        if backup is None or backup.epoch != epoch:
            backup = BackupProgress(message.name, epoch, now)
        self.backups[message.name] = backup  # the one heard last stands last
        if len(self.backups) > limits.PEERS_MAX:
            del self.backups[next(iter(self.backups))]
        backup.last_seen = now
        backup.follows = not isinstance(message, Heartbeat) and message.epoch == self.epoch
        backup.synced = isinstance(message, Ack) and backup.follows and message.synced
        if isinstance(message, Heartbeat) or not backup.follows:
            return
        if backup.acked < message.sequence <= self.sequence:
            backup.acked = message.sequence
        if isinstance(message, Ack):
            self._resend(message, now)
        else:
            self._wanted.add(message)

    def _resend(self, request: Ack, now: float) -> None:
        """Send missing frames again, except those that are no longer kept or were sent within RESEND_S."""
        room = limits.RESEND_FRAMES
        for sequence in request.missing_within(self.oldest, self.sequence):
            kept = self._kept[sequence]
            if now - max(kept.sent_at, kept.resent_at) < limits.RESEND_S:
                continue
            if not room:
                return
            room -= 1
            kept.resent_at = now
            self.resent += 1
            self._bodies.append(kept.body)

    def live(self, now: float) -> list[BackupProgress]:
        """Return the backups that were heard within PEER_LOST_S."""
        return [backup for backup in self.backups.values() if now - backup.last_seen < limits.PEER_LOST_S]

    def _following(self, now: float) -> list[BackupProgress]:
        return [backup for backup in self.live(now) if backup.follows]

    def lag_s(self, backup: BackupProgress, now: float) -> float:
        """Return the age in seconds of the first frame that `backup` has not acknowledged; 0 if there is none."""
        first = self._kept.get(max(backup.acked + 1, self.oldest))
        return now - first.sent_at if first else 0.0

    def synced(self, now: float) -> bool | None:
        """Return True if every live backup is in sync; None if no backup is live."""
        live = self.live(now)
        return all(self._is_synced(backup, now) for backup in live) if live else None

    def _is_synced(self, backup: BackupProgress, now: float) -> bool:
        return backup.synced and now - backup.last_seen < limits.FRESH_S and self.lag_s(backup, now) < limits.FRESH_S

    def why_not(self, now: float) -> str | None:
        """Return a text that names the live backups that are not in sync; None if all are."""
        names = [backup.name for backup in self.live(now) if not self._is_synced(backup, now)]
        return f"not in sync: {', '.join(sorted(names))}" if names else None
