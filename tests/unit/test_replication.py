"""The engines together: an active and its backups over a link that loses frames."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from ftfw.kernel.event_selector import Selector
from ftfw.replication import limits, messages
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.messages import Ack, Heartbeat, Resync, Stream, Want
from ftfw.replication.state_tables import BackupState
from ftfw.replication.store import Store
from tests.unit.conntrack import UDP, conn
from tests.unit.reading import Reader
from tests.unit.table import Table, alike, held

STEP_S = 0.02
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
            while backup.work(self.now):
                pass
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


# Compares


@pytest.fixture
def fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bucket for each entry, so that small tables can differ in few of many."""
    monkeypatch.setattr(limits, "BUCKET_ENTRIES", 1)
    monkeypatch.setattr(limits, "BUCKETS_MAX", 2)


@pytest.mark.usefixtures("fine")
def test_what_was_lost_is_repaired_without_a_snapshot() -> None:
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
    store.apply([made.table.rows[gone].destroy(), replace(made.table.rows[changed], mark=99).new()])
    store.apply([conn(replace(UDP, source_port=78)).new()])
    assert made.backups["fw2"].synced(made.now)  # as far as can be known
    for _ in range(int(65 / STEP_S)):
        made.step()
    made.assert_equal()
    assert store.repaired == {"missing": 1, "different": 1, "stale": 1}
    assert not made.backups["fw3"].store.repaired
    assert [backup.compared for backup in made.backups.values()] == [1, 1]


@pytest.mark.usefixtures("fine")
def test_a_compare_on_demand_is_asked_for_until_it_is_heard() -> None:
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
def test_what_events_touch_during_a_compare_is_no_difference() -> None:
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
        backup.store.apply([made.table.rows[key].destroy()])
    backup.request_compare(made.now)
    made.settle()
    made.assert_equal()
    assert backup.snapshots == 2
    assert backup.store.repaired == {"missing": gone}


@pytest.mark.usefixtures("fine")
def test_a_compare_while_buckets_are_wanted_keeps_account() -> None:
    made = cluster(entries=60)
    made.settle()
    backup = made.backups["fw2"]
    backup.store.apply([next(iter(made.table.rows.values())).destroy()])
    backup.request_compare(made.now)
    while backup.state is not BackupState.REPAIRING:
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
