"""Runs the backup's side of the protocol: follows one active's stream, requests missing frames, acknowledges.

Sans-I/O: `now` is an argument (seconds, monotonic), and `bodies_to_send` returns the bodies to send.
"""

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Final

from ftfw.kernel.entry_digest import SIZE as DIGEST_BYTES
from ftfw.replication import limits, messages
from ftfw.replication.bucket_digests import Digests, Scope, bucket_of
from ftfw.replication.messages import Heartbeat, Piece, Slice, Stream
from ftfw.replication.state_tables import BACKUP_TRANSITIONS, BackupEvent, BackupState, next_state
from ftfw.replication.store import Store
from ftfw.replication.waiting_frames import WaitingFrames

# The only control frame that may follow in a state; another one means that the active has begun something else.
FOLLOWED_BY: Final = {BackupState.FILLING: messages.SNAPSHOT_END, BackupState.COMPARING: messages.DIGESTS}
WHY_NOT: Final = {
    BackupState.ASKING: "a snapshot or a compare is asked for; {name} has not begun one yet",
    BackupState.COMPARING: "the store is being compared with the table of {name}",
    BackupState.REPAIRING: "the store differs from the table of {name}, and the buckets that differ are asked for",
    BackupState.FILLING: "a snapshot of {name} is coming in",
}


@dataclass(slots=True)
class _Resync:
    """Holds the progress of a compare or a snapshot that makes the store equal to the active's table.

    The backup's state is in `Backup.state`; this record has everything else that belongs to a resync.
    """

    comparable: bool = False
    """The store once was equal to this active's table, so a compare will find most entries equal.

    While ASKING, RESYNC asks for a compare if it is set, and for a snapshot if not.  It is set in COMPLETE, and cleared
    when an active of another name is followed and when a snapshot of everything is wanted.
    """
    compare_requested: bool = False
    """An administrator wants a compare: RESYNC asks for one until COMPARE comes."""
    counts_repairs: bool = False
    """The store was COMPLETE before, so entries that are found wrong count as repaired.  Not set in IDLE and COMPLETE,
    except while `digests` is set."""
    all_count: bool = False
    """Buckets differ even if events have touched them since COMPARE: the store was not COMPLETE when the compare began.

    It means something only while `digests` is set."""
    digests: bytearray | None = None
    """The active's digests that were received so far; None if no compare is under way."""
    wanted: Scope | None = None
    """Buckets that differ and are not repaired yet.  Always set in REPAIRING, never in IDLE, ASKING and COMPLETE."""
    scope: Scope | None = None
    """Buckets of the snapshot that is announced or under way; None: the snapshot is of the whole table."""

    def give_up(self) -> None:
        """Forget the compare and the snapshot that are under way."""
        self.counts_repairs = False
        self.digests = self.wanted = self.scope = None


@dataclass(slots=True)
class _Rest:
    """Holds the work that is left of streams that have ended."""

    frames: deque[Stream] = field(default_factory=deque)
    """The last frames, to be applied."""
    removal: Iterator[int] | None = None
    """The rest of the end of a snapshot, which is complete: stale entries are removed in steps."""


class Backup:
    """Follows an active's stream into `store`.

    Frames are applied in their order.  Frames behind a gap wait until it is filled.  If too many frames wait, or the
    active has dropped the missing ones, a compare finds the entries to repair, or a snapshot replaces everything.
    `work` does in steps everything that takes long: compare the store, remove stale entries, apply waiting frames.

    `limit` is the largest body in bytes.  `hot`: this backup counts as in sync only while the driver has set
    `installed` to the present number of `snapshots`.  All times are seconds, monotonic.
    """

    def __init__(self, *, name: str, store: Store, limit: int, now: float, hot: bool = False) -> None:
        self.name = name
        self.store = store
        self.state = BackupState.IDLE
        self.epoch: bytes | None = None  # of the active that is followed; None: none is followed
        self.active_name: str | None = None  # of the active that is followed, or was followed last
        self.gaps = 0  # gaps that could not be filled
        self.repeated = 0  # frames that were received before
        self.snapshots = 0  # completed snapshots of the whole table
        self.compared = 0  # compares completed
        self.stale = 0  # entries that were removed at the end of snapshots
        self.installed: float = 0 if hot else inf  # the number of `snapshots` that the kernel has; the driver sets it
        self.was_synced = False  # in sync when the active was last heard
        self._limit = limit
        self._bodies: list[bytes] = []
        self._resync = _Resync()
        self.applied = 0  # the number of the last frame of the stream that was applied
        self._known = 0  # the highest number that the active is known to have sent
        self._waiting = WaitingFrames()
        self._work: Iterator[int] | None = None  # a compare, or the end of a snapshot, in steps
        self._rest: _Rest | None = None  # of streams that have ended
        self._begun_at = now
        self._heard_at = -inf
        self._acked = 0
        self._acked_at = now
        self._nack_at = now
        self._resync_at = now
        self._heartbeat_at = now

    def receive(self, epoch: bytes, message: Stream | Heartbeat, now: float) -> None:
        """Process a message of an active; `epoch` is the epoch of the frame that carried it.

        A heartbeat of a new epoch makes the backup follow that epoch.  A stream frame must be of the followed epoch:
        the caller checks that.
        """
        if isinstance(message, Heartbeat):
            if epoch != self.epoch:
                self._follow(epoch, message, now)
            self._known = max(self._known, message.sequence)
            if message.oldest > self._waiting.first_missing(self.applied):
                self._give_up(message.oldest - 1, now)
        else:
            self._receive_frame(message, now)
        self._heard_at = now
        self.was_synced = self.synced(now)

    # The stream that is followed

    def _follow(self, epoch: bytes, first: Heartbeat, now: float) -> None:
        self._leave(BackupEvent.INTRODUCED)
        self._resync.comparable = self._resync.comparable and first.name == self.active_name
        self.epoch, self.active_name = epoch, first.name
        self.applied = self._known = self._acked = first.sequence
        self._resync_at = now

    def unfollow(self) -> None:
        """Stop following: the active has become a backup, or this node takes over.

        `work` applies the rest of the active's stream: first the frames, while `has_last_frames` is True. Then it
        removes stale entries; `Store.stale` names them until then. The store is final once `has_work` is False.
        """
        self._leave(BackupEvent.GONE)
        self.epoch = None

    def _leave(self, event: BackupEvent) -> None:
        """End the followed stream, and plan to apply the frames that wait behind its gaps: they are valid, too."""
        kinds = {messages.EVENTS}
        removal = None
        if self.state is BackupState.FILLING:
            if self._work is None:
                kinds.add(messages.SNAPSHOT_PART)
            else:  # the whole snapshot was received
                removal = self._work
                self._resync.comparable = True
                self.snapshots += self._resync.scope is None
        frames = [frame for frame in self._waiting.pop_all() if frame.kind in kinds]
        if removal or frames:
            self._rest = self._rest or _Rest()
            self._rest.frames.extend(frames)
            self._rest.removal = self._rest.removal or removal
        self._turn(event)

    @property
    def has_last_frames(self) -> bool:
        """Return True if frames of streams that have ended wait to be applied."""
        return self._rest is not None and bool(self._rest.frames)

    def _do_rest(self, rest: _Rest) -> None:
        """Do one step of the rest of ended streams: frames first, because entries that they name are not stale."""
        if rest.frames:
            for _ in range(min(len(rest.frames), limits.STEP_FRAMES)):
                self._apply_entries(rest.frames.popleft())
            if rest.frames or rest.removal is not None:
                return
        elif rest.removal is not None and next(rest.removal, None) is not None:
            return
        self.store.abort_snapshot()
        self._rest = None

    def _turn(self, event: BackupEvent) -> None:
        """Change the state as the table says, and prepare the store for the new state."""
        before, self.state = self.state, next_state("backup", BACKUP_TRANSITIONS, self.state, event)
        if event in (BackupEvent.INTRODUCED, BackupEvent.LOSS, BackupEvent.GONE):
            self._work = None
            self._resync.give_up()
            self.store.end_compare()
        if before is BackupState.FILLING and self._rest is None:
            self.store.abort_snapshot()
        if self.state is BackupState.FILLING:
            self.store.begin_snapshot(self._resync.scope, repair=self._resync.counts_repairs)
        if self.state is BackupState.COMPLETE:
            self._resync.comparable, self._resync.counts_repairs, self._resync.wanted = True, False, None

    def _receive_frame(self, frame: Stream, now: float) -> None:
        if frame.sequence <= self.applied or frame.sequence in self._waiting:
            self.repeated += 1
            return
        self._known = max(self._known, frame.sequence)
        if frame.sequence == self.applied + 1 and not self._must_wait(frame):
            self._apply(frame, now)
        else:
            self._waiting.add(frame)
            while self._waiting.too_many:  # several times if a large frame has come after small ones
                self._make_room(now)
        if self._waiting:
            self._apply_waiting(1, now)  # one more than was added, so that the queue shrinks however fast frames arrive
        self._acknowledge_early(now)

    def _must_wait(self, frame: Stream) -> bool:
        """Return True if a frame must wait for unfinished work; LOST and RESYNC_ALL cancel that work instead."""
        if self._rest is not None:
            return True
        return self._work is not None and frame.kind not in (messages.EVENTS, messages.LOST, messages.RESYNC_ALL)

    def _may_apply(self) -> bool:
        """Return True if the next frame in order was received and need not wait."""
        frame = self._waiting.get(self.applied + 1)
        return frame is not None and not self._must_wait(frame)

    def _apply_waiting(self, most: int, now: float) -> None:
        for _ in range(most):
            if not self._may_apply():
                return
            self._apply(self._waiting.pop(self.applied + 1), now)

    def _make_room(self, now: float) -> None:
        """Reduce the number of waiting frames, even if that takes longer than a step: the bound is strict."""
        while self._rest is not None:
            self._do_rest(self._rest)
        if self._may_apply():
            self._apply_waiting(1, now)
        else:
            self._give_up(self._waiting.first - 1, now)

    def _apply(self, frame: Stream, now: float) -> None:
        self.applied = frame.sequence
        if frame.kind in (messages.EVENTS, messages.SNAPSHOT_PART):
            if frame.kind == messages.EVENTS or self.state is BackupState.FILLING:
                self._apply_entries(frame)
            return
        if frame.kind != FOLLOWED_BY.get(self.state, frame.kind):
            self._ask(now)  # the active has abandoned the compare or snapshot
        self._apply_control(frame, now)

    def _apply_entries(self, frame: Stream) -> None:
        apply = self.store.apply if frame.kind == messages.EVENTS else self.store.add_snapshot
        for part in frame.parts:
            apply(part)

    def _apply_control(self, frame: Stream, now: float) -> None:
        """Apply SNAPSHOT_BEGIN, SNAPSHOT_END, COMPARE, DIGESTS, SCOPE, LOST or RESYNC_ALL."""
        if frame.kind == messages.LOST:
            self._ask(now)
        elif frame.kind == messages.RESYNC_ALL:
            self.request_snapshot(now)
        elif frame.kind == messages.COMPARE:
            self._begin_compare()
        elif isinstance(frame.buckets, Slice):
            self._add_digests(frame.buckets, now)
        elif isinstance(frame.buckets, Piece):
            self._add_scope(frame.buckets, now)
        elif frame.kind == messages.SNAPSHOT_BEGIN:
            self._resync.scope = None
            self._turn(BackupEvent.BEGIN)
        elif self.state is BackupState.FILLING:
            self._work = self._fill(self.store.remove_stale())
        else:
            self._end_snapshot()

    def _give_up(self, sequence: int, now: float) -> None:
        """Stop waiting for the frames up to `sequence`, count a gap and request a resync."""
        self.gaps += 1
        self._ask(now)
        self._waiting.drop_through(sequence)
        self.applied = sequence
        self._apply_waiting(1, now)

    def _ask(self, now: float) -> None:
        self._turn(BackupEvent.LOSS)
        self._resync_at = now

    def request_snapshot(self, now: float) -> None:
        """Request a snapshot of the whole table: an administrator wants it, or a compare found too many differences."""
        counts_repairs = self._resync.counts_repairs or self.state is BackupState.COMPLETE
        self._resync.comparable = False
        self._ask(now)
        self._resync.counts_repairs = counts_repairs

    def request_compare(self, now: float) -> None:
        """Request a compare: an administrator wants it."""
        self._resync.compare_requested = True
        self._resync_at = now

    # Compares

    def _begin_compare(self) -> None:
        self._resync.all_count = self.state is not BackupState.COMPLETE
        counts_repairs = self._resync.counts_repairs or not self._resync.all_count
        self._turn(BackupEvent.COMPARE)
        self._resync.counts_repairs = counts_repairs
        self._resync.compare_requested = False
        self._resync.digests = bytearray()
        self.store.begin_compare()

    def _add_digests(self, found: Slice, now: float) -> None:
        theirs = self._resync.digests
        if theirs is None:
            return
        if found.first * DIGEST_BYTES != len(theirs):
            self._ask(now)  # the active sends them in order
            return
        theirs += found.digests
        assert len(theirs) <= DIGEST_BYTES << limits.BUCKET_BITS_MAX  # no slice reaches behind the last bucket
        if len(theirs) == DIGEST_BYTES << found.bits:
            self._work = self._compare(found.bits, found.salt, array("I", theirs), now)

    def _compare(self, bits: int, salt: bytes, theirs: "array[int]", now: float) -> Iterator[int]:
        """Find the buckets that differ, in steps.

        A bucket that an event has touched since COMPARE may differ for that reason; it is left out, except if
        `all_count`.
        """
        ours = Digests(bits)
        for slice_ in self.store.digests(salt):
            ours.add(slice_)
            yield 0
        differing: set[int] = set()
        for found in ours.differing(theirs):
            differing |= found
            yield 0
        touched = self.store.end_compare()
        while touched:
            some = [touched.pop() for _ in range(min(len(touched), limits.STEP_ENTRIES))]
            if not self._resync.all_count:
                differing.difference_update([bucket_of(key, bits) for key in some])
            yield 0
        self._resync.digests = None
        self.compared += 1
        if not differing:
            self._turn(BackupEvent.EQUAL)
        elif len(differing) > min(limits.WANTED_MAX, max(1, 1 << bits >> 1)):
            self.request_snapshot(now)
        else:
            self._resync.wanted = Scope(bits, differing)
            self._turn(BackupEvent.DIFFERENT)
            self._resync_at = now

    # Snapshots

    def _add_scope(self, piece: Piece, now: float) -> None:
        scope = self._resync.scope = piece.scope.joined(self._resync.scope)
        if len(scope.buckets) > limits.WANTED_MAX:
            self._ask(now)  # an active never names so many
        elif not piece.left and (scope.meets(self._resync.wanted) or self.state is BackupState.COMPLETE):
            self._turn(BackupEvent.BEGIN)

    def _fill(self, removal: Iterator[int]) -> Iterator[int]:
        """Remove the entries that the snapshot has not named, in steps, and end the snapshot."""
        for stale in removal:
            self.stale += stale
            yield stale
        if self.state is BackupState.FILLING:  # the stream has not ended since
            self._end_snapshot()

    def _end_snapshot(self) -> None:
        if self.state is not BackupState.FILLING:
            self._turn(BackupEvent.END)
        elif self._resync.scope is None:
            self.snapshots += 1
            self._turn(BackupEvent.END)
        else:
            self._resync.wanted = self._resync.wanted and self._resync.wanted.without(self._resync.scope)
            self._turn(BackupEvent.PART if self._resync.wanted else BackupEvent.END)
        self._resync.scope = None

    # Work in steps

    @property
    def has_work(self) -> bool:
        """Return True if there is something for `work` to do."""
        return self._rest is not None or self._work is not None or self._may_apply() or self.store.has_unneeded

    def work(self, now: float) -> bool:
        """Do one step of the pending work, a few milliseconds; return True if there is more to do."""
        if not self.has_work:
            return False
        if self.store.free():
            return True
        if self._rest is not None:
            self._do_rest(self._rest)
            return self.has_work
        self._apply_waiting(limits.STEP_FRAMES, now)
        if self._work is not None and next(self._work, None) is None:
            self._work = None
        self._acknowledge_early(now)
        if self.epoch is not None and self.heard(now):
            self.was_synced = self.synced(now)
        return self.has_work

    # Timers and the bodies that they send

    def bodies_to_send(self) -> list[bytes]:
        """Return the bodies to send, in their order, and forget them."""
        bodies, self._bodies = self._bodies, []
        return bodies

    def get_timer(self) -> float:
        """Return when `handle_timer` is to be called (seconds, monotonic)."""
        if self.epoch is None:
            return self._heartbeat_at
        due = self._acknowledgement_due()
        return min(due, self._resync_at) if self._asks() else due

    def handle_timer(self, now: float) -> None:
        """Send what is due: an acknowledgement, a request for missing entries or frames, a heartbeat."""
        if self.epoch is None:
            if now >= self._heartbeat_at:
                self._heartbeat_at = now + limits.HEARTBEAT_S
                self._bodies.append(messages.heartbeat(self.name, "backup", 0, 0))
            return
        if now >= self._acknowledgement_due():
            self._heartbeat_at = now + limits.HEARTBEAT_S
            self._nack_at = now + limits.NACK_S
            self._acknowledge(now)
        if self._asks() and now >= self._resync_at:
            self._resync_at = now + limits.RESYNC_RETRY_S
            self._send_request()

    def _asks(self) -> bool:
        """Return True while a snapshot, buckets or a compare is requested and has not begun."""
        asking = self.state in (BackupState.ASKING, BackupState.REPAIRING)
        return asking or self._resync.compare_requested

    def _send_request(self) -> None:
        assert self.epoch is not None
        if self.state is BackupState.REPAIRING:
            assert self._resync.wanted is not None
            self._bodies += messages.wants(self.name, self.epoch, self.applied, self._resync.wanted, self._limit)
        else:
            compare = self._resync.comparable or self.state is not BackupState.ASKING
            self._bodies.append(messages.resync(self.name, self.epoch, self.applied, compare=compare))

    def _acknowledgement_due(self) -> float:
        if self.missing:
            return self._nack_at
        return self._heartbeat_at if self.applied == self._acked else self._acked_at + limits.ACK_S

    def _acknowledge_early(self, now: float) -> None:
        """Acknowledge before the timer after ACK_FRAMES frames, or ACK_S after the last acknowledgement."""
        behind = self.applied - self._acked
        if behind >= limits.ACK_FRAMES or (behind > 0 and now >= self._acked_at + limits.ACK_S):
            self._acknowledge(now)

    def _acknowledge(self, now: float) -> None:
        assert self.epoch is not None
        self._acked, self._acked_at = self.applied, now
        missing = list(self._waiting.missing(self.applied, self._known))
        synced = self.synced(now)
        self._bodies.append(messages.ack(self.name, self.epoch, self.applied, missing, self._limit, synced=synced))

    # State for status, log and driver

    @property
    def complete(self) -> bool:
        """Return True if a snapshot or a compare made the store equal to the active's table, and no loss followed."""
        return self.state is BackupState.COMPLETE

    @property
    def missing(self) -> bool:
        """Return True if the active is known to have sent frames that are not applied."""
        return self.epoch is not None and self.behind > 0

    @property
    def behind(self) -> int:
        """Return the number of frames that the active is known to have sent and that are not applied."""
        return self._known - self.applied

    @property
    def waiting(self) -> int:
        """Return how many frames have come and are not applied yet, at most WAITING_FRAMES of `limits`."""
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Return how many bytes these frames take, about; at most WAITING_BYTES of `limits`."""
        return self._waiting.memory

    def heard(self, now: float) -> bool:
        """Return True if the active was heard within FRESH_S."""
        return now - self._heard_at < limits.FRESH_S

    def ready(self, now: float) -> bool:
        """Return True if this node may take over: it was in sync, or has heard no active for READY_S."""
        return self.was_synced or now - max(self._begun_at, self._heard_at) >= limits.READY_S

    def synced(self, now: float) -> bool:
        """Return True if everything the active is known to have sent is applied, and it was heard within FRESH_S."""
        whole = self.complete and self.applied >= self._known and self.installed >= self.snapshots
        return whole and (self.heard(now) or self._heard_at == now)

    def why_not(self, now: float) -> str | None:
        """Return as a text why this backup is not in sync; None if it is."""
        if self.synced(now):
            return None
        if self.state is BackupState.IDLE:
            return "no active is heard" if self.active_name is None else f"{self.active_name} is no longer active"
        if not self.heard(now):
            return f"{self.active_name} was last heard {now - self._heard_at:.1f} s ago"
        if self.state is not BackupState.COMPLETE:
            return WHY_NOT[self.state].format(name=self.active_name)
        if self.installed < self.snapshots:
            return f"the snapshot of {self.active_name} is being put into this kernel"
        return f"{self.behind} frames of {self.active_name} are missing, and asked for"
