"""Translates conntrackd's `Filter` into ftfw's `[replicate]`, which has no `Ignore`.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from ftfw.cli.brace_syntax import Statement
from ftfw.cli.migration.conntrackd_options import Remark, Severity
from ftfw.cli.migration.conntrackd_syntax import quoted, refuse
from ftfw.cli.migration.conntrackd_values import network, only_value, protocol, tcp_state
from ftfw.config import value_types
from ftfw.config.value_types import Network

ACCEPT: Final = "Accept"
IGNORE: Final = "Ignore"


@dataclass
class _Chosen:
    """Holds the values that filters of one kind accept and ignore, and the lines of these filters."""

    accepted: list[str | int] = field(default_factory=list)
    ignored: list[str | int] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)  # by policy, the first

    def left_of(self, known: Iterable[str]) -> list[str | int]:
        """Return the accepted values, or else `known`, without the ignored ones; empty if nothing is filtered."""
        if not self.lines:
            return []
        wanted = self.accepted if ACCEPT in self.lines else known
        left = [each for each in dict.fromkeys(wanted) if each not in self.ignored]
        return left or refuse(min(self.lines.values()), "a filter that lets nothing through", "something to replicate")


@dataclass
class FilterTranslation:
    """Collects the filters of a file, and translates them together."""

    _protocols: _Chosen = field(default_factory=_Chosen)
    _states: _Chosen = field(default_factory=_Chosen)
    _addresses: dict[Network, int] = field(default_factory=dict)  # accepted, with their lines
    _ignored: dict[Network, int] = field(default_factory=dict)

    def add(self, statement: Statement) -> None:
        """Add a statement `Protocol`, `Address` or `State`.  Raises MigrationError if it is wrong."""
        policy = only_value(statement, f"{ACCEPT} or {IGNORE}")
        if policy not in (ACCEPT, IGNORE):
            refuse(statement.line, quoted(policy), f"{ACCEPT} or {IGNORE} for {statement.name}")
        if not statement.block and (statement.block is None or policy == ACCEPT):
            refuse(statement.line, f"{statement.name} {policy} of nothing", "a list in braces")
        match statement.name:
            case "Protocol":
                _choose(self._protocols, policy, statement, words(statement.block), protocol)
            case "State":
                _choose(self._states, policy, statement, _states(statement.block), tcp_state)
            case _:
                places = self._addresses if policy == ACCEPT else self._ignored
                for each in statement.block:
                    if each.name not in {"IPv4_address", "IPv6_address"}:
                        refuse(each.line, quoted(each.name), "IPv4_address or IPv6_address")
                    places.setdefault(network(each), each.line)

    def chosen(self) -> Iterator[tuple[str, object, str]]:
        """Yield each key of `[replicate]` with its value and the lines that it comes from."""
        if protocols := self._protocols.left_of(value_types.PROTOCOLS):
            yield "protocols", protocols, _origin("Protocol", self._protocols.lines)
        if self._addresses:
            line = min(self._addresses.values())
            yield "addresses", [str(each) for each in self._addresses], _origin("Address", {ACCEPT: line})
        if states := self._states.left_of(value_types.TCP_STATES):
            yield "tcp_states", states, _origin("State", self._states.lines)

    def remarks(self, own: Iterable[str]) -> Iterator[Remark]:
        """Yield remarks about filters without an exact equivalent; `own` are this host's addresses in the file."""
        option = "General.Filter.Protocol"
        if IGNORE in self._protocols.lines and ACCEPT not in self._protocols.lines:
            why = "protocols without a name here are not replicated; add the numbers of those that matter"
            yield Remark(line=self._protocols.lines[IGNORE], option=option, severity=Severity.DIFFERS, why=why)
        option = "General.Filter.State"
        if self._states.lines:
            line = min(self._states.lines.values())
            why = "a flow that leaves these states is removed from the backups as well; no key costs less CPU"
            yield Remark(line=line, option=option, severity=Severity.DIFFERS, why=why)
        for place, line in self._ignored.items():
            severity, why = _why_not_ignored(place, own)
            shown = place.network_address if place.num_addresses == 1 else place
            yield Remark(line=line, option=f"General.Filter.Address Ignore {shown}", severity=severity, why=why)


def words(block: Iterable[Statement]) -> Iterator[tuple[str, int]]:
    """Yield the words of a list with their lines."""
    for statement in block:
        if statement.block is not None:
            refuse(statement.line, '"{"', "nothing but words in a list")
        for word in (statement.name, *statement.values):
            yield word, statement.line


def _states(block: Iterable[Statement]) -> Iterator[tuple[str, int]]:
    """Yield the states of `ESTABLISHED … for TCP` with their lines."""
    found = iter(words(block))
    for word, line in found:
        if word != "for":
            yield word, line
        elif (of := next(found, ("nothing", line))[0]) != "TCP":
            refuse(line, quoted(of), '"TCP" behind "for"')


def _choose(
    chosen: _Chosen,
    policy: str,
    statement: Statement,
    found: Iterable[tuple[str, int]],
    convert: Callable[[str, int], str | int],
) -> None:
    chosen.lines.setdefault(policy, statement.line)
    (chosen.accepted if policy == ACCEPT else chosen.ignored).extend(convert(word, line) for word, line in found)


def _origin(name: str, lines: dict[str, int]) -> str:
    return ", ".join(f"line {line}: {name} {policy}" for policy, line in lines.items())


def _why_not_ignored(place: Network, own: Iterable[str]) -> tuple[Severity, str]:
    if place.is_loopback:
        return Severity.NOT_NEEDED, "loopback is never replicated"
    of_link = any(_within(word, place) for word in own)
    if place.num_addresses == 1:
        return Severity.NOT_NEEDED, (
            "it is an address of this host's link: the links' own flows are never replicated"
            if of_link
            else "flows that end on this host are never replicated; if it is no address of this host, lost"
        )
    if of_link:
        return (
            Severity.LOST,
            "the links' own flows are never replicated; others of this network are: ftfw leaves nothing out by address",
        )
    return (
        Severity.LOST,
        "ftfw leaves nothing out by address: flows through this host are replicated, those that end on it not",
    )


def _within(word: str, place: Network) -> bool:
    try:
        return ip_address(word) in place
    except ValueError:
        return False
