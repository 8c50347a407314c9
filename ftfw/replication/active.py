"""The active's side of the protocol: numbers the stream, sends again what was lost, keeps account of every backup.

Sans-I/O: time is an argument, bodies to send come out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ftfw.kernel.message_run import Part
from ftfw.replication import limits, messages
from ftfw.replication.bucket_digests import Digests, Scope, bits_for
from ftfw.replication.messages import Ack, Heartbeat, Packer, Resync, Want
from ftfw.replication.state_tables import READINGS, Frame, Reading


@dataclass(slots=True)
class Backup:
    """What the active knows of a backup."""

    name: str
    epoch: bytes  # under which it speaks: a new one, a new process
    last_seen: float
    acked: int = 0
    synced: bool = False
    follows: bool = False  # this active's epoch, and not another's or nobody's


@dataclass(slots=True)
class _Kept:
    """A frame that some backup may ask for again."""

    body: bytes
    sent_at: float
    resent_at: float = field(default=float("-inf"))


class Active:
    """Numbers and keeps the frames of one active's stream, and keeps account of its backups."""

    def __init__(self, *, name: str, epoch: bytes, limit: int, compress: bool, compare_s: float, now: float) -> None:
        self.name = name
        self.epoch = epoch
        self.backups: dict[str, Backup] = {}
        self._bodies: list[bytes] = []
        self.sequence = 0
        self.reading = Reading.NOTHING
        self.snapshot_wanted = False  # a whole one
        self.comparison_wanted = False
        self._buckets_wanted: Scope | None = None
        self._whole = 0  # the number of the last whole snapshot's beginning,
        self._comparison = 0  # of the last comparison's,
        self._mended: tuple[int, Scope] | None = None  # of the last snapshot of some buckets, and these
        self._compare_s = compare_s
        self._compare_at = now + compare_s
        self.resent = 0  # frames
        self.compared = 0  # comparisons
        self.outrun = 0  # frames that fell out of what is kept before every live backup had them
        self._limit = limit
        self._packer = Packer(limit=limit, compress=compress)
        self._kept: dict[int, _Kept] = {}  # in the order of their numbers, without gaps, up to `sequence`
        self._kept_bytes = 0
        self._heartbeat_at = now

    def offer(self, parts: Sequence[Part], now: float) -> None:
        """Stream live messages."""
        self._stream(messages.EVENTS, parts, now)

    def lose(self, now: float) -> None:
        """Events were lost: no backup's store can be right before its next snapshot."""
        self._frame(messages.LOST, messages.STORED, b"", now)

    def renew(self, now: float) -> None:
        """Have every backup take everything anew: an administrator wants it."""
        self._frame(messages.RENEW, messages.STORED, b"", now)

    # What the kernel's table is read for

    def wanted(self) -> Reading:
        """What it is to be read for next."""
        if self.snapshot_wanted or self._buckets_wanted is not None:
            return Reading.SNAPSHOT
        return Reading.COMPARISON if self.comparison_wanted else Reading.NOTHING

    def begin_snapshot(self, now: float) -> Scope | None:
        """What is in the table in the buckets that are returned (None: all) follows until `end_snapshot`."""
        self.reading = READINGS[self.reading, Frame.SNAPSHOT_BEGIN]
        scope, self._buckets_wanted = self._buckets_wanted, None
        if scope is None or self.snapshot_wanted:
            self.snapshot_wanted = False
            self._frame(messages.SNAPSHOT_BEGIN, messages.STORED, b"", now)
            self._whole = self.sequence
            return None
        for blob in messages.scopes(scope, self._limit):
            self._frame(messages.SCOPE, messages.STORED, blob, now)
        self._mended = self.sequence, scope
        return scope

    def add_snapshot(self, parts: Sequence[Part], now: float) -> None:
        """Stream a part of the snapshot."""
        self._stream(messages.SNAPSHOT_PART, parts, now)

    def end_snapshot(self, now: float) -> None:
        """The snapshot is complete; for a backup that saw events get lost meanwhile it is none."""
        self.reading = READINGS[self.reading, Frame.SNAPSHOT_END]
        self._frame(messages.SNAPSHOT_END, messages.STORED, b"", now)

    def begin_comparison(self, now: float) -> None:
        """The table is read for its digests from now on."""
        self.reading = READINGS[self.reading, Frame.COMPARE]
        self.comparison_wanted = False
        self._frame(messages.COMPARE, messages.STORED, b"", now)
        self._comparison = self.sequence

    def end_comparison(self, digests: Digests, salt: bytes, now: float) -> Iterator[None]:
        """Stream the digests, a frame at a time; all events from before they were read have been streamed."""
        for blob in messages.slices(digests.folded(bits_for(digests.count)), salt, self._limit):
            self._frame(messages.DIGESTS, messages.STORED, blob, now)
            yield
        self.compared += 1
        self.reading = READINGS[self.reading, Frame.LAST_DIGESTS]

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
    def oldest(self) -> int:
        """The number of the oldest frame that can be sent again; the next one's if there is none."""
        return self.sequence + 1 - len(self._kept)

    def bodies_to_send(self) -> list[bytes]:
        """Return the bodies to send, in their order, and forget them."""
        bodies, self._bodies = self._bodies, []
        return bodies

    def get_timer(self) -> float:
        """Return when `handle_timer` is to be called (seconds, monotonic)."""
        return min(self._heartbeat_at, self._compare_at)

    def handle_timer(self, now: float) -> None:
        """Send a heartbeat and begin a comparison when they are due; forget frames that no backup can ask for."""
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + limits.HEARTBEAT_S
            self._free(now)
            self._bodies.append(messages.heartbeat(self.name, "active", self.sequence, self.oldest))
        if now >= self._compare_at:
            self._compare_at = now + self._compare_s
            self.comparison_wanted = bool(self._following(now))

    def request_comparison(self) -> None:
        """Compare the kernel's table with the backups' stores: an administrator wants to know."""
        self.comparison_wanted = True

    def _free(self, now: float) -> None:
        """Frames are kept until every live backup that follows has them."""
        wanted = min((backup.acked for backup in self._following(now)), default=self.sequence)
        for sequence in range(self.oldest, wanted + 1):
            self._forget(sequence)

    def receive(self, epoch: bytes, message: Ack | Resync | Want | Heartbeat, now: float) -> None:
        """Take in what a backup says; `epoch` is that of the frame it came in."""
        backup = self.backups.pop(message.name, None)
        if backup is None or backup.epoch != epoch:
            backup = Backup(message.name, epoch, now)
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
            self._resend(message.missing, now)
        else:
            self._note(message)

    def _note(self, request: Resync | Want) -> None:
        """Note what a backup wants, unless what is on its way answers that: it asked before that had begun."""
        if request.sequence < self._whole:
            return
        if isinstance(request, Want):
            begun, mended = self._mended or (0, None)
            left = request.scope if mended is None or request.sequence >= begun else request.scope.without(mended)
            wanted = left and left.joined(self._buckets_wanted)
            if wanted is not None and len(wanted.buckets) > limits.WANTED_MAX:
                self.snapshot_wanted = True
            elif wanted is not None:
                self._buckets_wanted = wanted
        elif not request.compare:
            self.snapshot_wanted = True
        elif request.sequence >= self._comparison:
            self.comparison_wanted = True

    def _resend(self, missing: Sequence[tuple[int, int]], now: float) -> None:
        """Send what is missing once more.  The stretches ascend; so each frame is looked at once, whatever they say."""
        room, following = limits.RESEND_FRAMES, self.oldest
        for first, last in missing:
            for sequence in range(max(first, following), min(last, self.sequence) + 1):
                following = sequence + 1
                kept = self._kept[sequence]
                if now - max(kept.sent_at, kept.resent_at) < limits.RESEND_S:
                    continue
                if not room:
                    return
                room -= 1
                kept.resent_at = now
                self.resent += 1
                self._bodies.append(kept.body)

    def live(self, now: float) -> list[Backup]:
        """The backups that were heard lately."""
        return [backup for backup in self.backups.values() if now - backup.last_seen < limits.PEER_LOST_S]

    def _following(self, now: float) -> list[Backup]:
        return [backup for backup in self.live(now) if backup.follows]

    def may_snapshot(self, now: float) -> bool:
        """Whether every live backup that follows has taken enough of the snapshot for more to be sent."""
        return all(self.sequence - backup.acked < limits.SNAPSHOT_WINDOW for backup in self._following(now))

    def lag_s(self, backup: Backup, now: float) -> float:
        """How long the first frame that this backup has not acknowledged has been under way; 0 if there is none."""
        first = self._kept.get(max(backup.acked + 1, self.oldest))
        return now - first.sent_at if first else 0.0

    def synced(self, now: float) -> bool | None:
        """Whether every live backup is in sync; None without any."""
        live = self.live(now)
        return all(self._is_synced(backup, now) for backup in live) if live else None

    def _is_synced(self, backup: Backup, now: float) -> bool:
        return backup.synced and now - backup.last_seen < limits.FRESH_S and self.lag_s(backup, now) < limits.FRESH_S

    def why_not(self, now: float) -> str | None:
        """Which live backups are not in sync; None if all are."""
        names = [backup.name for backup in self.live(now) if not self._is_synced(backup, now)]
        return f"not in sync: {', '.join(sorted(names))}" if names else None
