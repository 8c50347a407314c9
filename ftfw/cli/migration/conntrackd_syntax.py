"""What conntrackd.conf(5) looks like: statements in braces.  Pure.

For conntrackd a line's end is white space, and its grammar knows how many words each option takes. Here the same is
told by `options.SINGLE`; what is not in it ends with its line, so that unknown options do no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import NoReturn

# As in conntrackd's scanner, a path goes on to the next white space, whatever is in it.
_TOKENS = re.compile(r"(?P<space>[^\S\n]+|#[^\n]*)|(?P<end>\n)|(?P<brace>[{}])|(?P<word>/[^\s\"]+|[^\s{}#]+)")
_SHOWN_LENGTH_MAX = 60


class MigrationError(Exception):
    """The file cannot be translated. The message names the line, what was found, and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """An option with its values, or a section: then `block` is what its braces hold."""

    name: str
    values: tuple[str, ...]
    line: int
    block: tuple[Statement, ...] | None = None


@dataclass(slots=True)
class _Open:
    """A statement whose words, or whose closing brace, are still to come."""

    words: list[str]
    line: int
    block: list[Statement]


def refuse(line: int, found: str, expected: str) -> NoReturn:
    """Raise MigrationError."""
    raise MigrationError(f"line {line}: found {found}; expected {expected}")


def quoted(word: str) -> str:
    """Give a word of the file as messages show it, without anything a terminal might obey."""
    shown = word.encode("unicode_escape").decode()
    return f'"{shown}"' if len(shown) <= _SHOWN_LENGTH_MAX else f'"{shown[:_SHOWN_LENGTH_MAX]}…"'


def parse(text: str, single: Set[str]) -> tuple[Statement, ...]:
    """Return the statements of the file; those named in `single` take one value, or a block.

    Raises MigrationError where the braces do not match, or a value is missing.
    """
    sections = [_Open([], 0, [])]  # the file itself, and the sections that are open
    statement: _Open | None = None  # its braces may follow
    complete = False  # whether only they may
    line = 1
    for kind, word in _tokens(text):
        if kind == "end":
            complete = complete or (statement is not None and not _lacks_value(statement, single))
            line += 1
        elif kind == "brace" and word == "{":
            if statement is None:
                refuse(line, '"{"', "the name of a section before it")
            sections.append(statement)
            statement, complete = None, False
        elif kind == "brace":
            _finish(statement, sections[-1], single, line, '"}"')
            statement = None
            if len(sections) == 1:
                refuse(line, '"}"', 'as many "}" as "{"')
            section = sections.pop()
            sections[-1].block.append(_made(section, tuple(section.block)))
        elif statement is None or complete:
            _finish(statement, sections[-1], single, line, quoted(word))
            statement, complete = _Open([word], line, []), False
        else:
            statement.words.append(word)
            complete = statement.words[0] in single
    _finish(statement, sections[-1], single, line, "the end of the file")
    if len(sections) > 1:
        refuse(line, "the end of the file", f'"}}" for {quoted(sections[-1].words[0])} of line {sections[-1].line}')
    return tuple(sections[0].block)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    for match in _TOKENS.finditer(text):
        kind = match.lastgroup
        assert kind is not None
        if kind != "space":
            yield kind, match[0]


def _lacks_value(statement: _Open, single: Set[str]) -> bool:
    return statement.words[0] in single and len(statement.words) == 1


def _finish(statement: _Open | None, section: _Open, single: Set[str], line: int, found: str) -> None:
    """Add a statement that has come to its end without braces."""
    if statement is None:
        return
    if _lacks_value(statement, single):
        refuse(line, found, f"a value for {quoted(statement.words[0])} of line {statement.line}")
    section.block.append(_made(statement, None))


def _made(statement: _Open, block: tuple[Statement, ...] | None) -> Statement:
    name, *values = statement.words
    return Statement(name=name, values=tuple(values), line=statement.line, block=block)
