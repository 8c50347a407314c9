import pytest

from ftfw.replication import limits, messages
from ftfw.replication.active import Active
from ftfw.replication.bucket_digests import Scope
from ftfw.replication.limits import FRESH_S, HEARTBEAT_S, PEER_LOST_S, PEERS_MAX, RESEND_S, SNAPSHOT_WINDOW
from ftfw.replication.messages import Heartbeat, Resync, Stream, Want
from ftfw.replication.state_tables import LocalProtocolError, Reading
from tests.unit.conntrack import UDP, conn
from tests.unit.playbook import (
    PEER,
    Playbook,
    ack,
    begin,
    end,
    events,
    lose,
    lost,
    offer,
    part,
    passes,
    resync,
    snapshot,
)
from tests.unit.playbook import active as begun
from tests.unit.playbook import heartbeat as beat


def test_a_snapshot_for_one_backup_takes_no_compare_from_another() -> None:
    active = begun()
    active.receive(PEER, Resync(name="fw2", epoch=active.epoch, sequence=0, compare=True), 0.0)
    active.receive(PEER, Resync(name="fw3", epoch=active.epoch, sequence=0, compare=False), 0.0)
    assert active.begin_snapshot(0.0) is None
    active.end_snapshot(0.0)
    assert active.wanted(0.0) is Reading.COMPARE


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
    assert active.synced(FRESH_S) is False


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
    sent = active.bodies_to_send()
    assert active.kept_bytes == sum(map(len, sent))
    active.handle_timer(0.1)
    assert active.oldest == 3
    assert active.kept_bytes == sum(map(len, sent[2:]))
    active.receive(PEER, ack(5), PEER_LOST_S + 1)
    active.handle_timer(PEER_LOST_S + 1)  # fw3 is lost, and holds nobody up
    assert (active.oldest, active.kept_bytes) == (6, 0)


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
    active.receive(PEER, ack(1, (0, 1 << 62)), 0.1 + RESEND_S / 2)
    assert active.bodies_to_send() == [sent[0], sent[4]]


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
    active.handle_timer(HEARTBEAT_S / 2)
    [body] = active.bodies_to_send()
    heartbeat = messages.unpack(body)
    assert isinstance(heartbeat, Heartbeat)
    assert (heartbeat.name, heartbeat.role, heartbeat.sequence) == ("fw1", "active", active.sequence)
    active.handle_timer(HEARTBEAT_S)
    assert len(active.bodies_to_send()) == 1


def test_an_active_names_the_backups_that_are_not_in_sync() -> None:
    active = begun()
    assert active.why_not(0.0) is None
    active.receive(PEER, ack(0), 0.0)
    active.receive(PEER, ack(0, name="fw3", synced=False), 0.0)
    assert active.why_not(0.0) == "not in sync: fw3"
    assert active.why_not(2.0) == "not in sync: fw2, fw3"
    assert active.why_not(PEER_LOST_S) is None


# A whole exchange


def test_a_backup_is_served_from_its_request_to_its_acknowledgement() -> None:
    play = Playbook(begun())
    play << beat(0)
    play >> resync(0)
    assert active_of(play).wanted(play.now) is Reading.SNAPSHOT
    play >> snapshot(conn().full()) << begin(1) << part(2, conn().full()) << end(3)
    play >> ack(3) >> offer(conn(UDP).new()) << events(4, conn(UDP).new())
    play >> passes(HEARTBEAT_S) << beat(4, oldest=4)
    play >> ack(3, (4, 4)) << events(4, conn(UDP).new())
    play >> ack(4) >> passes(HEARTBEAT_S) << beat(4, oldest=5)
    assert active_of(play).synced(play.now)
    play.over()


def test_lost_events_are_told_in_their_place() -> None:
    play = Playbook(begun())
    play << beat(0)
    play >> ack(0) >> offer(conn().new()) << events(1, conn().new()) >> lose << lost(2)
    play >> offer(conn().destroy()) << events(3, conn().destroy())


def test_a_compare_is_made_at_its_interval_if_somebody_follows() -> None:
    play = Playbook(begun(compare_s=1.0))
    play << beat(0)
    play.ignored = (Heartbeat,)
    play >> passes(1.0)
    assert active_of(play).wanted(play.now) is Reading.NOTHING
    play >> ack(0) >> passes(1.0)
    assert active_of(play).wanted(play.now) is Reading.COMPARE


def test_a_new_epoch_is_a_new_stream() -> None:
    play = Playbook(begun())
    play << beat(0)
    play.ignored = (Heartbeat,)
    play >> resync(0) >> offer(conn().new()) << events(1, conn().new())
    active_of(play).restart(b"f" * 32, play.now)
    assert active_of(play).synced(play.now) is None
    assert active_of(play).wanted(play.now) is Reading.NOTHING
    play >> ack(1) >> offer(conn().new()) << events(1, conn().new())
    assert active_of(play).backups["fw2"].acked == 0  # what it has acknowledged is of the stream before


def test_one_reading_begins_when_the_last_one_is_done() -> None:
    active = begun()
    active.begin_compare(0.0)
    with pytest.raises(LocalProtocolError, match="active: 'SNAPSHOT_BEGIN' is not possible while 'compare'"):
        active.begin_snapshot(0.0)
    with pytest.raises(LocalProtocolError, match="active: 'SNAPSHOT_END' is not possible while 'compare'"):
        active.end_snapshot(0.0)


def active_of(play: Playbook) -> Active:
    assert isinstance(play.engine, Active)
    return play.engine
