"""The checkers bite: a protocol with a piece left out is caught by some seed.  `test_simulation` is the control."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from ftfw.kernel import create, event_selector, flow_entry, uapi
from ftfw.kernel.event_selector import Selected, Selector
from ftfw.kernel.flow_entry import Kind, Parsed
from ftfw.replication import injection_plan, limits, messages
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.bucket_digests import Digests, Scope
from ftfw.replication.injection_plan import ChangePlanner, Pause
from ftfw.replication.store import Store
from ftfw.security import security_limits
from ftfw.security.freshness import Freshness
from ftfw.security.replay_window import ReplayWindow
from tests.simulation.cluster import Run
from tests.unit.conntrack import is_expectation

SEEDS = 60


def believe_replays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReplayWindow, "is_fresh", lambda *_: True)


def believe_recordings(patch: pytest.MonkeyPatch) -> None:
    """Every authentic epoch is taken for proved."""
    real = Freshness._sender

    def anybody(self: Freshness, identity: bytes) -> Any:
        sender = real(self, identity)
        sender.epoch = Epochs()
        return sender

    class Epochs(bytes):
        def __eq__(self, _other: object) -> bool:
            return True

        def __ne__(self, _other: object) -> bool:
            return False

        __hash__ = bytes.__hash__

    patch.setattr(Freshness, "_sender", anybody)


def free_before_the_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    def free(self: Active, _now: float) -> None:
        for sequence in range(self.oldest, self.sequence + 1):
            self._forget(sequence)

    patch.setattr(Active, "_free", free)


def apply_stale_snapshot_entries(patch: pytest.MonkeyPatch) -> None:
    real = Store.add_snapshot

    def add(self: Store, found: Any) -> None:
        touched, self._touched_by_events = self._touched_by_events, set()
        real(self, found)
        self._touched_by_events = touched

    patch.setattr(Store, "add_snapshot", add)


def forget_tombstones(patch: pytest.MonkeyPatch) -> None:
    def note(self: Store, touched: list[bytes]) -> None:
        if self._touched_by_events is not None:
            self._touched_by_events.update(key for key in touched if key in self.plain or key in self.rich)

    patch.setattr(Store, "_note", note)


def keep_what_the_snapshot_does_not_name(patch: pytest.MonkeyPatch) -> None:
    def remove_stale(self: Store) -> Iterator[int]:
        self.abort_snapshot()
        yield 0

    patch.setattr(Store, "remove_stale", remove_stale)


def apply_behind_a_gap(patch: pytest.MonkeyPatch) -> None:
    def receive_frame(self: Backup, frame: messages.Stream, now: float) -> None:
        self._known = max(self._known, frame.sequence)
        if frame.sequence > self.applied:
            self._apply(frame, now)

    patch.setattr(Backup, "_receive_frame", receive_frame)


def apply_in_the_order_of_arrival(patch: pytest.MonkeyPatch) -> None:
    def receive_frame(self: Backup, frame: messages.Stream, now: float) -> None:
        self._known = max(self._known, frame.sequence)
        before = self.applied
        self._apply(frame, now)
        self.applied = max(before, frame.sequence)

    patch.setattr(Backup, "_receive_frame", receive_frame)


def acknowledge_what_was_announced(patch: pytest.MonkeyPatch) -> None:
    def acknowledge(self: Backup, now: float) -> None:
        self.applied = max(self.applied, self._known)
        self._acked, self._acked_at = self.applied, now
        self._bodies.append(messages.ack(self.name, self.epoch or b"", self.applied, (), 700, synced=self.complete))

    patch.setattr(Backup, "_acknowledge", acknowledge)


def ignore_that_events_were_lost(patch: pytest.MonkeyPatch) -> None:
    real = Backup._apply

    def apply(self: Backup, frame: messages.Stream, now: float) -> None:
        real(self, frame._replace(kind=messages.EVENTS) if frame.kind == messages.LOST else frame, now)

    patch.setattr(Backup, "_apply", apply)


def ignore_gaps_that_cannot_be_filled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "KEPT_BYTES", 3000)

    def give_up(self: Backup, sequence: int, now: float) -> None:
        self._waiting.drop_through(sequence)
        self.applied = sequence
        self._apply_waiting(1, now)

    patch.setattr(Backup, "_give_up", give_up)


def never_send_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Active, "_resend", lambda *_: None)


def never_challenge(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(security_limits, "CHALLENGE_S", 1e9)


def never_ask_for_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backup, "_send_request", lambda *_: None)


def find_no_difference(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Digests, "differing", lambda *_: iter(()))


def take_some_buckets_for_the_whole_table(patch: pytest.MonkeyPatch) -> None:
    real = Store.begin_snapshot

    def begin(self: Store, _scope: Scope | None, *, repair: bool) -> None:
        real(self, None, repair=repair)

    patch.setattr(Store, "begin_snapshot", begin)


def take_one_repaired_bucket_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scope, "without", lambda *_: None)


def put_new_before_destroy_whatever_happened(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(event_selector, "_entangled", lambda _groups: False)


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
    real = Selector._select_expectation

    def select_expectation(self: Selector, found: bytes, parsed: Parsed, selected: Selected) -> None:
        hints = set(selected.hints)
        real(self, found, parsed, selected)
        selected.hints = hints

    patch.setattr(Selector, "_select_expectation", select_expectation)


def take_what_a_process_changed_for_told(patch: pytest.MonkeyPatch) -> None:
    real = Selector._select_flow

    def select_flow(self: Selector, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs | {"asked_for": False})

    patch.setattr(Selector, "_select_flow", select_flow)


def forget_the_ends_of_expectations(patch: pytest.MonkeyPatch) -> None:
    real = Selector._select_expectation

    def select_expectation(self: Selector, found: bytes, parsed: Parsed, selected: Selected) -> None:
        if parsed.kind is Kind.EXPECT_NEW:
            real(self, found, parsed, selected)

    patch.setattr(Selector, "_select_expectation", select_expectation)


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
