"""The backup's side of the protocol: follows one active's stream, asks for what is missing, acknowledges.

Sans-I/O: time is an argument, bodies to send come out.
"""

from array import array
from collections.abc import Iterator
from itertools import pairwise
from math import inf
from typing import Final

from ftfw.kernel.entry_digest import SIZE as DIGEST_SIZE
from ftfw.replication import limits, messages
from ftfw.replication.bucket_digests import Digests, Scope, bucket_of
from ftfw.replication.messages import Heartbeat, Piece, Slice, Stream
from ftfw.replication.state_tables import TRANSITIONS, Event, State
from ftfw.replication.store import Store

# What divides the stream while a snapshot or a comparison is under way.
FOLLOWED_BY: Final = {State.FILLING: messages.SNAPSHOT_END, State.COMPARING: messages.DIGESTS}
WHY_NOT: Final = {
    State.ASKING: "a snapshot or a comparison is asked for; {name} has not begun one yet",
    State.COMPARING: "the store is being compared with the table of {name}",
    State.MENDING: "the store differs from the table of {name}, and what differs is asked for",
    State.FILLING: "a snapshot of {name} is coming in",
}


class Backup:
    """Follows an active into `store`.

    Frames are applied in their order.  Those behind a gap wait for it to be filled; if that is too much, or the active
    does not have the missing ones any more, a comparison tells what is to be mended, or a snapshot makes up for them.
    What goes through the whole store is done in slices, by `work`.
    """

    def __init__(self, *, name: str, store: Store, limit: int, now: float, hot: bool = False) -> None:
        self.name = name
        self.store = store
        self._limit = limit  # bytes of a body
        self._bodies: list[bytes] = []
        self.epoch: bytes | None = None  # of the active that is followed
        self.active_name: str | None = None
        self.gaps = 0  # that could not be filled
        self.repeated = 0  # frames that were there already
        self.snapshots = 0  # completed
        self.installed: float = 0 if hot else inf  # hot: so many of them are in the kernel, too
        self.compared = 0  # comparisons completed
        self.stale = 0  # entries that went at the end of a snapshot
        self.was_synced = False  # when the active was last heard
        self.state = State.IDLE
        self._applied = 0
        self._known = 0  # the highest number that the active is known to have sent
        self._waiting: dict[int, Stream] = {}  # behind a gap, or for work to be done
        self._waiting_bytes = 0
        self._work: Iterator[int] | None = None  # under way, in slices
        self._comparable = False  # what is held is of this active's kernel, so that a comparison will find much alike
        self._compare_wanted = False  # by an administrator
        self._trusted = False  # until a comparison: what that finds wrong is to be counted
        self._doubtful = False  # even what events have touched since may be wrong
        self._theirs: bytearray | None = None  # the active's digests, as far as they have come
        self._wanted: Scope | None = None  # what differs
        self._scope: Scope | None = None  # of the snapshot that is to begin, or under way; None: all
        self._begun_at = now
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

    def unfollow(self) -> None:
        """The active that is followed is active no more: nothing more is expected of it, and what there is is taken."""
        self._leave(Event.GONE)
        self.epoch = None

    def _follow(self, epoch: bytes, first: Heartbeat, now: float) -> None:
        self._leave(Event.INTRODUCED)
        self._comparable = self._comparable and first.name == self.active_name
        self.epoch, self.active_name = epoch, first.name
        self._applied = self._known = self._acked = first.sequence
        self._resync_at = now

    def _leave(self, event: Event) -> None:
        """The stream that was followed ends here: what waits behind its gaps is the last of it, and is true."""
        while self.state is State.FILLING and self._work is not None:  # all of the snapshot is there
            self.work(self._heard_at)
        for _, frame in sorted(self._waiting.items()):
            if frame.kind in (messages.EVENTS, messages.SNAPSHOT_PART):
                self._apply_parts(frame)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._turn(event)

    def _turn(self, event: Event) -> None:
        """Change the state by the table, and the store with it."""
        before, self.state = self.state, TRANSITIONS[self.state, event]
        if event in (Event.INTRODUCED, Event.LOSS, Event.GONE):
            self._trusted = False
            self._work = self._theirs = self._wanted = self._scope = None
            self.store.unwatch()
        if before is State.FILLING:
            self.store.abort_snapshot()
        if self.state is State.FILLING:
            self.store.begin_snapshot(self._scope, repair=self._trusted)
        if self.state is State.COMPLETE:
            self._comparable, self._trusted, self._wanted = True, False, None

    def _take(self, frame: Stream, now: float) -> None:
        if frame.sequence <= self._applied or frame.sequence in self._waiting:
            self.repeated += 1
            return
        self._known = max(self._known, frame.sequence)
        if frame.sequence != self._applied + 1 or self._must_wait(frame):
            self._waiting[frame.sequence] = frame
            self._waiting_bytes += frame.memory
            if len(self._waiting) > limits.WAITING_FRAMES or self._waiting_bytes > limits.WAITING_BYTES:
                self._give_up(min(self._waiting) - 1, now)
            return
        self._apply(frame, now)
        self._apply_waiting(now)
        if self._applied - self._acked >= limits.ACK_FRAMES or now >= self._acked_at + limits.ACK_S:
            self._acknowledge(now)

    def _must_wait(self, frame: Stream) -> bool:
        """Whether a frame builds on what is being worked on; LOST makes that void."""
        return self._work is not None and frame.kind not in (messages.EVENTS, messages.LOST, messages.RENEW)

    def _apply_waiting(self, now: float) -> None:
        while (frame := self._waiting.get(self._applied + 1)) is not None and not self._must_wait(frame):
            self._apply(self._unwait(self._applied + 1), now)

    def _unwait(self, number: int) -> Stream:
        frame = self._waiting.pop(number)
        self._waiting_bytes -= frame.memory
        return frame

    def _apply(self, frame: Stream, now: float) -> None:
        self._applied = frame.sequence
        if frame.kind in (messages.EVENTS, messages.SNAPSHOT_PART):
            self._apply_parts(frame)
            return
        if frame.kind != FOLLOWED_BY.get(self.state, frame.kind):
            self._ask(now)  # for the active has broken it off
        self._mark(frame, now)

    def _mark(self, frame: Stream, now: float) -> None:
        """Take in what divides the stream."""
        if frame.kind == messages.LOST:
            self._ask(now)
        elif frame.kind == messages.RENEW:
            self._request_snapshot(now)
        elif frame.kind == messages.COMPARE:
            self._begin_comparison()
        elif isinstance(frame.buckets, Slice):
            self._add_digests(frame.buckets, now)
        elif isinstance(frame.buckets, Piece):
            self._scope = frame.buckets.scope.joined(self._scope)
            if len(self._scope.buckets) > limits.WANTED_MAX:
                self._ask(now)  # no active names so many
            elif not frame.buckets.left and (self._scope.meets(self._wanted) or self.state is State.COMPLETE):
                self._turn(Event.BEGIN)
        elif frame.kind == messages.SNAPSHOT_BEGIN:
            self._scope = None
            self._turn(Event.BEGIN)
        elif self.state is State.FILLING:
            self._work = self._fill()
        else:
            self._end_snapshot()

    def _apply_parts(self, frame: Stream) -> None:
        if frame.kind == messages.EVENTS:
            for part in frame.parts:
                self.store.apply(part)
        elif self.state is State.FILLING:
            for part in frame.parts:
                self.store.add_snapshot(part)

    def _give_up(self, sequence: int, now: float) -> None:
        """Frames up to `sequence` are not to be had any more."""
        self.gaps += 1
        self._ask(now)
        for waiting in [number for number in self._waiting if number <= sequence]:
            self._unwait(waiting)
        self._applied = sequence
        self._apply_waiting(now)

    def _ask(self, now: float) -> None:
        self._turn(Event.LOSS)
        self._resync_at = now

    def request_snapshot(self, now: float) -> None:
        """Ask for everything anew: an administrator wants it."""
        self._request_snapshot(now)
        self._apply_waiting(now)  # which may have waited for work that has ended by this

    def _request_snapshot(self, now: float) -> None:
        trusted = self._trusted or self.state is State.COMPLETE
        self._comparable = False
        self._ask(now)
        self._trusted = trusted

    def request_comparison(self, now: float) -> None:
        """Ask to be compared: an administrator wants to know."""
        self._compare_wanted = True
        self._resync_at = now

    # Comparisons

    def _begin_comparison(self) -> None:
        self._doubtful = self.state is not State.COMPLETE
        trusted = self._trusted or not self._doubtful
        self._turn(Event.COMPARE)
        self._trusted = trusted
        self._compare_wanted = False
        self._theirs = bytearray()
        self.store.watch()

    def _add_digests(self, found: Slice, now: float) -> None:
        if self._theirs is None:
            return
        if found.first * DIGEST_SIZE != len(self._theirs):
            self._ask(now)  # they are sent one behind the other
            return
        self._theirs += found.digests
        if len(self._theirs) == DIGEST_SIZE << found.bits:
            self._work = self._compare(found.bits, found.salt, array("I", self._theirs), now)

    def _compare(self, bits: int, salt: bytes, theirs: "array[int]", now: float) -> Iterator[int]:
        """Find what differs.  What an event has touched meanwhile may differ, unless everything is in doubt anyway."""
        ours = Digests(bits)
        for slice_ in self.store.digests(salt):
            ours.add(slice_)
            yield 0
        differing: set[int] = set()
        for found in ours.differing(theirs):
            differing |= found
            yield 0
        touched = self.store.unwatch()
        if not self._doubtful:
            differing -= {bucket_of(key, bits) for key in touched}
        self._theirs = None
        self.compared += 1
        if not differing:
            self._turn(Event.EQUAL)
        elif len(differing) > min(limits.WANTED_MAX, max(1, 1 << bits >> 1)):
            self._request_snapshot(now)
        else:
            self._wanted = Scope(bits, differing)
            self._turn(Event.DIFFERENT)
            self._resync_at = now

    # Snapshots

    def _fill(self) -> Iterator[int]:
        for stale in self.store.sweep():
            self.stale += stale
            yield stale
        self._end_snapshot()

    def _end_snapshot(self) -> None:
        if self.state is not State.FILLING:
            self._turn(Event.END)
        elif self._scope is None:
            self.snapshots += 1
            self._turn(Event.END)
        else:
            self._wanted = self._wanted and self._wanted.without(self._scope)
            self._turn(Event.PART if self._wanted else Event.END)
        self._scope = None

    @property
    def has_work(self) -> bool:
        """Whether there is something for `work` to do."""
        return self._work is not None

    def work(self, now: float) -> bool:
        """Do a slice of what goes through the whole store; whether there may be more."""
        if self._work is None:
            return False
        if next(self._work, None) is None:
            self._work = None
            self._apply_waiting(now)
            if self.heard(now):
                self.was_synced = self.synced(now)
        return self.has_work

    def bodies_to_send(self) -> list[bytes]:
        """Return the bodies to send, in their order, and forget them."""
        bodies, self._bodies = self._bodies, []
        return bodies

    def get_timer(self) -> float:
        """Return when `handle_timer` is to be called (seconds, monotonic)."""
        if self.epoch is None:
            return self._heartbeat_at
        due = self._acknowledgement_due()
        return min(due, self._resync_at) if self._asks else due

    def handle_timer(self, now: float) -> None:
        """Say what is due: acknowledgements, requests for what is missing, a sign of life."""
        if self.epoch is None:
            if now >= self._heartbeat_at:
                self._heartbeat_at = now + limits.HEARTBEAT_S
                self._bodies.append(messages.heartbeat(self.name, "backup", 0, 0))
            return
        if now >= self._acknowledgement_due():
            self._heartbeat_at = now + limits.HEARTBEAT_S
            self._nack_at = now + limits.NACK_S
            self._acknowledge(now)
        if self._asks and now >= self._resync_at:
            self._request(now)

    @property
    def _asks(self) -> bool:
        """Whether something is asked for until it comes: a snapshot, buckets or a comparison."""
        return self.state in (State.ASKING, State.MENDING) or self._compare_wanted

    def _request(self, now: float) -> None:
        assert self.epoch is not None
        if self.state is State.MENDING:
            assert self._wanted is not None
            self._bodies += messages.wants(self.name, self.epoch, self._applied, self._wanted, self._limit)
        else:
            compare = self._comparable or self.state is not State.ASKING
            self._bodies.append(messages.resync(self.name, self.epoch, self._applied, compare=compare))
        self._resync_at = now + limits.RESYNC_RETRY_S

    def _acknowledgement_due(self) -> float:
        if self.missing:
            return self._nack_at
        return self._heartbeat_at if self._applied == self._acked else self._acked_at + limits.ACK_S

    def _acknowledge(self, now: float) -> None:
        assert self.epoch is not None
        self._acked, self._acked_at = self._applied, now
        synced = self.synced(now)
        missing = self._missing()
        self._bodies.append(messages.ack(self.name, self.epoch, self._applied, missing, self._limit, synced=synced))

    def _missing(self) -> list[tuple[int, int]]:
        """The first and last numbers of stretches of frames that have not come."""
        if self._known == self._applied:
            return []
        there = [self._applied, *sorted(self._waiting), self._known + 1]
        return [(before + 1, behind - 1) for before, behind in pairwise(there) if behind > before + 1]

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
        return now - self._heard_at < limits.FRESH_S

    def ready(self, now: float) -> bool:
        """Whether this node may take over; a node that waits for an active that never comes may, too."""
        return self.was_synced or now - max(self._begun_at, self._heard_at) >= limits.READY_S

    def synced(self, now: float) -> bool:
        """Whether the store is the active's table, as far as can be known."""
        whole = self.complete and self._applied >= self._known and self.installed >= self.snapshots
        return whole and (self.heard(now) or self._heard_at == now)

    def why_not(self, now: float) -> str | None:
        """Why the store may not be the active's table; None if this backup is in sync."""
        if self.synced(now):
            return None
        if self.state is State.IDLE:
            return "no active is heard" if self.active_name is None else f"{self.active_name} is active no more"
        if not self.heard(now):
            return f"{self.active_name} was last heard {now - self._heard_at:.1f} s ago"
        if self.state is not State.COMPLETE:
            return WHY_NOT[self.state].format(name=self.active_name)
        if self.installed < self.snapshots:
            return f"what the snapshot of {self.active_name} has brought is on its way into this kernel"
        return f"{self.behind} frames of {self.active_name} are missing, and asked for"

    @property
    def behind(self) -> int:
        """How many frames of the active, as far as is known, are not applied."""
        return self._known - self._applied
