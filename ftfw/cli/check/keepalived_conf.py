"""Reads from keepalived.conf(5) the settings that `ftfw check` compares with ftfw.toml.  Pure; accepts any text.

keepalived itself reports errors in its file (`keepalived -t`).  Included files and parameters are not followed:
`KeepalivedConf.not_followed` names them.  Lines for one host only (`@fw1 …`) are read as lines for all hosts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from ftfw.cli.brace_syntax import Dialect, Statement, TokenKind, tokens
from ftfw.config.value_types import Address

DIALECT: Final = Dialect(
    comments="#!",
    quotes="\"'",
    ignored=r"[^\S\n]+|\\(?=\n)",  # a backslash at a line's end
    word=r"""(?:\$\{[^{}\s$]*\}|[^\s{}"'#!])+""",
)
_INCLUDE = re.compile(r"include[rmwba]?")
_HOOK = re.compile(r"notify(_(master|backup|fault|stop|deleted))?")


@dataclass(frozen=True, kw_only=True)
class NotifyFifo:
    """Holds the path of a FIFO to which keepalived writes, and its owner; None if the file names none."""

    path: str
    user: str | None


@dataclass(frozen=True, kw_only=True)
class VrrpInstance:
    """Holds the interface and the virtual addresses of a VRRP instance."""

    interface: str | None
    addresses: frozenset[Address]


@dataclass(kw_only=True)
class KeepalivedConf:
    """Holds the settings of a file.  `tracked` are the paths of track files that an instance or a group uses."""

    fifos: list[NotifyFifo] = field(default_factory=list)  # vrrp_notify_fifo
    all_fifos: set[str] = field(
        default_factory=set
    )  # paths of notify_fifo, to which keepalived writes about virtual servers as well
    tells_on_reload: bool = False
    has_hook: bool = False
    instances: dict[str, VrrpInstance] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # names of instances
    tracked: set[str] = field(default_factory=set)  # paths
    untracked: set[str] = field(default_factory=set)
    not_followed: list[str] = field(default_factory=list)


def parse(text: str) -> list[Statement]:
    """Return the statements of a file, one for each line; a brace without its partner is accepted."""
    blocks: list[list[Statement]] = [[]]
    words: list[str] = []

    def end_statement(line: int) -> None:
        given = words[1:] if words and words[0].startswith("@") else words
        if given:
            blocks[-1].append(Statement(tuple(given), line))
        words.clear()

    for kind, found, line in tokens(text, DIALECT):
        if kind is TokenKind.WORD:
            words.append(found)
            continue
        end_statement(line)
        if kind is TokenKind.OPEN:
            if not blocks[-1]:
                blocks[-1].append(Statement((), line))
            section = blocks[-1][-1]
            section.block = section.block or []
            blocks.append(section.block)
        elif kind is TokenKind.CLOSE and len(blocks) > 1:
            blocks.pop()
    end_statement(text.count("\n") + 1)
    return blocks[0]


def extract(text: str) -> KeepalivedConf:
    """Return the settings in the text of a file."""
    top = parse(text)
    found = KeepalivedConf(not_followed=list(dict.fromkeys(_not_followed(top))))
    files: dict[str, str] = {}
    used: set[str] = set()
    for statement in top:
        match statement.words:
            case ["global_defs", *_]:
                _read_globals(statement, found)
            case ["vrrp_instance" | "vrrp_sync_group" as kind, name, *_]:
                used |= {words[0] for words in _lines_of(statement, "track_file")}
                found.has_hook |= any(_HOOK.fullmatch(word) for word in _firsts(statement))
                if kind == "vrrp_instance":
                    found.instances[name] = _instance(statement)
                else:
                    found.groups[name] = tuple(word for words in _lines_of(statement, "group") for word in words)
            case ["track_file" | "vrrp_track_file", name, *_]:
                files[name] = next(_values(statement, "file"), "")
    found.tracked = {path for name, path in files.items() if name in used}
    found.untracked = set(files.values()) - found.tracked
    return found


def _read_globals(statement: Statement, found: KeepalivedConf) -> None:
    script_user = None  # holds for the lines that follow it
    for each in statement.block or ():
        match each.words:
            case ["script_user", user, *_]:
                script_user = user
            case ["vrrp_notify_fifo", path, *given]:
                found.fifos.append(NotifyFifo(path=path, user=given[0] if given else script_user))
            case ["notify_fifo", path, *_]:
                found.all_fifos.add(path)
            case ["fifo_write_vrrp_states_on_reload", *_]:
                found.tells_on_reload = True


def _instance(statement: Statement) -> VrrpInstance:
    addresses = set()
    for kind in ("virtual_ipaddress", "virtual_ipaddress_excluded"):
        for words in _lines_of(statement, kind):
            with suppress(ValueError):
                addresses.add(ip_address(words[0].partition("/")[0]))
    return VrrpInstance(interface=next(_values(statement, "interface"), None), addresses=frozenset(addresses))


def _firsts(statement: Statement) -> Iterator[str]:
    return (each.name for each in statement.block or ())


def _values(statement: Statement, name: str) -> Iterator[str]:
    """Yield the word that follows each `name` in the block."""
    return (each.words[1] for each in statement.block or () if len(each.words) > 1 and each.name == name)


def _lines_of(statement: Statement, name: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each line in the blocks called `name`."""
    for each in statement.block or ():
        if each.name == name:
            yield from (line.words for line in each.block or () if line.words)


def _not_followed(top: list[Statement]) -> Iterator[str]:
    waiting = list(reversed(top))
    while waiting:
        statement = waiting.pop()
        waiting += reversed(statement.block or ())
        first = statement.name
        if _INCLUDE.fullmatch(first):
            yield " ".join(statement.words)
        elif first.startswith(("$", "~")):
            yield "parameters" if first.startswith("$") else "~SEQ"
