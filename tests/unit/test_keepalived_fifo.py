import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.control.notification_words import MASTER, STATES
from ftfw.daemon.roles.keepalived_fifo import (
    LINE_MAX_BYTES,
    WRITER_MISSED_S,
    FifoWriterWatch,
    Notification,
    NotificationParser,
)

FW = ("GROUP", "FW")

names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
notifications = st.builds(
    Notification, st.tuples(st.sampled_from(["INSTANCE", "GROUP"]), names), st.sampled_from(STATES)
)


def line(notification: Notification, *, quoted: bool = True, priority: int | None = 150) -> bytes:
    (kind, name), state = notification
    name = f'"{name}"' if quoted else name
    return f"{kind} {name} {state}{'' if priority is None else f' {priority}'}\n".encode()


def read(*pieces: bytes) -> tuple[list[Notification], Counter[str]]:
    parser = NotificationParser()
    return [found for piece in pieces for found in parser.feed(piece)], parser.dropped


@given(st.data(), st.lists(notifications, max_size=5))
def test_lines_are_read_however_they_are_cut(data: st.DataObject, said: list[Notification]) -> None:
    quoted = [data.draw(st.booleans()) or '"' in each.subject[1] for each in said]
    whole = b"".join(line(each, quoted=q) for each, q in zip(said, quoted, strict=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(*pieces) == (said, Counter())


@given(st.lists(st.binary(max_size=3 * LINE_MAX_BYTES), max_size=5))
def test_rubbish_is_counted_and_what_follows_is_read(pieces: list[bytes]) -> None:
    parser = NotificationParser()
    for piece in pieces:
        list(parser.feed(piece))
        assert len(pickle.dumps(parser)) <= LINE_MAX_BYTES + 1000  # it keeps one unfinished line at most
    list(parser.feed(b"\n"))
    assert list(parser.feed(line(Notification(FW, MASTER)))) == [Notification(FW, MASTER)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'INSTANCE "VI 1" MASTER 150\n', Notification(("INSTANCE", "VI 1"), MASTER)),
        (b"GROUP FW BACKUP 0\n", Notification(FW, "BACKUP")),
        (b'GROUP "FW" STOP\r\n', Notification(FW, "STOP")),
        (b'INSTANCE "INSTANCE" DELETED 1\n', Notification(("INSTANCE", "INSTANCE"), "DELETED")),
    ],
)
def test_both_ways_of_quoting(text: bytes, found: Notification) -> None:
    assert read(text) == ([found], Counter())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'INSTANCE "VI_1" MASTER_RX_LOWER_PRI 150\n', "no_state"),
        (b'INSTANCE "VI_1" MASTER_PRIORITY 90\n', "no_state"),
        (b"VS [192.0.2.1]:tcp:80 UP\n", "no_notification"),
        (b"INSTANCE VI_1\n", "no_notification"),
        (b"\n", "no_notification"),
        (b"x" * (LINE_MAX_BYTES + 1) + b"\n", "line_too_long"),
    ],
)
def test_what_is_no_state_is_counted(text: bytes, reason: str) -> None:
    assert read(text) == ([], Counter({reason: 1}))


def test_a_line_longer_than_any_is_not_kept_and_the_next_one_is_read() -> None:
    pieces = [b"x" * LINE_MAX_BYTES] * 3 + [b"\n" + line(Notification(FW, MASTER))]
    assert read(*pieces) == ([Notification(FW, MASTER)], Counter({"line_too_long": 1}))


def test_the_rest_of_a_line_does_not_come_from_another_fifo() -> None:
    parser = NotificationParser()
    assert list(parser.feed(b'INSTANCE "VI_1" MAS')) == []
    parser.cut_off()
    parser.cut_off()
    assert list(parser.feed(line(Notification(FW, MASTER)))) == [Notification(FW, MASTER)]
    assert parser.dropped == {"line_cut_off": 1}


def test_a_writer_is_missed_when_it_was_away_for_long_and_no_longer_when_it_is_back() -> None:
    watch = FifoWriterWatch()
    changes = [
        watch.update(present=present, now=now)
        for present, now in (
            (False, 0.0),
            (False, WRITER_MISSED_S - 1),
            (True, WRITER_MISSED_S - 0.5),
            (False, WRITER_MISSED_S),
            (False, 2 * WRITER_MISSED_S - 0.1),
            (False, 2 * WRITER_MISSED_S),
            (False, 3 * WRITER_MISSED_S),
        )
    ]
    assert changes == [False, False, False, False, False, True, False]
    assert watch.missed
    assert watch.present is False
    assert watch.update(present=True, now=4 * WRITER_MISSED_S)
    assert not watch.missed
