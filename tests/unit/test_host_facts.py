from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.daemon import local_host
from ftfw.kernel import helpers
from ftfw.replication import messages
from ftfw.replication.host_facts import are_facts
from ftfw.replication.limits import FACT_TEXT_MAX as TEXT_MAX
from ftfw.replication.limits import FACTS_MAX
from ftfw.replication.messages import BodyError, Facts
from ftfw.security.frames import OVERHEAD
from ftfw.system import sysctl

SMALLEST_BODY = 576 - 48 - OVERHEAD  # bytes: the smallest MTU that can be configured, over IPv6
TEXT = st.text(st.characters(categories=["L", "N"]), max_size=TEXT_MAX)
FACT = st.integers(-(2**63), 2**64 - 1) | TEXT | st.lists(TEXT, max_size=FACTS_MAX)


@given(st.dictionaries(TEXT, FACT, max_size=FACTS_MAX))
def test_facts_come_as_they_were_told(told: dict[str, Any]) -> None:
    assert messages.unpack(messages.facts("fw1", told, 1392)) == Facts("fw1", told)


@pytest.mark.parametrize("limit", [400, 1392, 8000, 65000])
def test_they_fill_a_frame_and_no_more(limit: int) -> None:
    assert len(messages.facts("fw1", {"kernel": "6.1"}, limit)) == limit


def test_what_a_host_tells_fits_into_the_smallest_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctl, "read", lambda _: 2**31 - 1)
    told = local_host.facts("warm", 1472, list(helpers.HELPERS))
    assert are_facts(told)
    assert told["entries_max"] == 2**31 - 1
    assert len(messages.facts("n" * 64, {**told, "kernel": "k" * TEXT_MAX}, SMALLEST_BODY)) <= SMALLEST_BODY


@pytest.mark.parametrize(
    "told",
    [
        {"a": None},
        {"a": True},
        {"a": 1.5},
        {"a": {"b": 1}},
        {"a": b"x"},
        {"a": ["x", 1]},
        {"a": "x" * (TEXT_MAX + 1)},
        {"a": ["x"] * (FACTS_MAX + 1)},
        {"a": "\x1b[31mred"},
        {"a\n": 1},
        {str(number): 1 for number in range(FACTS_MAX + 1)},
        {1: 1},
    ],
)
def test_what_is_no_fact_is_refused_as_a_whole(told: dict[Any, Any]) -> None:
    assert not are_facts(told)
    with pytest.raises(BodyError, match="malformed"):
        messages.unpack(messages.facts("fw1", told, 0))
