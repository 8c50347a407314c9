import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.cli.brace_syntax import Dialect, Statement, Token, TokenKind, tokens
from ftfw.cli.check.keepalived_conf import DIALECT as KEEPALIVED
from ftfw.cli.migration.conntrackd_syntax import DIALECT as CONNTRACKD

PLAIN = Dialect(comments="#", word=r"[^\s{}#]+")
QUOTED = Dialect(comments="#;", word=r"[^\s{}#;\"']+", quotes="\"'")


def words(text: str, dialect: Dialect) -> list[str]:
    return [token.text for token in tokens(text, dialect) if token.kind is TokenKind.WORD]


def test_tokens_have_their_kind_and_their_line() -> None:
    assert list(tokens("a {\n # no\n b }", PLAIN)) == [
        Token(TokenKind.WORD, "a", 1),
        Token(TokenKind.OPEN, "{", 1),
        Token(TokenKind.LINE_END, "\n", 1),
        Token(TokenKind.LINE_END, "\n", 2),
        Token(TokenKind.WORD, "b", 3),
        Token(TokenKind.CLOSE, "}", 3),
    ]


@pytest.mark.parametrize(
    ("text", "dialect", "expected"),
    [
        ("a#b\nc", PLAIN, ["a", "c"]),
        ('"a b" c', PLAIN, ['"a', 'b"', "c"]),
        ('"a b" c', QUOTED, ["a b", "c"]),
        ("'a \" b' c", QUOTED, ['a " b', "c"]),
        (r'"a \" \\ b"', QUOTED, ['a " \\ b']),
        ('"a ; { b', QUOTED, ["a ; { b"]),
        ('"a\nb"', QUOTED, ["a", "b", ""]),
        ("a;b", QUOTED, ["a"]),
        ("a!b ${C}/d", KEEPALIVED, ["a"]),
        ("a ${C}/d{", KEEPALIVED, ["a", "${C}/d"]),
        ("a \\\nb", KEEPALIVED, ["a", "b"]),
        ("Path /a#b}c d}", CONNTRACKD, ["Path", "/a#b}c", "d"]),
    ],
)
def test_words_by_the_dialect(text: str, dialect: Dialect, expected: list[str]) -> None:
    assert words(text, dialect) == expected


def test_a_statement_has_a_name_and_values() -> None:
    assert (Statement(("a", "b", "c"), 1).name, Statement(("a", "b", "c"), 1).values) == ("a", ("b", "c"))
    assert (Statement((), 1).name, Statement((), 1).values) == ("", ())


@given(st.text(), st.sampled_from([PLAIN, QUOTED, KEEPALIVED, CONNTRACKD]))
def test_any_text_has_a_line_end_for_each_line_and_lines_that_grow(text: str, dialect: Dialect) -> None:
    found = list(tokens(text, dialect))
    assert sum(token.kind is TokenKind.LINE_END for token in found) == text.count("\n")
    lines = [token.line for token in found]
    assert lines == sorted(lines)
    assert set(lines) <= set(range(1, text.count("\n") + 2))
