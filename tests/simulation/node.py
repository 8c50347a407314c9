"""A simulated node: the real conversation, roles, protocol and store around a simulated kernel."""

from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random

from ftfw.daemon.engine_driver import Engine
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.flow_filter import compile_filter
from ftfw.replication import messages
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.member import Member
from ftfw.replication.messages import Ack, BodyError
from ftfw.replication.store import Store
from ftfw.security.frames import RefusedError
from ftfw.security.freshness import Freshness, SelfResumed
from tests.simulation import injection
from tests.simulation.injection import HotFollower
from tests.simulation.kernel import Kernel, View, held
from tests.unit.reading import Reader

LIMIT = 700  # bytes of a body: a few messages
INBOX_MAX = 300  # frames that a slow reader's socket holds
COMPARE_S = 2.0


@dataclass
class History:
    """Records what is true and what was said, for the checkers."""

    sealed: dict[bytes, bytes] = field(default_factory=dict)  # frame → epoch
    last_alive: dict[bytes, float] = field(default_factory=dict)  # epoch → when its process last lived
    tables: dict[tuple[bytes, int], View] = field(default_factory=dict)  # epoch, sequence → the table as streamed
    silent: bool = False  # whether anything has changed that nothing tells, and that has to be repaired


def handle_timer(engine: Engine, now: float) -> None:
    """Do what is due, as the daemon's driver does; nothing that is due may be left."""
    if (timer := engine.get_timer()) is not None and timer <= now:
        engine.handle_timer(now)
    timer = engine.get_timer()
    assert timer is None or timer > now, "what is due is done at once"


class Node:
    """`kernel` outlives the process; everything else begins anew with it."""

    def __init__(
        self,
        name: str,
        random: Random,
        history: History,
        kernel: Kernel,
        *,
        keys: list[bytes],
        links: int,
        hot: bool,
    ) -> None:
        self.name = name
        self.kernel = kernel
        self.reasons: Counter[str] = Counter()
        self.overflowed = 0
        self.up = False
        self.slow_until = 0.0
        self._random = random
        self._history = history
        self._links = links
        self._hot = hot
        self.keys = keys

    def start(self, role: str, now: float) -> None:
        """A new process."""
        self.up = True
        self.started_at = now
        self.freshness = Freshness(self.keys, name=self.name, links=self._links, random=self._random.randbytes)
        self.member = Member(self.name)
        self.inbox: deque[tuple[int, bytes]] = deque()
        self.accepted: set[bytes] = set()
        self._kept_for: set[bytes] = set()  # backups' epochs
        if role == "active":
            self.stream(now)
        else:
            self.stand_by(now)

    def crash(self) -> None:
        """The process is gone, and what it had not read with it."""
        self.up = False

    def stream(self, now: float) -> None:
        """Be active: subscribe to the kernel's events, begin a stream."""
        self.kernel.drop_pending()
        replicate = self.kernel.replicate
        selector = Selector(
            passes=compile_filter(replicate),
            expectations=replicate.expectations,
            dropped=Counter(),
            read=self.kernel.get,
        )
        self.freshness.begin_epoch()
        active = Active(
            name=self.name,
            epoch=self.freshness.epoch,
            limit=LIMIT,
            compress=True,
            compare_s=COMPARE_S,
            now=now,
        )
        self.member.begin_role(active)
        self._reader = Reader(active, self.kernel, self._random, selector)

    def stand_by(self, now: float) -> None:
        """Be a backup, with nothing held."""
        self.freshness.begin_epoch()
        self.tampered: set[bytes] = set()  # keys of entries in the store that somebody has changed
        store = Store(journal=self._hot)
        backup = Backup(name=self.name, store=store, limit=LIMIT, now=now, hot=self._hot)
        self.member.begin_role(backup)
        self.follower = HotFollower(self.kernel, backup, self._random) if self._hot else None
        self._purged = False

    def promote(self, now: float) -> None:
        """Put what is held into the kernel, and be active."""
        assert self.member.backup is not None
        backup = self.member.backup
        backup.unfollow()
        if self.follower is not None:
            self.follower.commit()
        else:
            injection.commit(self.kernel, backup.store)
        backup.store.begin_journal()
        while backup.has_last_frames:
            backup.work(now)
        (self.follower or HotFollower(self.kernel, backup, self._random)).commit()
        self.stream(now)

    def take(self, link: int, frame: bytes) -> None:
        """A frame is in the socket's buffer, if there is room."""
        if len(self.inbox) < INBOX_MAX:
            self.inbox.append((link, frame))
        else:
            self.overflowed += 1

    def read(self, now: float) -> None:
        """Read what has come, but for a slow reader."""
        if now < self.slow_until:
            return
        while self.inbox:
            link, frame = self.inbox.popleft()
            try:
                heard = self.freshness.receive(frame, link, now)
                message = messages.unpack(heard.body) if heard is not None else None
            except (RefusedError, BodyError) as refused:
                self.reasons[refused.reason] += 1
                continue
            self._look_at_events(now)
            if heard is None or message is None:
                continue
            self._check_heard(frame, heard.epoch)
            if isinstance(message, Ack):
                self._check_ack(message)
            self.member.receive(heard.epoch, message, now)

    def _look_at_events(self, now: float) -> None:
        while (event := self.freshness.next_event()) is not None:
            if isinstance(event, SelfResumed):
                self._kept_for.clear()
                self.member.begin_epoch(self.freshness.epoch, now)

    def _check_heard(self, frame: bytes, epoch: bytes) -> None:
        assert self._history.sealed.get(frame) == epoch, "a frame was accepted that nobody has sealed"
        assert frame not in self.accepted, "a frame was accepted twice"
        assert self._history.last_alive[epoch] >= self.started_at, (
            "a frame was accepted of an epoch before this process"
        )
        self.accepted.add(frame)

    def _check_ack(self, ack: Ack) -> None:
        if self.member.active is not None and ack.epoch == self.freshness.epoch:
            assert ack.sequence <= self.member.active.sequence, "something was acknowledged that was never sent"

    def work(self, now: float) -> list[bytes]:
        """Do what a process does between reading, and return the frames that it sends."""
        if self.member.active is not None:
            self._work_active(self.member.active, now)
        else:
            assert self.member.backup is not None
            self.member.backup.work(now)
            self._work_on_kernel(self.member.backup)
            handle_timer(self.member, now)
        said = self.member.bodies_to_send()
        if self.member.backup is not None:
            self._check_said(self.member.backup, said)
        handle_timer(self.freshness, now)
        frames = self.freshness.seal([*self.freshness.bodies_to_send(), *said])
        epoch = self.freshness.epoch
        self._history.sealed.update(dict.fromkeys(frames, epoch))
        self._history.last_alive[epoch] = now
        return frames

    def _work_active(self, active: Active, now: float) -> None:
        self._reader.follow(self._random.randrange(1, 60), now)
        handle_timer(self.member, now)
        # What is not sent at once goes out later than events that came after it.
        self._reader.step(now, self._random.randrange(1, 12), send=self._random.random() < 0.5)
        self._history.silent |= self.kernel.was_silent
        if not self.kernel.pending:
            self._history.tables[active.epoch, active.sequence] = self.kernel.view()
        self._check_kept(active, now)

    def _work_on_kernel(self, backup: Backup) -> None:
        """Change a backup's own kernel: keep it equal to the store if hot, and delete what it had before."""
        if self.follower is not None:
            snapshots = backup.snapshots
            if not self.follower.go_on(self._random.randrange(1, 30)):
                return
            backup.installed = snapshots
        if backup.complete and not self._purged:
            store = backup.store
            injection.purge(self.kernel, [*store.plain, *store.rich, *store.expectations] if self._hot else [])
            self._purged = True

    def _check_kept(self, active: Active, now: float) -> None:
        """Check that frames that a backup lacks are kept, unless it was unheard for too long, or they are too many."""
        live = [backup.name for backup in active.live(now)]
        for backup in active.backups.values():
            if backup.name not in live or not backup.follows or active.outrun:
                self._kept_for.discard(backup.epoch)
            elif backup.acked + 1 >= active.oldest:
                self._kept_for.add(backup.epoch)
            else:
                assert backup.epoch not in self._kept_for, "a frame was let go too soon"

    def _check_said(self, backup: Backup, said: list[bytes]) -> None:
        """In sync up to a number means: the store is the active's table as it was told when that number was sent."""
        for message in map(messages.unpack, said):
            if isinstance(message, Ack) and message.synced and message.sequence == backup.applied:
                table = self._history.tables.get((message.epoch, message.sequence))
                wrong = "" if table is None else table.difference(held(backup.store), but=self.tampered)
                assert not wrong, f"in sync with a table that never was: {wrong}"
        if not (self.tampered or self._history.silent):
            assert not backup.store.repaired, "something was repaired that was right"
