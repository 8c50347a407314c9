"""docs/protocol.md says what the code does."""

import re
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from ftfw.kernel import entry_digest
from ftfw.replication import bucket_digests, limits, messages, state_tables
from ftfw.security import freshness_messages, security_limits
from ftfw.security.frames import HEADER_SIZE, OVERHEAD, VERSION

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text()


def rows(section: str) -> list[list[str]]:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def as_markdown(transitions: Mapping[tuple[Any, Any], Enum], first: Enum) -> Iterator[str]:
    """A table of states and its diagram, line by line; `first` is the state to begin in."""
    states, events = type(first), list(dict.fromkeys(event for _, event in transitions))
    yield "| state | " + " | ".join(event.value for event in events) + " |"
    yield "|---|" + "---|" * len(events)
    for state in states:
        following = (transitions.get((state, event)) for event in events)
        yield f"| {state.value} | " + " | ".join(found.value if found else "" for found in following) + " |"
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    for state in states:
        yield f'    state "{state.value}" as {state.name.lower()}'
    yield f"    [*] --> {first.name.lower()}"
    for (state, event), found in transitions.items():
        if found is not state:
            yield f"    {state.name.lower()} --> {found.name.lower()}: {event.value}"
    yield "```"


@pytest.mark.parametrize(
    ("name", "transitions", "first"),
    [
        ("states", state_tables.BACKUP_TRANSITIONS, state_tables.BackupState.IDLE),
        ("readings", state_tables.READING_TRANSITIONS, state_tables.Reading.NOTHING),
    ],
)
def test_the_states_are_the_tables(name: str, transitions: Mapping[tuple[Enum, Enum], Enum], first: Enum) -> None:
    found = PAGE.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]
    assert found.splitlines() == list(as_markdown(transitions, first))


def test_the_types_are_the_codes() -> None:
    told = {name: int(number) for number, name, _ in rows("Messages")}
    names = (
        *("HEARTBEAT", "EVENTS", "SNAPSHOT_BEGIN", "SNAPSHOT_PART", "SNAPSHOT_END"),
        *(
            "ACK",
            "RESYNC",
            "LOST",
            "CHALLENGE",
            "RESPONSE",
            "COMPARE",
            "DIGESTS",
            "SCOPE",
            "WANT",
            "RESYNC_ALL",
            "FACTS",
            "REWOUND",
        ),
    )
    assert told == {name: vars(messages).get(name) or vars(freshness_messages)[name] for name in names}


def test_the_limits_are_the_codes() -> None:
    told = {name.strip("`"): float(value) for name, value, _ in rows("Limits") if name != "limit"}
    constants = {n: v for module in (limits, security_limits) for n, v in vars(module).items() if n.isupper()}
    assert told == constants


def test_the_header_is_the_codes() -> None:
    fields = [row[0] for row in rows("Frames")]
    assert fields[-1] == f"{HEADER_SIZE}–"  # noqa: RUF001
    assert HEADER_SIZE + 16 == OVERHEAD
    assert VERSION == 1
    assert f"a window of {security_limits.WINDOW_COUNTERS} counters" in re.sub(r"\s+", " ", PAGE)


def test_the_digest_is_the_codes() -> None:
    block = PAGE.partition("<!-- digest -->\n```\n")[2].partition("\n```\n")[0]
    told = dict(line.split(maxsplit=1) for line in block.replace("\n" + 9 * " ", "").splitlines())
    key, value, salt = (bytes.fromhex(told[name]) for name in ("key", "value", "salt"))
    assert entry_digest.compared(value).hex() == told["compared"]
    assert [
        (each, number.to_bytes(4, sys.byteorder).hex()) for each, number in entry_digest.digests([(key, value)], salt)
    ] == [(key, told["digest"])]
    assert f"{bucket_digests.bucket_of(key, 12)} of 2^12" == told["bucket"]
