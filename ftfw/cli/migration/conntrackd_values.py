"""The values of conntrackd's options. Each function raises MigrationError for what it does not take.  Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Final

from ftfw.cli.migration.conntrackd_syntax import Statement, quoted, refuse
from ftfw.config import value_types
from ftfw.config.value_types import Address, Network

YES: Final = {"on", "yes"}
NO: Final = {"off", "no"}
HELPERS: Final = {"ras": "RAS", "q.931": "Q.931", "h.245": "H.245"}
"""Names of helpers as the kernel has them, by the names in conntrackd's manual."""

PROTOCOLS: Final = {"ipv6-icmp": "icmpv6", "ipencap": "ipip"}
"""Names in /etc/protocols that ftfw has others for."""

STATES: Final = {"CLOSED": "CLOSE", "LISTEN": "SYN_SENT2"}  # enum tcp_conntrack: 9 was LISTEN once


def one(statement: Statement, expected: str) -> str:
    """Return a statement's only value."""
    if len(statement.values) != 1:
        refuse(
            statement.line, quoted(" ".join((statement.name, *statement.values))), f"{expected} behind {statement.name}"
        )
    return statement.values[0]


def switch(statement: Statement) -> bool:
    """Take yes, no, on or off."""
    word = one(statement, "yes or no")
    if word.lower() not in YES | NO:
        refuse(statement.line, quoted(word), f"yes or no for {statement.name}")
    return word.lower() in YES


def integer(statement: Statement) -> int:
    """Take a number that is not negative, of at most 20 digits."""
    word = one(statement, "a number")
    if not re.fullmatch(r"[0-9]{1,20}", word):
        refuse(statement.line, quoted(word), f"a number for {statement.name}")
    return int(word)


def port(statement: Statement) -> int:
    """Take a port."""
    found = integer(statement)
    if not 1 <= found <= 65535:
        refuse(statement.line, str(found), f"a port, 1 to 65535, for {statement.name}")
    return found


def interface(statement: Statement) -> str:
    """Take an interface's name as conntrackd's scanner does."""
    word = one(statement, "an interface")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,14}", word):
        refuse(statement.line, quoted(word), "the name of an interface, at most 15 characters")
    return word


def address(statement: Statement, kind: Callable[[object], Address], expected: str) -> Address:
    """Take an address of the family that the option's name says."""
    word = one(statement, expected)
    try:
        found = kind(word)
    except ValueError:
        refuse(statement.line, quoted(word), f"{expected} for {statement.name}")
    if not statement.name.startswith(f"IPv{found.version}") or "%" in word:
        refuse(statement.line, quoted(word), f"{expected} of the other family, or another option than {statement.name}")
    return found


def network(statement: Statement) -> Network:
    """Take an address, or a network; bits behind its prefix do not count, as conntrackd has it."""
    word = one(statement, "an address or a network")
    try:
        return ip_network(word if "%" not in word else "", strict=False)
    except ValueError:
        refuse(statement.line, quoted(word), f"an address or a network for {statement.name}")


def protocol(word: str, line: int) -> str | int:
    """Take a protocol by name or number, and return what ftfw calls it."""
    name = PROTOCOLS.get(word.lower(), word.lower())
    try:
        number = value_types.protocol(name)
    except ValueError:
        known = ", ".join((*value_types.PROTOCOLS, *PROTOCOLS))
        refuse(line, quoted(word), f"one of {known}, or, in a copy of the file, the protocol's number")
    return next((known for known, each in value_types.PROTOCOLS.items() if each == number), number)


def tcp_state(word: str, line: int) -> str:
    """Take a TCP state, and return what ftfw calls it."""
    try:
        return value_types.tcp_state(STATES.get(word, word))
    except ValueError:
        refuse(line, quoted(word), f"one of {', '.join((*value_types.TCP_STATES, *STATES))}")


def helper(word: str, line: int) -> str:
    """Take a helper's name, and return the kernel's spelling."""
    if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,15}", word):
        refuse(line, quoted(word), "the name of a helper, at most 15 characters")
    return HELPERS.get(word.lower(), word)
