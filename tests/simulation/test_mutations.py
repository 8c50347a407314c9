"""The checkers bite: a protocol with a piece left out is caught by some seed.  `test_simulation` is the control."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from ftfw.kernel import create, flow_entry, message_run, uapi
from ftfw.kernel.attributes import MESSAGE_SIZE
from ftfw.kernel.event_selector import Selected, Selector
from ftfw.kernel.flow_entry import Kind
from ftfw.replication import injection_plan, limits, messages
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.bucket_digests import Digests, Scope
from ftfw.replication.injection_plan import ChangePlanner, Pause
from ftfw.replication.messages import Ack, Heartbeat, Resync, Stream, Want
from ftfw.replication.store import Store
from ftfw.security import security_limits
from ftfw.security.frames import Opener, RefusedError
from ftfw.security.freshness import Freshness, Heard
from ftfw.security.replay_window import ReplayWindow
from tests.simulation.cluster import KEYS, Run
from tests.simulation.node import LIMIT
from tests.unit.conntrack import is_expectation

SEEDS = 60


def believe_replays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReplayWindow, "is_fresh", lambda *_: True)


def believe_recordings(patch: pytest.MonkeyPatch) -> None:
    """Every authentic epoch is taken for proved."""
    real = Freshness.receive
    windows: WeakKeyDictionary[Freshness, dict[bytes, ReplayWindow]] = WeakKeyDictionary()

    def receive(self: Freshness, frame: bytes, link: int, now: float) -> Heard | None:
        opened = Opener(KEYS).open(frame)
        try:
            heard = real(self, frame, link, now)
        except RefusedError as refused:
            if refused.reason != "unproved":
                raise
            heard = Heard(opened.epoch, opened.body)
        if heard is not None:
            window = windows.setdefault(self, {}).setdefault(opened.epoch, ReplayWindow())
            if not window.is_fresh(opened.counter):
                raise RefusedError("replayed")
            window.accept(opened.counter)
        return heard

    patch.setattr(Freshness, "receive", receive)


def free_before_the_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    real = Active.handle_timer

    def handle_timer(self: Active, now: float) -> None:
        acked = {name: progress.acked for name, progress in self.backups.items()}
        for progress in self.backups.values():
            progress.acked = self.sequence
        real(self, now)
        for name, progress in self.backups.items():
            progress.acked = acked[name]

    patch.setattr(Active, "handle_timer", handle_timer)


def apply_stale_snapshot_entries(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "add_snapshot", adding(lambda _store, _key: True))


def forget_tombstones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "add_snapshot", adding(lambda store, key: store.value(key) is None))


def adding(overrides: Callable[[Store, bytes], bool]) -> Callable[[Store, Any], None]:
    """Store.add_snapshot where snapshots have the last word about some keys, whatever events have said."""
    real = Store.add_snapshot

    def add_snapshot(self: Store, found: Any) -> None:
        messages = found.split() if isinstance(found, message_run.Run) else list(found)
        real(self, messages)
        alone = Store()
        alone.begin_snapshot()
        real(alone, messages)
        for mine, theirs in zip(tables(self), tables(alone), strict=True):
            for key in [key for key in theirs if overrides(self, key)]:
                for table in tables(self):
                    table.pop(key, None)
                mine[key] = theirs[key]

    return add_snapshot


def tables(store: Store) -> tuple[dict[bytes, bytes], ...]:
    return store.plain, store.rich, store.expectations


def keep_what_the_snapshot_does_not_name(patch: pytest.MonkeyPatch) -> None:
    def remove_stale(self: Store) -> Iterator[int]:
        self.abort_snapshot()
        yield 0

    patch.setattr(Store, "remove_stale", remove_stale)


def receiving(patch: pytest.MonkeyPatch, before: Callable[[Backup, Stream | Heartbeat], Stream | Heartbeat]) -> None:
    """Have backups receive messages as `before` returns them."""
    real = Backup.receive

    def receive(self: Backup, epoch: bytes, message: Any, now: float) -> None:
        real(self, epoch, before(self, message), now)

    patch.setattr(Backup, "receive", receive)


def saying(patch: pytest.MonkeyPatch, instead: Callable[[Backup, bytes], bytes | None]) -> None:
    """Have backups send, for each of their bodies, what `instead` returns; None: nothing."""
    real = Backup.bodies_to_send

    def bodies_to_send(self: Backup) -> list[bytes]:
        return [said for body in real(self) if (said := instead(self, body)) is not None]

    patch.setattr(Backup, "bodies_to_send", bodies_to_send)


def apply_behind_a_gap(patch: pytest.MonkeyPatch) -> None:
    def jump(self: Backup, message: Stream | Heartbeat) -> Stream | Heartbeat:
        if isinstance(message, Stream):
            self.applied = max(self.applied, message.sequence - 1)
        return message

    receiving(patch, jump)


def apply_in_the_order_of_arrival(patch: pytest.MonkeyPatch) -> None:
    real = Backup.receive

    def receive(self: Backup, epoch: bytes, message: Any, now: float) -> None:
        before = self.applied
        if isinstance(message, Stream):
            self.applied = message.sequence - 1
        real(self, epoch, message, now)
        if isinstance(message, Stream):
            self.applied = max(before, self.applied)

    patch.setattr(Backup, "receive", receive)


def acknowledge_what_was_announced(patch: pytest.MonkeyPatch) -> None:
    def instead(self: Backup, body: bytes) -> bytes:
        if not isinstance(messages.unpack(body), Ack):
            return body
        self.applied += self.behind
        return messages.ack(self.name, self.epoch or b"", self.applied, (), LIMIT, synced=self.complete)

    saying(patch, instead)


def ignore_that_events_were_lost(patch: pytest.MonkeyPatch) -> None:
    def as_events(_backup: Backup, message: Stream | Heartbeat) -> Stream | Heartbeat:
        if isinstance(message, Stream) and message.kind == messages.LOST:
            return message._replace(kind=messages.EVENTS)
        return message

    receiving(patch, as_events)


def ignore_gaps_that_cannot_be_filled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "KEPT_BYTES", 30_000)  # gaps come about, and by themselves they end well

    def jump(self: Backup, message: Stream | Heartbeat) -> Stream | Heartbeat:
        if isinstance(message, Heartbeat) and self.epoch is not None:
            self.applied = max(self.applied, message.oldest - 1)
        return message

    receiving(patch, jump)


def never_send_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "RESEND_FRAMES", 0)


def never_challenge(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(security_limits, "CHALLENGE_S", 1e9)


def never_ask_for_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    saying(patch, lambda _, body: None if isinstance(messages.unpack(body), Resync | Want) else body)


def find_no_difference(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Digests, "differing", lambda *_: iter(()))


def take_some_buckets_for_the_whole_table(patch: pytest.MonkeyPatch) -> None:
    real = Store.begin_snapshot

    def begin(self: Store, _scope: Scope | None, *, repair: bool) -> None:
        real(self, None, repair=repair)

    patch.setattr(Store, "begin_snapshot", begin)


def take_one_repaired_bucket_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scope, "without", lambda *_: None)


def selecting(patch: pytest.MonkeyPatch, change: Callable[[Sequence[bytes]], Sequence[bytes]]) -> None:
    """Have selectors see events as `change` returns them."""
    real = Selector.select
    patch.setattr(Selector, "select", lambda self, events: real(self, change(events)))


def put_new_before_destroy_whatever_happened(patch: pytest.MonkeyPatch) -> None:
    selecting(patch, lambda events: sorted(events, key=lambda event: flow_entry.parse(event).kind is Kind.DESTROY))


def forget_masters_with_the_next_update(patch: pytest.MonkeyPatch) -> None:
    real = flow_entry.overlay

    def overlay(old: bytes | None, kind: Kind, attributes: dict[int, bytes], dropped: Counter[str]) -> bytes:
        value = real(old, kind, attributes, dropped)
        return create.without(value, uapi.CTA_TUPLE_MASTER) if kind is Kind.UPDATE else value

    patch.setattr(flow_entry, "overlay", overlay)


# What follows only a recording of a real kernel catches: the toy one tells all it does, and has no expectations.


def follow_no_hints(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Selector, "read_hinted", lambda *_: iter(()))


def ask_for_no_masters_of_expectations(patch: pytest.MonkeyPatch) -> None:
    real = Selector.select

    def select(self: Selector, events: Sequence[bytes]) -> Selected:
        selected = real(self, events)
        selected.hints = real(self, [each for each in events if not is_expectation(each)]).hints
        return selected

    patch.setattr(Selector, "select", select)


def take_what_a_process_changed_for_told(patch: pytest.MonkeyPatch) -> None:
    selecting(patch, lambda events: [each[:8] + bytes(8) + each[MESSAGE_SIZE:] for each in events])


def forget_the_ends_of_expectations(patch: pytest.MonkeyPatch) -> None:
    selecting(patch, lambda events: [e for e in events if flow_entry.parse(e).kind is not Kind.EXPECT_DESTROY])


def leave_expectations_out_of_snapshots(patch: pytest.MonkeyPatch) -> None:
    real = Selector.dumped

    def dumped(self: Selector, found: Sequence[bytes]) -> Selected:
        return real(self, [each for each in found if not is_expectation(each)])

    patch.setattr(Selector, "dumped", dumped)


# What follows is about the kernels of backups, hot and warm.


def forget_changes_of_a_hot_store(patch: pytest.MonkeyPatch) -> None:
    real = Store.take_changes
    patch.setattr(Store, "take_changes", lambda self: dict.fromkeys([*real(self)][1:]))


def leave_ended_flows_in_a_hot_kernel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(injection_plan, "DeleteFlows", lambda _keys: Pause())


def create_related_flows_in_any_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(flow_entry, "has_master", lambda _value: False)


def create_related_flows_during_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "in_snapshot", property(lambda _: False))


def try_nothing_again_at_a_promotion(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ChangePlanner, "plan_remaining", ChangePlanner.plan_changes)


MUTATIONS: list[Callable[[pytest.MonkeyPatch], None]] = [
    believe_replays,
    believe_recordings,
    free_before_the_acknowledgement,
    apply_stale_snapshot_entries,
    forget_tombstones,
    keep_what_the_snapshot_does_not_name,
    apply_behind_a_gap,
    apply_in_the_order_of_arrival,
    acknowledge_what_was_announced,
    ignore_that_events_were_lost,
    ignore_gaps_that_cannot_be_filled,
    never_send_again,
    never_challenge,
    never_ask_for_a_snapshot,
    find_no_difference,
    take_some_buckets_for_the_whole_table,
    take_one_repaired_bucket_for_all,
    put_new_before_destroy_whatever_happened,
    forget_masters_with_the_next_update,
    follow_no_hints,
    ask_for_no_masters_of_expectations,
    take_what_a_process_changed_for_told,
    forget_the_ends_of_expectations,
    leave_expectations_out_of_snapshots,
    forget_changes_of_a_hot_store,
    leave_ended_flows_in_a_hot_kernel,
    create_related_flows_in_any_order,
    create_related_flows_during_a_snapshot,
    try_nothing_again_at_a_promotion,
]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_what_is_left_out_is_missed(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    for seed in range(SEEDS):
        try:
            Run(seed).go()
        except AssertionError:
            return
    pytest.fail(f"{SEEDS} seeds ended well without it")
