"""Converts the values of conntrackd's options to ftfw's.  Pure; each raises MigrationError for a wrong value."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Final

from ftfw.cli.brace_syntax import Statement
from ftfw.cli.migration.conntrackd_syntax import quoted, refuse
from ftfw.config import value_types
from ftfw.config.value_types import Address, Network

YES: Final = {"on", "yes"}
NO: Final = {"off", "no"}
HELPERS: Final = {"ras": "RAS", "q.931": "Q.931", "h.245": "H.245"}
"""Maps names in conntrackd's manual to the kernel's names of helpers."""

PROTOCOLS: Final = {"ipv6-icmp": "icmpv6", "ipencap": "ipip"}
"""Maps names in /etc/protocols to ftfw's, where they differ."""

STATES: Final = {"CLOSED": "CLOSE", "LISTEN": "SYN_SENT2"}
"""Maps conntrackd's names of TCP states to the kernel's; value 9 of enum tcp_conntrack was LISTEN once."""


def only_value(statement: Statement, expected: str) -> str:
    """Return the only value of a statement."""
    if len(statement.values) != 1:
        refuse(
            statement.line, quoted(" ".join((statement.name, *statement.values))), f"{expected} behind {statement.name}"
        )
    return statement.values[0]


def boolean(statement: Statement) -> bool:
    """Return whether the value is yes or on, and not no or off."""
    word = only_value(statement, "yes or no")
    if word.lower() not in YES | NO:
        refuse(statement.line, quoted(word), f"yes or no for {statement.name}")
    return word.lower() in YES


def integer(statement: Statement) -> int:
    """Return a number of at most 20 digits, zero or larger."""
    word = only_value(statement, "a number")
    if not re.fullmatch(r"[0-9]{1,20}", word):
        refuse(statement.line, quoted(word), f"a number for {statement.name}")
    return int(word)


def port(statement: Statement) -> int:
    """Return a port."""
    found = integer(statement)
    if not 1 <= found <= 65535:
        refuse(statement.line, str(found), f"a port, 1 to 65535, for {statement.name}")
    return found


def interface(statement: Statement) -> str:
    """Return the name of an interface that conntrackd's scanner accepts."""
    word = only_value(statement, "an interface")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,14}", word):
        refuse(statement.line, quoted(word), "the name of an interface, at most 15 characters")
    return word


def address(statement: Statement, kind: Callable[[object], Address], expected: str) -> Address:
    """Return an address of the family that the option's name gives, as `kind` converts it."""
    word = only_value(statement, expected)
    try:
        found = kind(word)
    except ValueError:
        refuse(statement.line, quoted(word), f"{expected} for {statement.name}")
    if not statement.name.startswith(f"IPv{found.version}") or "%" in word:
        refuse(statement.line, quoted(word), f"{expected} of the other family, or another option than {statement.name}")
    return found


def network(statement: Statement) -> Network:
    """Return an address or a network; host bits are cleared, as conntrackd does."""
    word = only_value(statement, "an address or a network")
    try:
        return ip_network(word if "%" not in word else "", strict=False)
    except ValueError:
        refuse(statement.line, quoted(word), f"an address or a network for {statement.name}")


def protocol(word: str, line: int) -> str | int:
    """Return ftfw's name of a protocol given by name or number, or the number if it has none."""
    name = PROTOCOLS.get(word.lower(), word.lower())
    try:
        number = value_types.protocol(name)
    except ValueError:
        known = ", ".join((*value_types.PROTOCOLS, *PROTOCOLS))
        refuse(line, quoted(word), f"one of {known}, or, in a copy of the file, the protocol's number")
    return next((known for known, each in value_types.PROTOCOLS.items() if each == number), number)


def tcp_state(word: str, line: int) -> str:
    """Return the kernel's name of a TCP state."""
    try:
        return value_types.tcp_state(STATES.get(word, word))
    except ValueError:
        refuse(line, quoted(word), f"one of {', '.join((*value_types.TCP_STATES, *STATES))}")


def helper(word: str, line: int) -> str:
    """Return a helper's name in the kernel's spelling."""
    if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,15}", word):
        refuse(line, quoted(word), "the name of a helper, at most 15 characters")
    return HELPERS.get(word.lower(), word)
