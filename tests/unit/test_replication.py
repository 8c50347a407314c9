from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from ftfw.kernel.event_selector import Selector
from ftfw.replication import limits, messages
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.bucket_digests import Digests, Scope, bucket_of
from ftfw.replication.limits import (
    ACK_FRAMES,
    FRESH_S,
    PEER_LOST_S,
    PEERS_MAX,
    READY_S,
    RESYNC_RETRY_S,
    SNAPSHOT_WINDOW,
    STEP_ENTRIES,
)
from ftfw.replication.messages import Ack, Heartbeat, Resync, Stream, Want
from ftfw.replication.state_tables import BackupState as State
from ftfw.replication.state_tables import Reading
from ftfw.replication.store import Store
from tests.unit.conntrack import TCP, UDP, conn
from tests.unit.reading import Reader
from tests.unit.table import Table, alike, held

STEP_S = 0.02
PEER = b"p" * 32  # the epoch under which backups speak
Drop = Callable[[], bool]


def never() -> bool:
    return False


def selector() -> Selector:
    """One that lets everything through."""
    return Selector(passes=None, expectations=True, dropped=Counter())


@dataclass
class Cluster:
    """An active on a toy kernel and its backups; what they send is heard by the others in the next step."""

    table: Table
    names: tuple[str, ...] = ("fw2",)
    drop: Drop = never
    now: float = 100.0
    epochs: int = 0
    backups: dict[str, Backup] = field(default_factory=dict)
    most_under_way: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        self.restart_active()
        for name in self.names:
            self.join(name)

    def restart_active(self) -> None:
        self.epochs += 1
        self.epoch = bytes((self.epochs,)) * 32
        self.active = Active(name="fw1", epoch=self.epoch, limit=400, compress=False, compare_s=60.0, now=self.now)
        self.table.drop_pending()
        self.reader = Reader(self.active, self.table, Random(self.epochs), selector())

    def join(self, name: str) -> None:
        self.backups[name] = Backup(name=name, store=Store(), limit=400, now=self.now)

    def step(self) -> None:
        self.now += STEP_S
        self.reader.follow(1000, self.now)
        self.active.handle_timer(self.now)
        self.reader.step(self.now, 4)
        sent = self.active.bodies_to_send()
        for name, backup in self.backups.items():
            for body in sent:
                self._to_backup(backup, body)
            work(backup, self.now)
            backup.handle_timer(self.now)
            for body in backup.bodies_to_send():
                self._to_active(body)
            assert name == backup.name

    def _to_backup(self, backup: Backup, body: bytes) -> None:
        if self.drop():
            return
        message = messages.unpack(body)
        assert isinstance(message, Stream | Heartbeat)
        if isinstance(message, Heartbeat) or backup.epoch == self.epoch:
            backup.receive(self.epoch, message, self.now)

    def _to_active(self, body: bytes) -> None:
        if self.drop():
            return
        message = messages.unpack(body)
        assert isinstance(message, Ack | Resync | Want | Heartbeat)
        self.requests += isinstance(message, Resync)
        self.active.receive(message.name.encode(), message, self.now)

    def settle(self) -> None:
        """Let everything come to rest; `drop` is over."""
        self.drop = never
        for _ in range(150):
            self.step()

    def assert_equal(self, note: str = "") -> None:
        for name, backup in self.backups.items():
            assert alike(held(backup.store)) == alike(self.table.expected()), f"{name} {note}"
            assert backup.synced(self.now), note
            assert not backup.store.dropped
        assert self.active.synced(self.now) is (True if self.backups else None)


def cluster(seed: int = 1, *, entries: int = 20, names: tuple[str, ...] = ("fw2",)) -> Cluster:
    table = Table(Random(seed))
    for _ in range(entries):
        table.change()
    return Cluster(table, names)


# Convergence


@pytest.mark.parametrize("block", range(6))
def test_whatever_is_lost_backups_converge(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        random = Random(seed)
        made = cluster(seed, entries=random.randrange(30), names=("fw2", "fw3"))
        made.drop = lambda random=random: random.random() < 0.1  # type: ignore[misc]
        for _ in range(random.randrange(60, 150)):
            if random.random() < 0.4:
                made.table.change()
            event = random.random()
            if event < 0.01:
                made.restart_active()
            elif event < 0.02:
                made.join("fw3")  # begins anew, with nothing
            elif event < 0.03:
                made.table.drop_pending()
                made.active.lose(made.now)
            elif event < 0.04:
                made.backups["fw2"].request_snapshot(made.now)
            made.step()
        made.settle()
        made.assert_equal(f"seed {seed}")


def test_a_single_lost_frame_is_sent_again_and_costs_no_snapshot() -> None:
    made = cluster()
    made.settle()
    backup = made.backups["fw2"]
    lost: list[bytes] = []
    made.drop = lambda: not lost and not lost.append(b"")  # type: ignore[func-returns-value]
    made.table.change()
    made.step()
    assert lost
    made.settle()
    assert (backup.gaps, backup.snapshots) == (0, 1)
    assert made.active.resent == 1
    made.assert_equal()


def test_the_last_frame_lost_is_noticed_by_the_heartbeat() -> None:
    made = cluster()
    made.settle()
    made.table.change()
    made.reader.follow(1000, made.now)
    made.active.bodies_to_send()
    made.settle()
    assert (made.active.resent, made.backups["fw2"].gaps) == (1, 0)
    made.assert_equal()


def test_what_cannot_be_sent_again_costs_one_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEPT_BYTES", 2000)
    made = cluster(names=("fw2", "fw3"))
    made.settle()
    deaf = made.backups.pop("fw3")
    for _ in range(50):
        made.table.change()
        made.step()
    made.backups["fw3"] = deaf
    assert made.active.outrun
    made.settle()
    assert (deaf.gaps, deaf.snapshots) == (1, 2)
    assert made.backups["fw2"].snapshots == 1
    made.assert_equal()


def test_a_late_joiner_gets_the_whole_table_and_others_take_nothing_from_its_snapshot() -> None:
    made = cluster()
    made.settle()
    made.join("fw3")
    made.settle()
    made.assert_equal()
    assert made.backups["fw2"].snapshots == made.backups["fw3"].snapshots == 1


def test_a_restarted_active_is_followed_and_what_ended_meanwhile_goes() -> None:
    made = cluster()
    made.settle()
    gone = next(iter(made.table.rows))
    del made.table.rows[gone]
    made.restart_active()
    backup = made.backups["fw2"]
    for _ in range(3):
        made.step()
        assert gone in held(backup.store) or backup.complete  # until the snapshot is complete it stays
    made.settle()
    made.assert_equal()
    assert backup.stale == 1
    assert backup.gaps == 0


def test_after_an_overrun_every_backup_takes_the_snapshot() -> None:
    made = cluster(names=("fw2", "fw3"))
    made.settle()
    for _ in range(5):
        made.table.change()
    made.table.drop_pending()
    made.active.lose(made.now)
    made.settle()
    made.assert_equal()
    assert [backup.snapshots for backup in made.backups.values()] == [2, 2]


def test_a_snapshot_during_which_events_were_lost_makes_nobody_in_sync() -> None:
    made = cluster()
    backup = made.backups["fw2"]
    while not made.reader.is_reading():
        made.step()
    made.active.lose(made.now)
    while made.reader.is_reading():
        made.step()
        assert not backup.complete
    made.settle()
    made.assert_equal()
    assert backup.snapshots == 1


# Comparisons


@pytest.fixture
def fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bucket for each entry, so that small tables can differ in few of many."""
    monkeypatch.setattr(limits, "BUCKET_ENTRIES", 1)
    monkeypatch.setattr(limits, "BUCKETS_MAX", 2)


@pytest.mark.usefixtures("fine")
def test_what_was_lost_is_mended_without_a_snapshot() -> None:
    made = cluster(entries=60, names=("fw2", "fw3"))
    made.settle()
    for _ in range(5):
        made.table.change()
    made.table.drop_pending()
    made.active.lose(made.now)
    made.settle()
    made.assert_equal()
    for backup in made.backups.values():
        assert (backup.snapshots, backup.compared) == (1, 1)
        assert not backup.store.repaired  # nobody had said that it was right


@pytest.mark.usefixtures("fine")
def test_a_restarted_active_with_nearly_the_same_table_costs_no_snapshot() -> None:
    made = cluster(entries=60)
    made.settle()
    made.table.change()
    made.restart_active()
    made.settle()
    made.assert_equal()
    assert (made.backups["fw2"].snapshots, made.backups["fw2"].compared) == (1, 1)


@pytest.mark.usefixtures("fine")
def test_the_interval_finds_what_no_event_told_and_counts_it_once() -> None:
    made = cluster(entries=60, names=("fw2", "fw3"))
    made.settle()
    store = made.backups["fw2"].store
    gone, changed = list(held(store))[:2]
    store._remove(gone)
    store._hold(changed, conn(replace(UDP, source_port=77)).held())
    store.apply([conn(replace(UDP, source_port=78)).new()])
    assert made.backups["fw2"].synced(made.now)  # as far as can be known
    for _ in range(int(65 / STEP_S)):
        made.step()
    made.assert_equal()
    assert store.repaired == {"missing": 1, "different": 1, "stale": 1}
    assert not made.backups["fw3"].store.repaired
    assert [backup.compared for backup in made.backups.values()] == [1, 1]


@pytest.mark.usefixtures("fine")
def test_a_comparison_on_demand_is_asked_for_until_it_is_heard() -> None:
    made = cluster(entries=60)
    made.settle()
    backup = made.backups["fw2"]
    made.drop = lambda: True
    backup.request_compare(made.now)
    made.step()
    made.drop = never
    for _ in range(50):
        made.step()
    assert (backup.compared, backup.snapshots) == (1, 1)


@pytest.mark.usefixtures("fine")
def test_what_events_touch_during_a_comparison_is_no_difference() -> None:
    made = cluster(entries=60)
    made.settle()
    backup = made.backups["fw2"]
    for _ in range(3):
        backup.request_compare(made.now)
        while not made.reader.is_reading():
            made.step()
        while made.reader.is_reading():
            made.table.change()
            made.step()
            assert backup.complete
        made.settle()
    made.assert_equal()
    assert (backup.snapshots, backup.compared) == (1, 3)
    assert not backup.store.repaired


def test_a_backup_that_differs_too_much_takes_everything() -> None:
    backup = followed()
    complete(backup, conn().full())
    digests = Digests(4)
    digests.add((conn(replace(UDP, source_port=port)).key, 1 << port % 32) for port in range(64))
    backup.receive(b"e" * 32, frame(messages.COMPARE, 4), 0.0)
    receive_digests(backup, digests)
    assert state_of(backup) is State.ASKING
    [asked] = [message for message in said(backup, 0.0) if isinstance(message, Resync)]
    assert not asked.compare


def test_a_backup_asks_to_be_compared_with_the_active_it_knows_and_with_no_other() -> None:
    backup = followed()
    complete(backup, conn().full())
    for name, compare in (("fw1", True), ("fw9", False)):
        backup.receive(name.encode() * 8, replace(heartbeat(0), name=name), 0.0)
        [asked] = [message for message in said(backup, 0.0) if isinstance(message, Resync)]
        assert asked.compare is compare


def test_the_end_of_a_scope_will_do_where_its_beginning_was_lost() -> None:
    """What is in no bucket that was named stays as it is: it is not known to be gone."""
    backup = followed()
    complete(backup, conn(TCP).full(), conn(UDP).full())
    own = Digests(8)
    for slice_ in backup.store.digests(SALT):
        own.add((key, digest ^ 1) for key, digest in slice_)
    backup.receive(b"e" * 32, frame(messages.COMPARE, 4), 0.0)
    receive_digests(backup, own)
    assert state_of(backup) is State.REPAIRING
    [*_, wanted] = said(backup, 0.0)
    assert isinstance(wanted, Want)
    assert len(wanted.scope.buckets) == 2
    one = Scope(8, {bucket_of(conn(TCP).key, 8)})
    piece = messages.unpack(messages.stream(messages.SCOPE, backup._applied + 1, 0, next(messages.scopes(one, 400))))
    assert isinstance(piece, Stream)
    backup.receive(b"e" * 32, piece, 0.0)
    assert state_of(backup) is State.FILLING
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_END, backup._applied + 1), 0.0)
    work(backup)
    assert state_of(backup) is State.REPAIRING
    assert set(held(backup.store)) == {conn(UDP).key}


@pytest.mark.parametrize("first", [0, 2, 8])
def test_digests_that_are_not_the_next_ones_are_no_comparison(first: int) -> None:
    backup = followed()
    complete(backup, conn().full())
    backup.receive(b"e" * 32, frame(messages.COMPARE, 4), 0.0)
    for number, begin in ((5, 0), (6, first)):
        found = messages.Slice(SALT, 4, begin, bytes(4))
        backup.receive(b"e" * 32, Stream(messages.DIGESTS, number, [], found), 0.0)
    assert state_of(backup) is State.ASKING


def test_a_scope_of_more_buckets_than_anybody_wants_is_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WANTED_MAX", 3)
    backup = followed()
    complete(backup, conn().full())
    for number, expected in enumerate((State.COMPLETE, State.ASKING)):
        scope = Scope(4, {2 * number, 2 * number + 1})
        piece = Stream(messages.SCOPE, backup._applied + 1, [], messages.Piece(scope, 9))
        backup.receive(b"e" * 32, piece, 0.0)
        assert state_of(backup) is expected


@pytest.mark.parametrize("entries", [0, 1, 5])
def test_in_a_small_table_what_is_wrong_is_counted_too(entries: int) -> None:
    made = cluster(entries=entries)
    made.settle()
    backup = made.backups["fw2"]
    backup.store.apply([conn(replace(UDP, source_port=78)).new()])
    backup.request_compare(made.now)
    made.settle()
    made.assert_equal()
    assert backup.store.repaired == {"stale": 1}


def test_what_takes_a_whole_snapshot_to_repair_is_counted_too() -> None:
    made = cluster(entries=200)
    made.settle()
    backup = made.backups["fw2"]
    gone = len(held(backup.store))
    for key in held(backup.store):
        backup.store._remove(key)
    backup.request_compare(made.now)
    made.settle()
    made.assert_equal()
    assert backup.snapshots == 2
    assert backup.store.repaired == {"missing": gone}


@pytest.mark.usefixtures("fine")
def test_a_comparison_while_buckets_are_wanted_keeps_account() -> None:
    made = cluster(entries=60)
    made.settle()
    backup = made.backups["fw2"]
    backup.store._remove(next(iter(held(backup.store))))
    backup.request_compare(made.now)
    while backup.state is not State.REPAIRING:
        made.step()
    backup.bodies_to_send()
    made.drop = lambda: True
    backup.request_compare(made.now)
    backup.handle_timer(made.now)
    assert any(isinstance(messages.unpack(body), Want) for body in backup.bodies_to_send())
    made.settle()
    made.assert_equal()
    assert backup.store.repaired == {"missing": 1}


def test_an_administrator_on_the_active_has_everything_sent_again() -> None:
    made = cluster(names=("fw2", "fw3"))
    made.settle()
    made.active.resync_backups(made.now)
    made.settle()
    made.assert_equal()
    assert [backup.snapshots for backup in made.backups.values()] == [2, 2]


def test_a_snapshot_for_one_backup_takes_no_comparison_from_another() -> None:
    active = begun()
    active.receive(PEER, Resync(name="fw2", epoch=active.epoch, sequence=0, compare=True), 0.0)
    active.receive(PEER, Resync(name="fw3", epoch=active.epoch, sequence=0, compare=False), 0.0)
    assert active.begin_snapshot(0.0) is None
    active.end_snapshot(0.0)
    assert active.wanted(0.0) is Reading.COMPARE


def sweeping(count: int) -> Backup:
    """A backup that holds so many flows that the end of a snapshot, which has none, takes more than one slice."""
    backup = followed()
    complete(backup, *(conn(replace(UDP, source_port=port)).full() for port in range(count)))
    backup.request_snapshot(0.0)
    for kind in (messages.SNAPSHOT_BEGIN, messages.SNAPSHOT_END):
        backup.receive(b"e" * 32, frame(kind, backup._applied + 1), 0.0)
    assert backup.work(0.0)
    assert 0 < backup.store.flow_count() < count
    return backup


def test_frames_that_build_on_a_sweep_wait_for_it_and_events_do_not() -> None:
    backup = sweeping(STEP_ENTRIES + 5)
    first = backup._applied
    backup.receive(b"e" * 32, frame(messages.EVENTS, first + 1, conn(TCP).new()), 0.0)
    backup.receive(b"e" * 32, frame(messages.COMPARE, first + 2), 0.0)
    backup.receive(b"e" * 32, frame(messages.EVENTS, first + 3, conn(UDP).new()), 0.0)
    assert (backup._applied, backup.has_work) == (first + 1, True)
    assert backup.why_not(0.0) == "a snapshot of fw1 is coming in"
    work(backup)
    assert backup._applied == first + 3
    assert set(held(backup.store)) == {conn(TCP).key, conn(UDP).key}
    assert backup.synced(0.0)


def test_a_loss_ends_what_is_being_worked_on_at_once() -> None:
    backup = sweeping(STEP_ENTRIES + 5)
    backup.receive(b"e" * 32, frame(messages.LOST, backup._applied + 1), 0.0)
    assert not backup.has_work
    assert state_of(backup) is State.ASKING


def test_what_waited_for_a_sweep_goes_on_when_an_administrator_has_ended_it() -> None:
    backup = sweeping(STEP_ENTRIES + 5)
    first = backup._applied
    backup.receive(b"e" * 32, frame(messages.COMPARE, first + 1), 0.0)
    backup.receive(b"e" * 32, frame(messages.EVENTS, first + 2, conn(TCP).new()), 0.0)
    backup.request_snapshot(0.0)
    work(backup)
    assert backup.behind == 0
    assert conn(TCP).key in held(backup.store)


def test_who_takes_over_during_a_sweep_takes_nothing_that_was_gone() -> None:
    backup = sweeping(STEP_ENTRIES + 5)
    backup.unfollow()
    work(backup)
    assert backup.store.flow_count() == 0


@pytest.mark.parametrize("limit", [468, 1400])
def test_requests_respect_the_limit(limit: int) -> None:
    name, epoch, most = "n" * 64, b"e" * 32, (1 << 64) - 1
    missing = [(most - 2 * n - 1, most - 2 * n) for n in range(100)]
    scope = Scope(20, set(range((1 << 20) - 1000, 1 << 20)))
    bodies = [
        messages.ack(name, epoch, most, missing, limit, synced=True),
        *messages.wants(name, epoch, most, scope, limit),
    ]
    bodies += [messages.stream(messages.SCOPE, most, 0, blob) for blob in messages.scopes(scope, limit)]
    assert max(map(len, bodies)) <= limit
    named = [messages.unpack(body) for body in bodies]
    assert sum(len(found.scope.buckets) for found in named if isinstance(found, Want)) == 1000


SALT = bytes(16)


def state_of(backup: Backup) -> State:
    return backup.state


def receive_digests(backup: Backup, digests: Digests) -> None:
    for blob in messages.slices(digests, SALT, 400):
        found = messages.unpack(messages.stream(messages.DIGESTS, backup._applied + 1, 0, blob))
        assert isinstance(found, Stream)
        backup.receive(b"e" * 32, found, 0.0)
    work(backup)


# The active


def begun(now: float = 0.0, *, limit: int = 1400) -> Active:
    return Active(name="fw1", epoch=b"e" * 32, limit=limit, compress=False, compare_s=60.0, now=now)


def ack(
    sequence: int,
    *missing: tuple[int, int],
    name: str = "fw2",
    epoch: bytes = b"e" * 32,
    synced: bool = True,
) -> Ack:
    return Ack(name=name, epoch=epoch, sequence=sequence, missing=list(missing), synced=synced)


def test_no_more_than_a_window_of_a_snapshot_is_under_way_to_a_live_backup() -> None:
    active = begun()
    active.receive(PEER, ack(0), 0.0)
    active.begin_snapshot(0.0)
    sent = 0
    while active.may_snapshot(0.0):
        active.add_snapshot([[conn().full()]], 0.0)
        sent += 1
        assert sent <= SNAPSHOT_WINDOW
    assert active.sequence == SNAPSHOT_WINDOW
    active.receive(PEER, ack(1), 0.0)
    assert active.may_snapshot(0.0)
    active.add_snapshot([[conn().full()]], 0.0)
    assert not active.may_snapshot(0.0)


def test_the_slowest_live_backup_counts_and_one_that_vanished_does_not() -> None:
    active = begun()
    active.receive(PEER, ack(0, name="slow"), 0.0)
    active.receive(PEER, ack(0), 0.0)
    for _ in range(SNAPSHOT_WINDOW):
        active.add_snapshot([[conn().full()]], 0.0)
    active.receive(PEER, ack(SNAPSHOT_WINDOW), 1.0)
    assert not active.may_snapshot(1.0)
    active.receive(PEER, ack(SNAPSHOT_WINDOW), PEER_LOST_S)
    assert [backup.name for backup in active.live(PEER_LOST_S)] == ["fw2"]
    assert active.may_snapshot(PEER_LOST_S)


def test_whoever_follows_another_active_or_nobody_holds_no_snapshot_up() -> None:
    active = begun()
    active.receive(PEER, ack(0), 0.0)
    for _ in range(SNAPSHOT_WINDOW):
        active.add_snapshot([[conn().full()]], 0.0)
    active.receive(PEER, ack(SNAPSHOT_WINDOW), 0.0)
    active.receive(PEER, ack(9, name="fw3", epoch=b"x" * 32), 0.0)
    active.receive(
        PEER, Heartbeat(name="fw4", role="backup", byte_order="little", sequence=0, oldest=0, version="1"), 0.0
    )
    assert len(active.live(0.0)) == 3
    assert active.may_snapshot(0.0)
    assert active.synced(0.0) is False
    active.receive(PEER, Resync(name="fw3", epoch=active.epoch, sequence=0, compare=False), 0.0)
    assert not active.may_snapshot(0.0)


def test_a_backup_that_turns_to_another_active_or_starts_anew_is_not_in_sync_any_more() -> None:
    for turn in (
        ack(9, epoch=b"x" * 32),
        Heartbeat(name="fw2", role="backup", byte_order="little", sequence=0, oldest=0, version="1"),
        Resync(name="fw2", epoch=b"x" * 32, sequence=0, compare=False),
    ):
        active = begun()
        active.receive(PEER, ack(0), 0.0)
        assert active.synced(0.0) is True
        active.receive(PEER, turn, 0.0)
        assert active.synced(0.0) is False
        assert active.wanted(0.0) is Reading.NOTHING


def test_an_active_is_in_sync_when_every_live_backup_is() -> None:
    active = begun()
    assert active.synced(0.0) is None
    active.receive(PEER, ack(0), 0.0)
    assert active.synced(0.0) is True
    active.receive(PEER, ack(0, name="fw3", synced=False), 1.0)
    assert active.synced(1.0) is False
    active.receive(PEER, ack(0), PEER_LOST_S + 1.0)
    assert active.synced(PEER_LOST_S + 1.0) is True
    assert active.synced(3 * PEER_LOST_S) is None


def test_acknowledgements_of_another_epoch_and_of_the_future_count_for_nothing() -> None:
    active = begun()
    active.offer([[conn().new()]], 0.0)
    active.receive(PEER, ack(1, epoch=b"x" * 32), 0.0)
    assert active.backups["fw2"].acked == 0
    assert not active.backups["fw2"].synced
    active.receive(PEER, ack(2), 0.0)
    assert active.backups["fw2"].acked == 0
    active.receive(PEER, ack(1), 0.0)
    active.receive(PEER, ack(0), 0.0)
    assert active.backups["fw2"].acked == 1


def test_lag_is_the_age_of_the_first_frame_that_is_not_acknowledged() -> None:
    active = begun()
    active.receive(PEER, ack(0), 0.0)
    backup = active.backups["fw2"]
    assert active.lag_s(backup, 0.5) == 0.0
    for now in (1.0, 2.0, 3.0):
        active.offer([[conn().new()]], now)
    assert active.lag_s(backup, 3.0) == 2.0
    active.receive(PEER, ack(2), 3.5)
    assert active.lag_s(backup, 3.5) == 0.5
    assert active.lag_s(backup, 4.5) == 1.5  # it grows while nothing comes
    active.receive(PEER, ack(3), 5.0)
    assert active.lag_s(backup, 9.0) == 0.0


def test_a_backup_that_went_silent_is_soon_not_in_sync() -> None:
    active = begun()
    active.receive(PEER, ack(0), 0.0)
    active.offer([[conn().new()]], 0.0)
    assert active.synced(0.5) is True
    assert active.synced(limits.FRESH_S) is False


def test_a_backup_that_was_started_again_counts_from_where_it_begins() -> None:
    active = begun()
    for _ in range(5):
        active.offer([[conn().new()]], 0.0)
    active.receive(PEER, ack(5), 0.0)
    assert active.backups["fw2"].acked == 5
    active.receive(b"n" * 32, Resync(name="fw2", epoch=active.epoch, sequence=3, compare=False), 0.1)
    assert active.backups["fw2"].acked == 3
    assert not active.backups["fw2"].synced


def test_frames_are_kept_until_every_live_backup_has_them() -> None:
    active = begun()
    for name in ("fw2", "fw3"):
        active.receive(PEER, ack(0, name=name), 0.0)
    for _ in range(5):
        active.offer([[conn().new()]], 0.0)
    active.receive(PEER, ack(4), 0.1)
    active.receive(PEER, ack(2, name="fw3"), 0.1)
    active.handle_timer(0.1)
    assert active.oldest == 3
    active.receive(PEER, ack(5), PEER_LOST_S + 1)
    active.handle_timer(PEER_LOST_S + 1)  # fw3 is lost, and holds nobody up
    assert active.oldest == 6


def test_a_frame_is_sent_again_as_it_was_but_not_twice_in_a_moment() -> None:
    active = begun()
    for name in ("fw2", "fw3"):
        active.receive(PEER, ack(0, name=name), 0.0)
    for _ in range(5):
        active.offer([[conn().new()]], 0.0)
    sent = active.bodies_to_send()
    active.receive(PEER, ack(1, (2, 2), (4, 4)), 0.1)
    active.receive(PEER, ack(1, (2, 4), name="fw3"), 0.1)
    assert active.bodies_to_send() == [sent[1], sent[3], sent[2]]
    active.receive(PEER, ack(1, (0, 1 << 62)), 0.1 + limits.RESEND_S / 2)
    assert active.bodies_to_send() == [sent[0], sent[4]]


def test_each_frame_is_looked_at_once_for_an_acknowledgement_however_often_it_names_it() -> None:
    active = begun()
    active.receive(PEER, ack(0), 0.0)
    for _ in range(5):
        active.offer([[conn().new()]], 0.0)
    looked: list[int] = []

    class Kept(dict[int, Any]):
        def __getitem__(self, number: int) -> Any:
            looked.append(number)
            return super().__getitem__(number)

    active._kept = Kept(active._kept)
    active.receive(PEER, ack(0, *[(-(1 << 63), (1 << 64) - 1)] * 1000), 0.0)
    assert looked == [1, 2, 3, 4, 5]


def test_a_bounded_number_of_backups_is_remembered_those_heard_last() -> None:
    active = begun()
    for number in range(PEERS_MAX):
        active.receive(PEER, ack(0, name=f"fw{number}"), 0.0)
    active.receive(PEER, ack(0, name="fw0"), 0.0)
    active.receive(PEER, ack(0, name="another"), 0.0)
    assert len(active.backups) == PEERS_MAX
    assert active.backups.keys() >= {"fw0", "another"}


def test_who_want_too_many_buckets_get_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WANTED_MAX", 3)
    active = begun()
    for number in range(3):
        scope = Scope(4, {2 * number, 2 * number + 1})
        active.receive(PEER, Want(name="fw2", epoch=b"e" * 32, sequence=0, scope=scope), 0.0)
        assert active.wanted(0.0) is Reading.SNAPSHOT
    assert active.begin_snapshot(0.0) is None
    assert active.wanted(0.0) is Reading.NOTHING


def test_only_a_request_for_this_epoch_starts_a_snapshot() -> None:
    other = begun()
    other.receive(PEER, Resync(name="fw2", epoch=b"x" * 32, sequence=0, compare=False), 0.0)
    assert other.wanted(0.0) is Reading.NOTHING
    active = begun()
    active.receive(PEER, ack(0), 0.0)
    active.receive(PEER, Resync(name="fw2", epoch=b"e" * 32, sequence=0, compare=False), 0.0)
    assert active.wanted(0.0) is Reading.SNAPSHOT
    assert active.synced(0.0) is False


def test_a_snapshot_that_begins_answers_all_requests_so_far() -> None:
    active = begun()
    active.receive(PEER, Resync(name="fw2", epoch=b"e" * 32, sequence=0, compare=False), 0.0)
    active.begin_snapshot(0.0)
    assert active.wanted(0.0) is Reading.NOTHING


def test_an_actives_heartbeat_says_how_far_the_stream_is() -> None:
    active = begun()
    active.offer([[conn().new()]] * 50, 0.0)
    stream = [messages.unpack(body) for body in active.bodies_to_send()]
    assert [m.sequence for m in stream if isinstance(m, Stream)] == list(range(1, active.sequence + 1))
    active.handle_timer(0.0)
    active.handle_timer(limits.HEARTBEAT_S / 2)
    [body] = active.bodies_to_send()
    heartbeat = messages.unpack(body)
    assert isinstance(heartbeat, Heartbeat)
    assert (heartbeat.name, heartbeat.role, heartbeat.sequence) == ("fw1", "active", active.sequence)
    active.handle_timer(limits.HEARTBEAT_S)
    assert len(active.bodies_to_send()) == 1


# The backup


def followed(now: float = 0.0) -> Backup:
    backup = Backup(name="fw2", store=Store(), limit=400, now=now)
    backup.receive(b"e" * 32, heartbeat(0), now)
    return backup


def test_a_hot_backup_is_in_sync_when_its_kernel_has_the_snapshot_too() -> None:
    backup = Backup(name="fw2", store=Store(), limit=400, now=0.0, hot=True)
    backup.receive(b"e" * 32, heartbeat(0), 0.0)
    for number, kind in enumerate((messages.SNAPSHOT_BEGIN, messages.SNAPSHOT_END), start=1):
        backup.receive(b"e" * 32, frame(kind, number), 0.0)
    work(backup, 0.0)
    assert backup.complete
    assert not backup.synced(0.0)
    assert "of fw1 is being put into this kernel" in str(backup.why_not(0.0))
    backup.installed = backup.snapshots
    assert backup.synced(0.0)


def heartbeat(sequence: int, oldest: int = 1) -> Heartbeat:
    return Heartbeat(name="fw1", role="active", byte_order="little", sequence=sequence, oldest=oldest, version="1")


def frame(kind: int, sequence: int, *parts: bytes) -> Stream:
    return Stream(kind=kind, sequence=sequence, parts=[list(parts)])


def complete(backup: Backup, *parts: bytes, now: float = 0.0) -> None:
    for kind, content in ((messages.SNAPSHOT_BEGIN, ()), (messages.SNAPSHOT_PART, parts), (messages.SNAPSHOT_END, ())):
        backup.receive(b"e" * 32, frame(kind, backup._applied + 1, *content), now)
    work(backup, now)


def work(backup: Backup, now: float = 0.0) -> None:
    while backup.work(now):
        pass


def said(backup: Backup, now: float) -> list[messages.Message]:
    backup.handle_timer(now)
    return [messages.unpack(body) for body in backup.bodies_to_send()]


def test_a_backup_is_in_sync_once_the_snapshot_is_complete_and_while_the_active_is_heard() -> None:
    backup = followed()
    assert not backup.synced(0.0)
    complete(backup, conn().full())
    assert backup.complete
    assert backup.synced(0.0)
    assert backup.synced(FRESH_S - 0.01)
    assert not backup.synced(FRESH_S)
    assert backup.was_synced  # when the active was last heard: a survivor may take over
    backup.receive(b"e" * 32, heartbeat(backup._applied), 5.0)
    assert backup.synced(5.0)


def test_a_backup_that_has_heard_no_active_for_long_is_ready_whatever_it_holds() -> None:
    backup = Backup(name="fw2", store=Store(), limit=400, now=5.0)
    assert not backup.ready(5.0 + READY_S - 0.01)
    assert backup.ready(5.0 + READY_S)
    backup.receive(b"e" * 32, heartbeat(1), 20.0)
    assert not backup.ready(20.0)  # there is an active, and it has more
    assert backup.ready(20.0 + READY_S)
    complete(backup, now=40.0)
    assert backup.ready(40.0)


def test_a_heartbeat_that_announces_more_than_came_ends_sync_and_asks_for_it() -> None:
    backup = followed()
    complete(backup)
    backup.receive(b"e" * 32, heartbeat(6), 0.0)
    assert not backup.synced(0.0)
    assert not backup.was_synced
    [asked] = said(backup, 0.0)
    assert isinstance(asked, Ack)
    assert (asked.sequence, asked.missing, asked.synced) == (3, [(4, 6)], False)
    assert said(backup, 0.001) == []
    assert len(said(backup, 0.001 + limits.NACK_S)) == 1


def test_a_backup_says_why_it_is_not_in_sync() -> None:
    backup = Backup(name="fw2", store=Store(), limit=400, now=0.0)
    assert backup.why_not(0.0) == "no active is heard"
    backup.receive(b"e" * 32, heartbeat(0), 0.0)
    assert backup.why_not(0.0) == "a snapshot or a compare is asked for; fw1 has not begun one yet"
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_BEGIN, 1), 0.0)
    assert backup.why_not(0.0) == "a snapshot of fw1 is coming in"
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_END, 2), 0.0)
    work(backup)
    assert backup.why_not(0.0) is None
    backup.receive(b"e" * 32, heartbeat(5), 0.0)
    assert backup.why_not(0.0) == "3 frames of fw1 are missing, and asked for"
    assert backup.why_not(2.5) == "fw1 was last heard 2.5 s ago"
    backup.unfollow()
    assert backup.why_not(2.5) == "fw1 is active no more"


def test_an_active_names_the_backups_that_are_not_in_sync() -> None:
    active = begun()
    assert active.why_not(0.0) is None
    active.receive(PEER, ack(0), 0.0)
    active.receive(PEER, ack(0, name="fw3", synced=False), 0.0)
    assert active.why_not(0.0) == "not in sync: fw3"
    assert active.why_not(2.0) == "not in sync: fw2, fw3"
    assert active.why_not(PEER_LOST_S) is None


def test_what_the_active_has_no_more_is_not_waited_for() -> None:
    backup = followed()
    complete(backup)
    backup.receive(b"e" * 32, frame(messages.EVENTS, 6, conn(UDP).new()), 0.0)
    assert backup.store.flow_count() == 0
    backup.receive(b"e" * 32, heartbeat(6, oldest=6), 0.0)
    assert backup.gaps == 1
    assert set(held(backup.store)) == {conn(UDP).key}
    assert any(isinstance(message, Resync) for message in said(backup, 0.0))


def test_frames_behind_a_gap_wait_and_come_in_their_order() -> None:
    backup = followed()
    complete(backup)
    backup.receive(b"e" * 32, frame(messages.EVENTS, 6, conn().destroy()), 0.0)
    backup.receive(b"e" * 32, frame(messages.EVENTS, 5, conn().new()), 0.0)
    [asked] = said(backup, 0.0)
    assert isinstance(asked, Ack)
    assert asked.missing == [(4, 4)]
    backup.receive(b"e" * 32, frame(messages.EVENTS, 4, conn(UDP).new()), 0.0)
    work(backup)
    assert set(held(backup.store)) == {conn(UDP).key}
    assert backup.synced(0.0)
    assert backup.gaps == 0


def test_too_much_behind_a_gap_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAITING_FRAMES", 3)
    backup = followed()
    complete(backup)
    for sequence in range(5, 9):
        backup.receive(b"e" * 32, frame(messages.EVENTS, sequence, conn(UDP).new()), 0.0)
    assert backup.gaps == 1
    assert set(held(backup.store)) == {conn(UDP).key}
    assert not backup.synced(0.0)


def test_nor_are_few_frames_that_unpack_to_much(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [frame(messages.EVENTS, sequence, *[conn(UDP).new()] * 10) for sequence in range(5, 11)]
    monkeypatch.setattr(limits, "WAITING_BYTES", 3 * waiting[0].memory)
    backup = followed()
    complete(backup)
    for each in waiting[:3]:
        backup.receive(b"e" * 32, each, 0.0)
    assert (backup.gaps, backup.behind) == (0, 4)
    backup.receive(b"e" * 32, waiting[3], 0.0)
    work(backup)
    assert (backup.gaps, backup.behind) == (1, 0)
    for each in waiting[5:]:
        backup.receive(b"e" * 32, each, 0.0)
    assert (backup.gaps, backup.behind) == (1, 2)  # there is room again


def test_who_takes_over_takes_what_waits_behind_a_gap() -> None:
    backup = followed()
    complete(backup)
    backup.receive(b"e" * 32, frame(messages.EVENTS, 9, conn(UDP).new()), 0.0)
    backup.unfollow()
    work(backup)
    assert set(held(backup.store)) == {conn(UDP).key}


def test_frames_that_come_again_or_too_late_change_nothing() -> None:
    backup = followed()
    complete(backup)
    backup.receive(b"e" * 32, frame(messages.EVENTS, 4, conn().new()), 0.0)
    backup.receive(b"e" * 32, frame(messages.EVENTS, 5, conn().destroy()), 0.0)
    backup.receive(b"e" * 32, frame(messages.EVENTS, 4, conn().new()), 0.0)
    assert backup.store.flow_count() == 0
    assert backup.gaps == 0


def test_a_gap_within_a_snapshot_that_cannot_be_filled_aborts_it_and_asks_at_once() -> None:
    backup = followed()
    said(backup, 0.0)
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_BEGIN, 1), 0.01)
    assert not any(isinstance(message, Resync) for message in said(backup, 10.0))  # it is under way
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_PART, 3, conn().full()), 10.0)
    backup.receive(b"e" * 32, heartbeat(3, oldest=3), 10.0)
    assert not backup.store.in_snapshot
    assert any(isinstance(message, Resync) for message in said(backup, 10.0))
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_END, 4), 10.0)
    assert not backup.complete


def test_the_end_of_a_snapshot_behind_a_gap_takes_nothing_away() -> None:
    backup = followed()
    complete(backup, conn(TCP).full(), conn(UDP).full())
    backup.request_snapshot(0.0)
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_BEGIN, 4), 0.0)
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_PART, 6, conn(UDP).full()), 0.0)
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_END, 7), 0.0)
    backup.unfollow()  # the fifth frame, which names the other flow, has not come
    work(backup)
    assert set(held(backup.store)) == {conn(TCP).key, conn(UDP).key}


def test_parts_of_a_snapshot_that_began_unheard_are_not_taken() -> None:
    backup = followed()
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_PART, 1, conn().full()), 0.0)
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_END, 2), 0.0)
    assert backup.store.flow_count() == 0
    assert not backup.complete


def test_a_request_that_is_not_heard_is_repeated_but_not_at_every_tick() -> None:
    backup = followed()
    at = [n * 0.05 for n in range(41)]
    asked = [now for now in at if any(isinstance(message, Resync) for message in said(backup, now))]
    assert len(asked) == 4 + 1
    assert all(later - sooner >= RESYNC_RETRY_S - 1e-9 for sooner, later in pairwise(asked))


def test_acknowledgements_do_not_wait_for_a_tick_when_frames_come_thick() -> None:
    backup = followed()
    for sequence in range(1, ACK_FRAMES + 1):
        backup.receive(b"e" * 32, frame(messages.EVENTS, sequence), 0.0)
    [body] = backup.bodies_to_send()
    found = messages.unpack(body)
    assert isinstance(found, Ack)
    assert (found.name, found.sequence, found.synced) == ("fw2", ACK_FRAMES, False)


def test_a_backup_that_follows_nobody_shows_that_it_is_there() -> None:
    backup = Backup(name="fw2", store=Store(), limit=400, now=0.0)
    [found] = said(backup, 0.0)
    assert found == messages.unpack(messages.heartbeat("fw2", "backup", 0, 0))
    assert said(backup, limits.HEARTBEAT_S / 2) == []


def test_a_new_epoch_aborts_the_snapshot_and_keeps_what_is_held() -> None:
    backup = followed()
    complete(backup, conn().full())
    backup.request_snapshot(0.0)
    assert not backup.synced(0.0)
    backup.receive(b"e" * 32, frame(messages.SNAPSHOT_BEGIN, 4), 0.0)
    backup.receive(b"f" * 32, heartbeat(7), 0.0)
    assert not backup.store.in_snapshot
    assert set(held(backup.store)) == {conn(TCP).key}
    assert not backup.synced(0.0)
    [resync] = [message for message in said(backup, 0.0) if isinstance(message, Resync)]
    assert resync.epoch == b"f" * 32
    assert backup.gaps == 0


def test_whoever_is_not_active_any_more_is_not_followed() -> None:
    backup = followed()
    complete(backup, conn().full())
    backup.unfollow()
    assert (backup.epoch, backup.complete, backup.synced(0.0)) == (None, False, False)
    assert set(held(backup.store)) == {conn().key}
