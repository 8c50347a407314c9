"""Parses conntrackd.conf(5) into statements.  Pure.

conntrackd treats a line's end as white space, because its grammar knows how many words each option takes.  Here
`conntrackd_options.SINGLE` names the options that take one value; any other statement ends with its line, so that an
unknown option does no harm.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final, NoReturn

from ftfw.cli.brace_syntax import Dialect, Statement, TokenKind, tokens

# As in conntrackd's scanner, a path extends to the next white space, whatever it contains.
DIALECT: Final = Dialect(comments="#", word=r"/[^\s\"]+|[^\s{}#]+")
_SHOWN_LENGTH_MAX: Final = 60


class MigrationError(Exception):
    """Raised if the file cannot be translated; the message has the line, what was found, and what was expected."""


def refuse(line: int, found: str, expected: str) -> NoReturn:
    """Raise MigrationError with the line, what was found and what was expected."""
    raise MigrationError(f"line {line}: found {found}; expected {expected}")


def quoted(word: str) -> str:
    """Return a word of the file as messages show it, with control characters escaped."""
    shown = word.encode("unicode_escape").decode()
    return f'"{shown}"' if len(shown) <= _SHOWN_LENGTH_MAX else f'"{shown[:_SHOWN_LENGTH_MAX]}…"'


def parse(text: str, single: Set[str]) -> tuple[Statement, ...]:
    """Return the statements of the file; those named in `single` take one value, or a block.

    Raises MigrationError if the braces do not match, or if a value is missing.
    """
    parser = _Parser(single)
    for kind, found, line in tokens(text, DIALECT):
        match kind:
            case TokenKind.WORD:
                parser.add_word(found, line)
            case TokenKind.OPEN:
                parser.open_section(line)
            case TokenKind.CLOSE:
                parser.close_section(line)
            case TokenKind.LINE_END:
                parser.end_line()
    return parser.end_file(text.count("\n") + 1)


class _Parser:
    """Builds statements from tokens."""

    def __init__(self, single: Set[str]) -> None:
        self._single = single
        self._sections: list[Statement] = []  # those that are open, the innermost last
        self._blocks: list[list[Statement]] = [[]]  # the file's, and those of these sections
        self._words: list[str] = []  # of the statement under way, whose braces may follow
        self._begun = 1  # the line of its first word
        self._is_complete = False  # only its braces may follow

    def add_word(self, word: str, line: int) -> None:
        if self._words and not self._is_complete:
            self._words.append(word)
            self._is_complete = self._words[0] in self._single
        else:
            self._end_statement(line, quoted(word))
            self._words, self._begun, self._is_complete = [word], line, False

    def open_section(self, line: int) -> None:
        if not self._words:
            refuse(line, '"{"', "the name of a section before it")
        block: list[Statement] = []
        section = Statement(tuple(self._words), self._begun, block)
        self._blocks[-1].append(section)
        self._blocks.append(block)
        self._sections.append(section)
        self._words, self._is_complete = [], False

    def close_section(self, line: int) -> None:
        self._end_statement(line, '"}"')
        if not self._sections:
            refuse(line, '"}"', 'as many "}" as "{"')
        self._sections.pop()
        self._blocks.pop()

    def end_line(self) -> None:
        if self._words and not self._lacks_value():
            self._is_complete = True

    def end_file(self, line: int) -> tuple[Statement, ...]:
        self._end_statement(line, "the end of the file")
        if self._sections:
            section = self._sections[-1]
            refuse(line, "the end of the file", f'"}}" for {quoted(section.name)} of line {section.line}')
        return tuple(self._blocks[0])

    def _end_statement(self, line: int, found: str) -> None:
        if self._lacks_value():
            refuse(line, found, f"a value for {quoted(self._words[0])} of line {self._begun}")
        if self._words:
            self._blocks[-1].append(Statement(tuple(self._words), self._begun))
        self._words = []

    def _lacks_value(self) -> bool:
        return len(self._words) == 1 and self._words[0] in self._single
