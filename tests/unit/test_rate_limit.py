import io
import logging
from collections.abc import Callable, Iterator

import pytest

from ftfw.daemon.log.rate_limit import ALWAYS, BURST, KINDS_MAX, WINDOW_S, RateLimit


class Clock:
    """Lets time pass when a test says so."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        return self.time

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        self.due.append((self.time + seconds, work))

    def pass_(self, seconds: float) -> None:
        self.time += seconds
        due, self.due = self.due, []
        for at, work in due:
            if at <= self.time:
                work()
            else:
                self.due.append((at, work))


class Log:
    def __init__(self) -> None:
        self.clock = Clock()
        self._written = io.StringIO()
        handler = logging.StreamHandler(self._written)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        handler.addFilter(RateLimit(handler, now=self.clock.now, after=self.clock.after))
        self.logger = logging.Logger("test")
        self.logger.addHandler(handler)

    def lines(self) -> list[str]:
        """Return the lines that were written since the last call."""
        found = self._written.getvalue().splitlines()
        self._written.truncate(0)
        self._written.seek(0)
        return found


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.clock.pass_(2 * WINDOW_S)
    assert made.clock.due == []  # nothing is kept of what is over


def test_the_first_few_are_written_and_then_how_many_were_not(log: Log) -> None:
    for number in range(BURST + 20):
        log.logger.warning("gate: not renewed for %.1f s", number)
    assert log.lines() == [f"WARNING gate: not renewed for {number:.1f} s" for number in range(BURST)]
    log.clock.pass_(WINDOW_S - 1)
    assert log.lines() == []
    log.clock.pass_(1)
    assert log.lines() == ["WARNING 20 more like this were left out in 60 s; the last: gate: not renewed for 24.0 s"]
    log.logger.warning("gate: not renewed for %.1f s", 0)
    assert log.lines() == ["WARNING gate: not renewed for 0.0 s"]


def test_where_nothing_was_left_out_nothing_is_said_of_it(log: Log) -> None:
    for _ in range(BURST):
        log.logger.info("plain")
    assert len(log.lines()) == BURST
    log.clock.pass_(WINDOW_S)
    assert log.lines() == []


def test_what_differs_in_more_than_numbers_is_another_thing(log: Log) -> None:
    for _ in range(BURST + 3):
        log.logger.error("%s", "fifo: no such directory")
        log.logger.warning("link: %s is down", "sync")
    log.lines()
    log.logger.error("%s", "the role and the addresses disagree")
    log.logger.warning("link: %s is down", "lan")
    log.logger.error("link: %s is down", "sync")
    assert len(log.lines()) == 3


def test_errors_that_differ_are_each_told(log: Log) -> None:
    for number in range(2 * BURST):
        log.logger.error("a scrape failed", exc_info=ValueError(number))
    assert len([line for line in log.lines() if line.startswith("ERROR ")]) == 2 * BURST


def test_a_change_of_role_is_always_told(log: Log) -> None:
    for _ in range(100):
        log.logger.info("%s is %s", "fw1", "active", extra=ALWAYS)
    assert len(log.lines()) == 100


def test_so_many_kinds_and_no_more_are_told_apart(log: Log) -> None:
    for number in range(KINDS_MAX + 100):
        log.logger.warning("stranger %s", f"address {number}")
    assert len(log.lines()) == KINDS_MAX + BURST
    log.clock.pass_(WINDOW_S)
    assert log.lines() == ["WARNING 95 more like this were left out in 60 s; the last: stranger address 1099"]


def test_one_timer_serves_all_kinds(log: Log) -> None:
    for second in range(10):
        for _ in range(BURST + 1):
            log.logger.warning("kind %s", f"no. {second}")
        log.clock.pass_(1)
    assert len(log.clock.due) == 1
    log.lines()
    log.clock.pass_(WINDOW_S - 10)
    assert len(log.lines()) == len(log.clock.due) == 1
    for _ in range(9):
        log.clock.pass_(1)
        assert len(log.lines()) == 1


def test_arguments_by_name_are_no_matter(log: Log) -> None:
    log.logger.warning("%(a)s", {"a": 1})
    assert log.lines() == ["WARNING 1"]
