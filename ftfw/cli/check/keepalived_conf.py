"""What keepalived.conf(5) says of VRRP, as far as a check goes by it.  Pure; any text is read somehow.

keepalived itself tells what is wrong in it (`keepalived -t`). What is in other files, or is made of parameters, is not
followed: `not_followed` names it. Lines for one host only (`@fw1 …`) count for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from ftfw.config.value_types import Address

_TOKENS = re.compile(
    r"""(?P<space>[^\S\n]+|\\(?=\n)|[\#!][^\n]*)
    |(?P<end>\n)
    |(?P<brace>[{}])
    |(?P<quoted>"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)
    |(?P<word>(?:\$\{[^{}\s$]*\}|[^\s{}"'\#!])+)""",
    re.VERBOSE,
)
_INCLUDE = re.compile(r"include[rmwba]?")
_HOOK = re.compile(r"notify(_(master|backup|fault|stop|deleted))?")


@dataclass(frozen=True)
class Statement:
    """The words of a line, and what stands in the braces behind them."""

    words: tuple[str, ...]
    block: list[Statement] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Fifo:
    """A FIFO that keepalived writes to; `user` is whom it makes it for, None: not said."""

    path: str
    user: str | None


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A VRRP instance."""

    interface: str | None
    addresses: frozenset[Address]


@dataclass(kw_only=True)
class Configuration:
    """What was found.  Files that are tracked are those that an instance or a group names, too."""

    fifos: list[Fifo] = field(default_factory=list)  # vrrp_notify_fifo
    all_fifos: set[str] = field(default_factory=set)  # paths of notify_fifo, which tells of virtual servers besides
    tells_on_reload: bool = False
    has_hook: bool = False
    instances: dict[str, Instance] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # names of instances
    tracked: set[str] = field(default_factory=set)  # paths
    untracked: set[str] = field(default_factory=set)
    not_followed: list[str] = field(default_factory=list)


def parse(text: str) -> list[Statement]:
    """Return the statements of a file; braces that do not match are made to."""
    blocks: list[list[Statement]] = [[]]
    words: list[str] = []

    def end_statement() -> None:
        given = words[1:] if words and words[0].startswith("@") else words
        if given:
            blocks[-1].append(Statement(tuple(given)))
        words.clear()

    for match in _TOKENS.finditer(text):
        kind, found = match.lastgroup, match[0]
        if kind == "word":
            words.append(found)
        elif kind == "quoted":
            words.append(re.sub(r"\\(.)", r"\1", found[1:].removesuffix(found[0])))
        elif kind in ("end", "brace"):
            end_statement()
            if found == "{":
                if not blocks[-1]:
                    blocks[-1].append(Statement(()))
                blocks.append(blocks[-1][-1].block)
            elif found == "}" and len(blocks) > 1:
                blocks.pop()
    end_statement()
    return blocks[0]


def read(text: str) -> Configuration:
    """Return what a file says."""
    top = parse(text)
    found = Configuration(not_followed=list(dict.fromkeys(_not_followed(top))))
    files: dict[str, str] = {}
    used: set[str] = set()
    for statement in top:
        match statement.words:
            case ["global_defs", *_]:
                _read_globals(statement, found)
            case ["vrrp_instance" | "vrrp_sync_group" as kind, name, *_]:
                used |= {words[0] for words in _named(statement, "track_file")}
                found.has_hook |= any(_HOOK.fullmatch(word) for word in _firsts(statement))
                if kind == "vrrp_instance":
                    found.instances[name] = _instance(statement)
                else:
                    found.groups[name] = tuple(word for words in _named(statement, "group") for word in words)
            case ["track_file" | "vrrp_track_file", name, *_]:
                files[name] = next(_values(statement, "file"), "")
    found.tracked = {path for name, path in files.items() if name in used}
    found.untracked = set(files.values()) - found.tracked
    return found


def _read_globals(statement: Statement, found: Configuration) -> None:
    script_user = None  # counts for what follows it
    for each in statement.block:
        match each.words:
            case ["script_user", user, *_]:
                script_user = user
            case ["vrrp_notify_fifo", path, *given]:
                found.fifos.append(Fifo(path=path, user=given[0] if given else script_user))
            case ["notify_fifo", path, *_]:
                found.all_fifos.add(path)
            case ["fifo_write_vrrp_states_on_reload", *_]:
                found.tells_on_reload = True


def _instance(statement: Statement) -> Instance:
    addresses = set()
    for kind in ("virtual_ipaddress", "virtual_ipaddress_excluded"):
        for words in _named(statement, kind):
            with suppress(ValueError):
                addresses.add(ip_address(words[0].partition("/")[0]))
    return Instance(interface=next(_values(statement, "interface"), None), addresses=frozenset(addresses))


def _firsts(statement: Statement) -> Iterator[str]:
    return (each.words[0] for each in statement.block if each.words)


def _values(statement: Statement, name: str) -> Iterator[str]:
    """The word behind each `name` in the block."""
    return (each.words[1] for each in statement.block if len(each.words) > 1 and each.words[0] == name)


def _named(statement: Statement, name: str) -> Iterator[tuple[str, ...]]:
    """What stands in the blocks of that name, by lines."""
    for each in statement.block:
        if each.words[:1] == (name,):
            yield from (line.words for line in each.block if line.words)


def _not_followed(top: list[Statement]) -> Iterator[str]:
    waiting = list(reversed(top))
    while waiting:
        statement = waiting.pop()
        waiting += reversed(statement.block)
        first = statement.words[0] if statement.words else ""
        if _INCLUDE.fullmatch(first):
            yield " ".join(statement.words)
        elif first.startswith(("$", "~")):
            yield "parameters" if first.startswith("$") else "~SEQ"
