"""Converts the values of the configuration file from TOML's types to the program's.

Each function raises ValueError for a value that it does not accept; `ftfw.config.config_errors` makes the message from
the description of the field.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import NamedTuple

PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ospf": 89,
    "sctp": 132,
    "udplite": 136,
}
TCP_STATES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)
UNIX_PATH_MAX = 107  # sun_path, less its final zero (linux/un.h)
INTERFACE_NAME_MAX = 15  # IFNAMSIZ, less its final zero (linux/if.h)
UINT32_MAX = 0xFFFFFFFF

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class PortRange(NamedTuple):
    """Covers the ports from `first` to `last`, both included."""

    first: int
    last: int


class Mark(NamedTuple):
    """Matches a flow if its mark, masked with `mask`, equals `value`."""

    value: int
    mask: int


class Endpoint(NamedTuple):
    """Names a place to listen: an address or a host name, and a TCP port."""

    host: str
    port: int


def text(value: object) -> str:
    """Return a string."""
    if isinstance(value, str):
        return value
    raise ValueError


def bounded(value: object, low: int, high: int) -> int:
    """Return an integer from `low` to `high`; a boolean is not accepted as one."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError
    return value


def address(value: object) -> Address:
    """Return an IPv4 or IPv6 address."""
    return ip_address(text(value))


def multicast_address(value: object) -> Address:
    """Return the address of a multicast group."""
    found = address(value)
    if not found.is_multicast:
        raise ValueError
    return found


def host_address(value: object) -> Address:
    """Return an address that a host can have."""
    found = address(value)
    if found.is_multicast or found.is_unspecified:
        raise ValueError
    return found


def network(value: object) -> Network:
    """Return a network, or a single address as a network; host bits are not accepted."""
    return ip_network(text(value))


def protocol(value: object) -> int:
    """Return the number of an IP protocol given by name or number."""
    if isinstance(value, str):
        name = value.lower()
        return PROTOCOLS[name] if name in PROTOCOLS else bounded(int(name), 0, 255)
    return bounded(value, 0, 255)


def port_range(value: object) -> PortRange:
    """Return a range of ports, given as "first-last" or as one port, a number or a string."""
    if isinstance(value, str):
        first, dash, last = value.partition("-")
        limits = PortRange(bounded(int(first), 0, 65535), bounded(int(last if dash else first), 0, 65535))
    else:
        limits = PortRange(bounded(value, 0, 65535), bounded(value, 0, 65535))
    if limits.first > limits.last:
        raise ValueError
    return limits


def mark(value: object) -> Mark:
    """Return a mark, given as "value/mask" or as a value with a full mask; a flow must be able to match it."""
    if isinstance(value, str):
        wanted, slash, mask = value.partition("/")
        found = Mark(
            bounded(int(wanted, 0), 0, UINT32_MAX),
            bounded(int(mask, 0), 0, UINT32_MAX) if slash else UINT32_MAX,
        )
    else:
        found = Mark(bounded(value, 0, UINT32_MAX), UINT32_MAX)
    if found.value & ~found.mask:
        raise ValueError
    return found


def tcp_state(value: object) -> str:
    """Return the kernel's name of a TCP state."""
    state = text(value).upper()
    if state not in TCP_STATES:
        raise ValueError
    return state


def expectations(value: object) -> bool | tuple[str, ...]:
    """Return True for all expectations, False for none, or the names of the helpers whose expectations are wanted."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError
    if not all(isinstance(helper, str) and re.fullmatch(r"[\w.+-]{1,15}", helper) for helper in value):
        raise ValueError
    return tuple(value)


def endpoint(value: object) -> Endpoint:
    """Return a place to listen, given as "host:port" with an IPv6 address in brackets."""
    host, _, port = text(value).rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(IPv6Address(host[1:-1]))
    elif not host or ":" in host:
        raise ValueError
    return Endpoint(host, bounded(int(port), 1, 65535))


def absolute_path(value: object) -> Path:
    """Return an absolute path."""
    path = Path(text(value))
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError
    return path


def socket_path(value: object) -> Path:
    """Return an absolute path that fits into a socket address."""
    path = absolute_path(value)
    if len(bytes(path)) > UNIX_PATH_MAX:
        raise ValueError
    return path


def interface(value: object) -> str:
    """Return a name that the kernel accepts for an interface."""
    name = text(value)
    if not 0 < len(name) <= INTERFACE_NAME_MAX or re.search(r"[\s/:]", name) or name in {".", ".."}:
        raise ValueError
    return name
