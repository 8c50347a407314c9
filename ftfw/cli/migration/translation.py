"""Translates a conntrackd.conf into a configuration of ftfw, and remarks on options without an equivalent.  Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ftfw.cli.brace_syntax import Statement
from ftfw.cli.migration import conntrackd_filters
from ftfw.cli.migration.conntrackd_options import (
    OPTIONS,
    SINGLE,
    Remark,
    Severity,
    TranslatedOption,
    UntranslatedOption,
)
from ftfw.cli.migration.conntrackd_syntax import parse, quoted, refuse
from ftfw.cli.migration.conntrackd_values import address, boolean, helper, integer, interface, only_value, port
from ftfw.config import value_types as values
from ftfw.config.schema import KernelSection

KEY_FILE: Final = "/etc/ftfw/link.key"
EVENT_BUFFER_BYTES: Final[int] = KernelSection.model_fields["event_buffer_bytes"].default
EVENT_BUFFER_BYTES_MAX: Final = 1 << 30
COMMENT_COLUMN: Final = 40
MODES: Final = {"FTFW", "NOTRACK", "ALARM"}
OTHER_PORT: Final = "give ftfw another port while conntrackd still runs, on all nodes: neither understands the other"
STOP_FIRST: Final = (
    "without an external cache, stop conntrackd on the backup before ftfw starts there: it would replicate what ftfw"
    " changes in the backup's kernel to the active, deletions included"
)
OWN: Final = {"IPv4_interface", "IPv4_address", "IPv6_address"}
_REQUIRED: Final = {
    "Multicast": {"interface": "Interface", "group": "IPv4_address or IPv6_address", "port": "Group"},
    "UDP": {
        "bind": "IPv4_address or IPv6_address",
        "peers": "IPv4_Destination_Address or IPv6_Destination_Address",
        "port": "Port",
    },
}
_REQUIRED["TCP"] = _REQUIRED["UDP"]

HEADING: Final = """\
# Translated from a configuration of conntrackd; the comments name its lines. What has no equivalent was reported on
# standard error. docs/configuration.md explains every key, docs/migration.md how to change from conntrackd to ftfw.
"""


class NothingToDoError(Exception):
    """Raised if the file is correct, and makes conntrackd do nothing that ftfw does."""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """Holds a whole configuration with the lines it came from, and remarks in the order of severity, then of line."""

    toml: str
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class _Value:
    value: object
    comment: str


_Table = dict[str, _Value]


@dataclass
class _Draft:
    """Collects the translated options."""

    links: list[tuple[Statement, _Table]] = field(default_factory=list)
    tables: dict[str, _Table] = field(default_factory=dict)
    filters: conntrackd_filters.FilterTranslation = field(default_factory=conntrackd_filters.FilterTranslation)
    remarks: list[Remark] = field(default_factory=list)
    own: list[str] = field(default_factory=list)  # addresses of this host, as the links' sections show them

    def remark(self, line: int, option: str, severity: Severity, why: str) -> None:
        self.remarks.append(Remark(line=line, option=option, severity=severity, why=why))

    def set_key(self, key: str, value: object, comment: str) -> None:
        table, _, name = key.partition(".")
        self.tables.setdefault(table, {})[name] = _Value(value, comment)


def translate(text: str) -> Translation:
    """Translate the text of a conntrackd.conf.

    Raises MigrationError if it is malformed or lacks a value, NothingToDoError if it replicates nothing.
    """
    draft = _Draft()
    statements = parse(text, SINGLE)
    if not any(statement.name == "Sync" for statement in statements):
        raise NothingToDoError(_why_nothing({statement.name for statement in statements}))
    draft.set_key(
        "security.key_files", [KEY_FILE], f"conntrackd has no keys: `ftfw keygen {KEY_FILE}`, the same on all nodes"
    )
    draft.remark(
        *(0, "security.key_files", Severity.DIFFERS),
        f"conntrackd has no keys: make one with `ftfw keygen {KEY_FILE}`, and copy it to every node",
    )
    _translate_all(statements, "", draft)
    if not draft.links:
        raise NothingToDoError("no Multicast, UDP or TCP in Sync: there is no link to replicate over")
    _finish(draft)
    order = list(Severity)
    remarks = sorted(draft.remarks, key=lambda remark: (order.index(remark.severity), remark.line))
    return Translation(toml="".join(_toml(draft)), remarks=tuple(remarks))


def _why_nothing(sections: set[str]) -> str:
    for name, what in (("Stats", "collects statistics"), ("Helper", "runs helpers in user space")):
        if name in sections:
            return (
                f"this conntrackd {what} and replicates nothing; ftfw only replaces what `Sync` does: keep conntrackd"
            )
    return "no Sync: there is nothing to translate; name the file that conntrackd replicates with"


def _translate_all(statements: Iterable[Statement], path: str, draft: _Draft) -> None:
    for statement in statements:
        option = f"{path}.{statement.name}" if path else statement.name
        rule = OPTIONS.get(option) if "." not in statement.name else None  # dots are of this path only
        if rule is None:
            shown = quoted(option)[1:-1]
            draft.remark(statement.line, shown, Severity.LOST, "no option of conntrackd 1.4.7 that ftfw knows of")
        elif isinstance(rule, UntranslatedOption):
            draft.remark(statement.line, option, rule.severity, rule.why)
        elif isinstance(rule, TranslatedOption):
            _translate_option(option, statement, rule.key, draft)
        elif statement.block is None:
            refuse(statement.line, quoted(statement.name), f'"{{" behind it: {statement.name} is a section')
        else:
            _enter(option, statement, draft)
            _translate_all(statement.block, option, draft)


def _enter(option: str, section: Statement, draft: _Draft) -> None:
    """Translate the words before a section's braces."""
    match option:
        case "Sync.Mode":
            mode = only_value(section, "FTFW, NOTRACK or ALARM").upper()
            if mode not in MODES:
                refuse(section.line, quoted(section.values[0]), "FTFW, NOTRACK or ALARM for Mode")
            if mode != "FTFW":
                why = f"there is no {mode}: ftfw sends again what was lost, as FTFW does"
                draft.remark(section.line, option, Severity.DIFFERS, why)
        case "Sync.Multicast" | "Sync.UDP" | "Sync.TCP":
            comment = f"line {section.line}: {section.name}"
            draft.links.append((section, {"transport": _Value(section.name.lower(), comment)}))
            draft.own += (word for each in section.block or () if each.name in OWN for word in each.values)
            if "Default" in section.values:
                why = "there is no first link: every frame goes over all of them"
                draft.remark(section.line, f"{option} Default", Severity.DIFFERS, why)


def _translate_option(option: str, statement: Statement, key: str, draft: _Draft) -> None:
    comment = f"line {statement.line}: {statement.name}"
    section, _, name = key.partition(".")
    match section:
        case "link":
            draft.links[-1][1][name] = _Value(_link_value(name, statement), comment)
            if name == "port":
                draft.remark(statement.line, option, Severity.DIFFERS, OTHER_PORT)
        case "standby":
            hot = boolean(statement)
            draft.set_key(key, "hot" if hot else "warm", comment)
            if hot:
                draft.remark(statement.line, option, Severity.DIFFERS, STOP_FIRST)
        case "kernel":
            _event_buffer(option, statement, draft)
        case _ if name == "expectations":
            draft.set_key(key, _expectations(statement), comment)
        case _:
            draft.filters.add(statement)


def _link_value(name: str, statement: Statement) -> object:
    match name:
        case "group":
            return str(address(statement, values.multicast_address, "a multicast address"))
        case "bind":
            return str(address(statement, values.host_address, "an address of this host"))
        case "peers":
            return [str(address(statement, values.host_address, "an address of the other node"))]
        case "port":
            return port(statement)
    return interface(statement)


def _event_buffer(option: str, statement: Statement, draft: _Draft) -> None:
    size = integer(statement)
    found = draft.tables.get("kernel", {}).get("event_buffer_bytes")
    least = found.value if found is not None else EVENT_BUFFER_BYTES
    assert isinstance(least, int)
    if size <= least:
        why = f"ftfw's event buffer is {least} bytes, which is no less"
        draft.remark(statement.line, option, Severity.NOT_NEEDED, why)
        return
    if size > EVENT_BUFFER_BYTES_MAX:
        why = f"ftfw accepts at most {EVENT_BUFFER_BYTES_MAX} bytes"
        draft.remark(statement.line, option, Severity.DIFFERS, why)
        size = EVENT_BUFFER_BYTES_MAX
    draft.set_key("kernel.event_buffer_bytes", size, f"line {statement.line}: {statement.name}")


def _expectations(statement: Statement) -> object:
    if statement.block is None:
        return boolean(statement)
    found = [helper(word, line) for word, line in conntrackd_filters.words(statement.block)]
    return list(dict.fromkeys(found)) or False


def _finish(draft: _Draft) -> None:
    """Add the keys that follow from the whole file, and from options that it leaves out."""
    places: dict[tuple[object, ...], int] = {}
    for section, link in draft.links:
        _check_link(section, link)
        names = ("interface", "group") if "group" in link else ("transport", "bind")
        place = tuple(link[name].value for name in (*names, "port"))
        if place in places:
            refuse(
                section.line, f"the same place as line {places[place]}", f"another address or port for {section.name}"
            )
        places[place] = section.line
    for name, value, comment in draft.filters.chosen():
        draft.set_key(f"replicate.{name}", value, comment)
    draft.remarks += draft.filters.remarks(draft.own)
    if "standby" not in draft.tables:
        draft.set_key("standby.mode", "warm", "no DisableExternalCache")
    if "expectations" not in draft.tables.get("replicate", {}):
        draft.set_key(
            "replicate.expectations", False, "no ExpectationSync; true keeps related flows of FTP and others alive"
        )
        why = (
            "conntrackd replicates no expectations by default; `true` keeps related flows of FTP, SIP and others alive"
        )
        draft.remark(0, "replicate.expectations", Severity.DIFFERS, why)


def _check_link(section: Statement, link: _Table) -> None:
    for name, options in _REQUIRED[section.name].items():
        if name not in link:
            refuse(section.line, f"{section.name} without {options}", f"it, since ftfw needs link.{name}")
    if "bind" in link:
        bind, peers = link["bind"].value, link["peers"].value
        assert isinstance(peers, list)
        if bind in peers or any((":" in str(bind)) != (":" in peer) for peer in peers):
            refuse(section.line, f"{bind} and {', '.join(peers)}", f"two addresses of one family for {section.name}")


def _toml(draft: _Draft) -> Iterator[str]:
    yield HEADING
    for _, link in draft.links:
        yield from _table("[[link]]", link)
    for name in ("security", "standby", "replicate", "kernel"):
        if name in draft.tables:
            yield from _table(f"[{name}]", draft.tables[name])


def _table(heading: str, table: _Table) -> Iterator[str]:
    yield f"\n{heading}\n"
    for name, value in table.items():
        # JSON's strings, numbers, booleans and arrays are TOML's, too: the strings here are all plain ASCII.
        yield f"{f'{name} = {json.dumps(value.value)}':<{COMMENT_COLUMN}}  # {value.comment}\n"
