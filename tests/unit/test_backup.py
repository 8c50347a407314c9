from dataclasses import replace

import pytest

from ftfw.kernel import message_run
from ftfw.kernel.message_run import Run
from ftfw.kernel.message_shapes import SHAPES
from ftfw.replication import limits, messages
from ftfw.replication.backup import Backup
from ftfw.replication.bucket_digests import Digests, Scope, bucket_of
from ftfw.replication.limits import ACK_FRAMES, FRESH_S, HEARTBEAT_S, NACK_S, READY_S, RESYNC_RETRY_S, STEP_ENTRIES
from ftfw.replication.messages import Ack, Piece, Slice, Stream
from ftfw.replication.state_tables import BackupState
from tests.unit.conntrack import TCP, UDP, conn
from tests.unit.playbook import (
    SALT,
    Playbook,
    ack,
    backup,
    begin,
    compare,
    digests,
    end,
    events,
    heartbeat,
    lost,
    part,
    passes,
    present,
    resync,
    resync_all,
    scope,
    step,
    unfollow,
    want,
    want_compare,
    want_snapshot,
    work,
)
from tests.unit.table import held

OTHER = b"f" * 32  # the epoch of another stream
FLOW, OTHER_FLOW = conn(TCP), conn(UDP)


def followed(engine: Backup | None = None) -> Playbook:
    """A backup that has heard an active's first heartbeat, and has asked for a snapshot."""
    play = Playbook(engine or backup())
    play << present()
    return play >> heartbeat(0) << resync(0) >> passes(HEARTBEAT_S) << ack(0, synced=False) >> passes(NACK_S)


def complete(*entries: bytes, engine: Backup | None = None) -> Playbook:
    """A backup that holds these entries of the active, and has acknowledged its frames 1 to 3."""
    play = followed(engine)
    play >> begin(1) >> part(2, *entries) >> end(3) >> work >> heartbeat(3) >> passes(HEARTBEAT_S)
    play << ack(3, synced=of(play).synced(play.now))
    return play >> passes(NACK_S)


def of(play: Playbook) -> Backup:
    assert isinstance(play.engine, Backup)
    return play.engine


def keys(play: Playbook) -> set[bytes]:
    return set(held(of(play).store))


def ports(count: int) -> list[bytes]:
    """So many flows, as a dump has them."""
    return [conn(replace(UDP, source_port=port)).full() for port in range(count)]


# Sync


def test_a_snapshot_makes_a_backup_in_sync_while_the_active_is_heard() -> None:
    play = followed()
    play >> begin(1) >> part(2, FLOW.full())
    assert not of(play).synced(play.now)
    play >> end(3) >> work
    assert of(play).synced(play.now)
    assert of(play).synced(play.now + FRESH_S - 0.01)
    assert not of(play).synced(play.now + FRESH_S + 0.01)
    assert of(play).was_synced  # when the active was last heard: a survivor may take over
    assert keys(play) == {FLOW.key}


def test_a_hot_backup_is_in_sync_when_its_kernel_has_the_snapshot_too() -> None:
    play = complete(engine=backup(hot=True))
    assert of(play).complete
    assert of(play).why_not(play.now) == "the snapshot of fw1 is being put into this kernel"
    of(play).installed = of(play).snapshots
    assert of(play).synced(play.now)


def test_a_backup_that_has_heard_no_active_for_long_is_ready_whatever_it_holds() -> None:
    play = Playbook(backup())
    play << present()
    assert not of(play).ready(READY_S - 0.01)
    assert of(play).ready(READY_S)
    play >> heartbeat(1) << resync(1)
    assert not of(play).ready(play.now)  # there is an active, and it has more
    assert of(play).ready(play.now + READY_S)


def test_a_backup_says_why_it_is_not_in_sync() -> None:
    play = Playbook(backup())
    play << present()
    assert of(play).why_not(0.0) == "no active is heard"
    play >> heartbeat(0) << resync(0)
    assert of(play).why_not(0.0) == "a snapshot or a compare is asked for; fw1 has not begun one yet"
    play >> begin(1)
    assert of(play).why_not(0.0) == "a snapshot of fw1 is coming in"
    play >> end(2) >> work
    assert of(play).why_not(0.0) is None
    play >> heartbeat(5) << ack(2, (3, 5), synced=False)
    assert of(play).why_not(0.0) == "3 frames of fw1 are missing, and asked for"
    assert of(play).why_not(2.5) == "fw1 was last heard 2.5 s ago"
    of(play).unfollow()
    assert of(play).why_not(2.5) == "fw1 is no longer active"


def test_a_backup_that_follows_nobody_shows_that_it_is_there() -> None:
    play = Playbook(backup())
    play << present() >> passes(2.5 * HEARTBEAT_S) << present() << present()
    play.over()


# Requests and acknowledgements


def test_a_request_that_is_not_heard_is_repeated_every_half_second() -> None:
    play = Playbook(backup())
    play << present()
    play.ignored = (Ack,)
    play >> heartbeat(0) << resync(0)
    play >> passes(RESYNC_RETRY_S - 0.01) >> passes(0.02) << resync(0)
    play >> passes(RESYNC_RETRY_S - 0.03) >> passes(0.02) << resync(0)
    play.over()


def test_missing_frames_are_asked_for_at_once_and_again_after_a_moment() -> None:
    play = complete()
    play >> heartbeat(6) << ack(3, (4, 6), synced=False)
    assert not of(play).was_synced
    play >> passes(NACK_S) << ack(3, (4, 6), synced=False)
    play >> events(5) >> passes(NACK_S) << ack(3, (4, 4), (6, 6), synced=False)
    play.over()


def test_frames_that_come_thick_are_acknowledged_before_the_time() -> None:
    play = followed()
    for number in range(1, ACK_FRAMES):
        play >> events(number)
    play >> events(ACK_FRAMES) << ack(ACK_FRAMES, synced=False)
    play.over()


# Order


def test_frames_behind_a_gap_wait_and_are_applied_in_their_order() -> None:
    play = complete()
    play >> events(6, FLOW.destroy()) << ack(3, (4, 5), synced=False)
    play >> events(5, FLOW.new()) >> events(4, OTHER_FLOW.new()) >> work
    assert keys(play) == {OTHER_FLOW.key}
    assert of(play).synced(play.now)
    assert (of(play).gaps, of(play).repeated) == (0, 0)


def test_frames_that_come_again_or_too_late_change_nothing() -> None:
    play = complete()
    play >> events(4, FLOW.new()) >> events(5, FLOW.destroy()) >> events(4, FLOW.new())
    assert keys(play) == set()
    assert (of(play).gaps, of(play).repeated) == (0, 1)


def test_frames_that_the_active_has_no_more_are_not_waited_for() -> None:
    play = complete()
    play >> events(6, OTHER_FLOW.new()) << ack(3, (4, 5), synced=False)
    assert keys(play) == set()
    play >> heartbeat(6, oldest=6) << resync(6, compare=True)
    assert keys(play) == {OTHER_FLOW.key}
    assert of(play).gaps == 1


def test_frames_that_have_come_are_no_gap_however_old_the_active_says_they_are() -> None:
    play = complete()
    play.ignored = (Ack,)
    for number in (5, 6, 7, 8):
        of(play).receive(b"e" * 32, events(number, OTHER_FLOW.new()), play.now)
    of(play).bodies_to_send()
    play >> events(4, FLOW.new())
    assert of(play).behind == 3  # the rest is applied by `work`
    play >> heartbeat(8, oldest=8)
    assert of(play).gaps == 0
    play >> work
    assert (of(play).behind, keys(play)) == (0, {FLOW.key, OTHER_FLOW.key})


def test_too_many_frames_behind_a_gap_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAITING_FRAMES", 3)
    play = complete()
    play >> events(5, OTHER_FLOW.new()) << ack(3, (4, 4), synced=False)
    play >> events(6) >> events(7) >> events(8) << resync(6, compare=True)
    assert of(play).gaps == 1
    play >> work
    assert (of(play).behind, keys(play)) == (0, {OTHER_FLOW.key})
    assert not of(play).synced(play.now)


def test_nor_are_few_frames_that_unpack_to_much(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [events(number, *[OTHER_FLOW.new()] * 10) for number in range(5, 9)]
    monkeypatch.setattr(limits, "WAITING_BYTES", 3 * waiting[0].memory)
    play = complete()
    play >> waiting[0] << ack(3, (4, 4), synced=False)
    play >> waiting[1] >> waiting[2]
    assert (of(play).gaps, of(play).behind) == (0, 4)
    play >> waiting[3] << resync(6, compare=True)
    assert of(play).gaps == 1


def test_as_many_frames_give_way_as_a_large_one_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    large = events(11, *[OTHER_FLOW.new()] * 10)
    monkeypatch.setattr(limits, "WAITING_BYTES", large.memory)
    play = complete()
    play >> events(5, FLOW.new()) << ack(3, (4, 4), synced=False)
    play >> events(6) >> events(7) >> events(8) >> events(9, FLOW.new())
    assert of(play).waiting == 5
    play >> large << resync(9, compare=True)
    assert (of(play).waiting, of(play).waiting_bytes) == (1, large.memory)


def test_a_gap_within_a_snapshot_that_cannot_be_filled_aborts_it_and_asks_at_once() -> None:
    play = followed()
    play >> begin(1) >> part(3, FLOW.full()) << ack(1, (2, 2), synced=False)
    assert of(play).store.in_snapshot
    play >> heartbeat(3, oldest=3) << resync(3)
    assert not of(play).store.in_snapshot
    play >> end(4)
    assert not of(play).complete


def test_parts_of_a_snapshot_that_began_unheard_are_not_taken() -> None:
    play = followed()
    play >> part(1, FLOW.full()) >> end(2)
    assert (keys(play), of(play).complete) == (set(), False)


# Steps


def waiting(count: int, *, per_frame: int = 20) -> Playbook:
    """A backup with so many frames behind a gap; each has some flows of its own."""
    play = complete()
    shape = SHAPES[message_run.prefix_of(FLOW.new())][0]
    for number in range(count):
        ends = [replace(TCP, source_port=(number * per_frame + n) % 65536) for n in range(per_frame)]
        run = Run(shape, b"".join(conn(end_).new() for end_ in ends))
        of(play).receive(b"e" * 32, Stream(messages.EVENTS, 5 + number, [run]), play.now)
    of(play).bodies_to_send()
    return play


def applied_by_step(play: Playbook) -> list[int]:
    """Do the work that is left, and return how many flows each step has added."""
    found, before = [], of(play).store.flow_count()
    while of(play).has_work:
        of(play).work(play.now)
        found.append(of(play).store.flow_count() - before)
        before += found[-1]
    return found


def test_the_rest_of_a_stream_that_is_left_is_applied_in_steps() -> None:
    play = waiting(1000)
    of(play).unfollow()
    assert of(play).store.flow_count() == 0
    steps = applied_by_step(play)
    assert sum(steps) == 20000
    assert max(steps) <= limits.STEP_FRAMES * 20


def test_what_waits_behind_a_filled_gap_is_applied_in_steps_and_before_what_follows() -> None:
    play = waiting(1000)
    of(play).receive(b"e" * 32, events(4), play.now)
    assert of(play).store.flow_count() <= 2 * 20
    steps = applied_by_step(play)
    assert max(steps) <= limits.STEP_FRAMES * 20
    assert (of(play).store.flow_count(), of(play).behind, of(play).gaps) == (20000, 0, 0)


def test_frames_of_the_next_stream_wait_for_the_rest_of_the_last_one() -> None:
    play = waiting(100)
    first = conn(replace(TCP, source_port=0))
    of(play).receive(OTHER, heartbeat(0), play.now)
    of(play).receive(OTHER, events(1, first.destroy()), play.now)
    applied_by_step(play)
    assert of(play).store.flow_count() == 1999
    assert first.key not in keys(play)
    assert of(play).behind == 0


def test_no_more_frames_wait_than_allowed_while_the_rest_of_a_stream_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play = waiting(100)
    monkeypatch.setattr(limits, "WAITING_FRAMES", 3)
    of(play).receive(OTHER, heartbeat(0), play.now)
    for number in range(1, 6):
        of(play).receive(OTHER, events(number), play.now)
    assert (of(play).gaps, of(play).store.flow_count()) == (0, 2000)
    assert of(play).behind <= 3


def sweeping() -> Playbook:
    """A backup that holds a snapshot without any flow that it has held before: their end takes more than a step."""
    play = complete(*ports(STEP_ENTRIES + 5))
    play >> want_snapshot << resync(3) >> begin(4) >> end(5) >> step >> step
    assert 0 < of(play).store.flow_count() < STEP_ENTRIES
    return play


def test_frames_that_build_on_the_end_of_a_snapshot_wait_for_it_and_events_do_not() -> None:
    play = sweeping()
    play >> events(6, FLOW.new()) >> compare(7) << ack(6, synced=False) >> events(8, OTHER_FLOW.new())
    assert (of(play).applied, of(play).has_work) == (6, True)
    assert of(play).why_not(play.now) == "a snapshot of fw1 is coming in"
    play >> work
    assert of(play).applied == 8
    assert keys(play) == {FLOW.key, OTHER_FLOW.key}
    assert of(play).synced(play.now)


def test_a_loss_ends_what_is_being_worked_on_at_once() -> None:
    play = sweeping()
    play >> lost(6) << resync(6)
    assert not of(play).has_work


def test_what_waited_for_the_end_of_a_snapshot_goes_on_when_an_administrator_has_ended_it() -> None:
    play = sweeping()
    play >> compare(6) << ack(5, synced=False) >> events(7, FLOW.new()) >> want_snapshot << resync(5) >> work
    assert of(play).behind == 0
    assert FLOW.key in keys(play)


def test_who_takes_over_during_the_end_of_a_snapshot_takes_nothing_that_was_gone() -> None:
    play = sweeping()
    play >> unfollow >> work
    assert keys(play) == set()


# Other streams, and none


def test_who_takes_over_takes_what_waits_behind_a_gap() -> None:
    play = complete()
    play >> events(9, OTHER_FLOW.new()) << ack(3, (4, 8), synced=False)
    play >> unfollow >> work
    assert keys(play) == {OTHER_FLOW.key}


def test_the_end_of_a_snapshot_behind_a_gap_takes_nothing_away() -> None:
    play = complete(FLOW.full(), OTHER_FLOW.full())
    play >> want_snapshot << resync(3) >> begin(4) >> part(6, OTHER_FLOW.full()) << ack(4, (5, 5), synced=False)
    play >> end(7) >> unfollow >> work  # the fifth frame, which names the other flow, has not come
    assert keys(play) == {FLOW.key, OTHER_FLOW.key}


def test_an_active_that_is_not_active_any_more_is_not_followed() -> None:
    play = complete(FLOW.full())
    play >> unfollow >> passes(HEARTBEAT_S) << present()
    assert (of(play).epoch, of(play).complete, of(play).synced(play.now)) == (None, False, False)
    assert keys(play) == {FLOW.key}


def test_a_new_epoch_aborts_the_snapshot_and_keeps_what_is_held() -> None:
    play = complete(FLOW.full())
    play >> want_snapshot << resync(3) >> begin(4)
    play >> (OTHER, heartbeat(7)) << resync(7, epoch=OTHER)
    assert not of(play).store.in_snapshot
    assert keys(play) == {FLOW.key}
    assert (of(play).gaps, of(play).synced(play.now)) == (0, False)


def test_a_compare_is_asked_for_from_the_active_it_knows_and_a_snapshot_from_another() -> None:
    play = complete(FLOW.full())
    play >> (OTHER, heartbeat(0)) << resync(0, compare=True, epoch=OTHER)
    play >> (b"g" * 32, heartbeat(0, name="fw9")) << resync(0, epoch=b"g" * 32)
    play.over()


# Compares


def differing(play: Playbook, *changed: bytes, bits: int = 8) -> Digests:
    """The digests of an active that has the backup's entries, some of them with other values."""
    found = Digests(bits)
    for slice_ in of(play).store.digests(SALT):
        found.add((key, digest ^ (key in changed)) for key, digest in slice_)
    return found


def test_a_compare_that_finds_nothing_leaves_a_backup_in_sync() -> None:
    play = complete(FLOW.full())
    play >> want_compare << resync(3, compare=True)
    play >> compare(4) >> digests(5, differing(play)) >> work >> passes(HEARTBEAT_S) << ack(5)
    assert (of(play).compared, of(play).snapshots) == (1, 1)
    assert of(play).store.repaired == {}


def test_what_differs_is_asked_for_by_buckets_and_repaired() -> None:
    play = complete(FLOW.full(), OTHER_FLOW.full())
    wanted = Scope(8, {bucket_of(FLOW.key, 8)})
    play >> compare(4) >> digests(5, differing(play, FLOW.key)) >> work << want(5, wanted)
    assert of(play).why_not(play.now) == (
        "the store differs from the table of fw1, and the buckets that differ are asked for"
    )
    play >> scope(6, wanted) >> part(7, replace(FLOW, mark=9).full()) >> end(8) >> work
    assert keys(play) == {FLOW.key, OTHER_FLOW.key}
    assert of(play).store.repaired == {"different": 1}
    assert of(play).synced(play.now)


def test_buckets_that_are_not_heard_of_are_asked_for_again() -> None:
    play = complete(FLOW.full())
    wanted = Scope(8, {bucket_of(FLOW.key, 8)})
    play.ignored = (Ack,)
    play >> compare(4) >> digests(5, differing(play, FLOW.key)) >> work << want(5, wanted)
    play >> passes(RESYNC_RETRY_S - 0.01) >> passes(0.02) << want(5, wanted)


def test_what_an_event_touches_during_a_compare_is_no_difference() -> None:
    play = complete(FLOW.full())
    play >> compare(4) >> events(5, replace(FLOW, mark=9).update("mark")) >> digests(6, differing(play, FLOW.key))
    play >> work
    assert of(play).synced(play.now)
    assert of(play).store.repaired == {}


def test_a_backup_that_differs_too_much_takes_everything() -> None:
    play = complete(FLOW.full())
    theirs = Digests(4)
    theirs.add((conn(replace(UDP, source_port=port)).key, 1 << port % 32) for port in range(64))
    play >> compare(4) >> digests(5, theirs) >> work << resync(5)


def test_the_end_of_a_scope_will_do_where_its_beginning_was_lost() -> None:
    """Entries in buckets that no scope named stay as they are: they are not known to be gone."""
    play = complete(FLOW.full(), OTHER_FLOW.full())
    first, second = (Scope(8, {bucket_of(each.key, 8)}) for each in (FLOW, OTHER_FLOW))
    both = first.joined(second)
    play.ignored = (Ack,)
    play >> compare(4) >> digests(5, differing(play, FLOW.key, OTHER_FLOW.key)) >> work << want(5, both)
    play >> scope(6, first) >> end(7) >> work >> passes(RESYNC_RETRY_S) << want(7, second)
    assert keys(play) == {OTHER_FLOW.key}


@pytest.mark.parametrize("first", [0, 2, 8])
def test_digests_that_are_not_the_next_ones_are_no_compare(first: int) -> None:
    play = complete(FLOW.full())
    half = Digests(4)
    half.numbers = half.numbers[:1]
    play >> compare(4) >> digests(5, half)
    odd = Stream(messages.DIGESTS, 6, [], Slice(SALT, 4, first, bytes(4)))
    play >> odd << resync(6, compare=True)


def test_a_scope_of_more_buckets_than_anybody_wants_is_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WANTED_MAX", 3)
    play = complete(FLOW.full())
    play >> Stream(messages.SCOPE, 4, [], Piece(Scope(4, {0, 1}), 9))
    assert of(play).state is BackupState.COMPLETE
    play >> Stream(messages.SCOPE, 5, [], Piece(Scope(4, {2, 3}), 9)) << resync(5, compare=True)


def test_an_administrator_on_the_active_has_everything_asked_for() -> None:
    play = complete(FLOW.full())
    play >> resync_all(4) << resync(4)
    play >> begin(5) >> end(6) >> work
    assert of(play).snapshots == 2
    assert of(play).store.repaired == {"stale": 1}


def test_the_last_frames_of_a_stream_come_before_the_rest_of_its_stale_entries() -> None:
    """A takeover leaves stale entries out, so that only the frames have to be applied."""
    play = sweeping()
    play >> events(7, FLOW.new()) << ack(5, (6, 6), synced=False)
    play >> unfollow >> step
    assert not of(play).has_last_frames
    held_back = of(play).store.stale(keys(play))
    assert set(held_back) == keys(play) - {FLOW.key}
    assert held_back
    play >> work
    assert keys(play) == {FLOW.key}
