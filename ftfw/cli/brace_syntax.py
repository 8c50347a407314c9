"""Splits configuration files in braces into tokens, for the grammars of keepalived.conf and conntrackd.conf.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple


class TokenKind(Enum):
    """Names the kinds of tokens; comments and white space are not tokens."""

    WORD = "word"
    OPEN = "{"
    CLOSE = "}"
    LINE_END = "line end"


class Token(NamedTuple):
    """Holds a piece of the file: `text` is a word without its quotes, `line` counts from 1."""

    kind: TokenKind
    text: str
    line: int


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Describes the tokens in which one program's files differ from another's.

    `comments` are the characters that begin a comment, `quotes` those that enclose a word; `word` and `ignored` are
    regular expressions for a word without quotes and for text that means nothing.  A quoted word ends at its line's
    end at the latest; a backslash in it makes the next character literal.
    """

    comments: str
    word: str
    quotes: str = ""
    ignored: str = r"[^\S\n]+"

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Return the expression that matches one token, under the name of its kind."""
        quoted = "|".join(rf"{quote}(?:[^{quote}\\\n]|\\.)*{quote}?" for quote in self.quotes)
        return re.compile(
            rf"(?P<ignored>{self.ignored}|[{self.comments}][^\n]*)|(?P<end>\n)|(?P<brace>[{{}}])"
            rf"|(?P<quoted>{quoted or '(?!)'})|(?P<word>{self.word})"
        )


@dataclass(slots=True)
class Statement:
    """Holds the words of a statement and the line of its first one; `block` is what its braces hold, None without."""

    words: tuple[str, ...]
    line: int
    block: list[Statement] | None = None

    @property
    def name(self) -> str:
        """Return the first word."""
        return self.words[0] if self.words else ""

    @property
    def values(self) -> tuple[str, ...]:
        """Return the words after the first one."""
        return self.words[1:]


def tokens(text: str, dialect: Dialect) -> Iterator[Token]:
    """Yield the tokens of a text; a character that begins no token is skipped."""
    line = 1
    for match in dialect.pattern.finditer(text):
        found = match[0]
        match match.lastgroup:
            case "word":
                yield Token(TokenKind.WORD, found, line)
            case "quoted":
                yield Token(TokenKind.WORD, re.sub(r"\\(.)", r"\1", found[1:].removesuffix(found[0])), line)
            case "brace":
                yield Token(TokenKind(found), found, line)
            case "end":
                yield Token(TokenKind.LINE_END, found, line)
                line += 1
