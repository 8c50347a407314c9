from collections.abc import Iterable
from typing import Any

import pytest

from ftfw.cli.brace_syntax import Statement
from ftfw.cli.migration.conntrackd_options import SINGLE
from ftfw.cli.migration.conntrackd_syntax import MigrationError, parse, quoted


def shape(statements: Iterable[Statement]) -> list[Any]:
    return [
        " ".join((each.name, *each.values))
        if each.block is None
        else [" ".join((each.name, *each.values)), shape(each.block)]
        for each in statements
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Sync {\n  Mode FTFW {\n    CommitTimeout 5 # seconds\n  }\n\n# over\n}\nGeneral { UNIX { Path /a#b} } }",
        "Sync\n{\nMode FTFW\n{ CommitTimeout\n5 } } General{UNIX{Path /a#b} }\n}",
    ],
)
def test_white_space_means_nothing_where_the_option_is_known(text: str) -> None:
    found = shape(parse(text, SINGLE))
    assert found == [["Sync", [["Mode FTFW", ["CommitTimeout 5"]]]], ["General", [["UNIX", ["Path /a#b}"]]]]]


def test_an_unknown_option_ends_with_its_line() -> None:
    found = shape(parse("Sync { Novelty a b\nCommitTimeout 5 }", SINGLE))
    assert found == [["Sync", ["Novelty a b", "CommitTimeout 5"]]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Sync {\nMode FTFW {\n}\n", 'line 4: found the end of the file; expected "}" for "Sync" of line 1'),
        ("Sync {\n}\n}\n", 'line 3: found "}"; expected as many "}" as "{"'),
        ("\n{ }", 'line 2: found "{"; expected the name of a section before it'),
        ("Sync {\nCommitTimeout\n}", 'line 3: found "}"; expected a value for "CommitTimeout" of line 2'),
        ("General {\nHashSize", 'line 2: found the end of the file; expected a value for "HashSize" of line 2'),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(MigrationError) as caught:
        parse(text, SINGLE)
    assert str(caught.value) == message


def test_a_word_is_shown_without_anything_that_a_terminal_obeys() -> None:
    assert quoted("x\x1b[1m") == r'"x\x1b[1m"'
    assert quoted("x" * 61) == f'"{"x" * 60}…"'
