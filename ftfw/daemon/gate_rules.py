"""Writes the gate's table in nft's language.  Pure.

The table drops traffic while its set `shut` has its one element. A datagram from the daemon's socket to port SHUT of
the loopback adds the element or restarts its timeout; one to port OPEN deletes it. The table drops these datagrams.
None of this is a transaction of nf_tables: a transaction makes each listing of the ruleset begin again, and a listing
that takes longer than the time between two transactions would never end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final

NAME: Final = "ftfw_gate"
LOOPBACK: Final = "127.0.0.1"
SHUT, OPEN = 1, 2  # destination ports
TIMEOUT_S: Final = 2

# The key is a constant expression, as nft has no sets of constants.  `size`: a deleted element counts until the kernel
# collects it, once every timeout.
_TABLE = """
table inet {name} {{
    flags owner
    set shut {{
        typeof numgen inc mod 1
        size 1024
        flags dynamic, timeout
        timeout {timeout}s
    }}
    set own4 {{
        type ipv4_addr
    }}
    set own6 {{
        type ipv6_addr
    }}
    counter dropped {{
    }}
    chain gate {{
        type filter hook prerouting priority raw - 10
        iifname {{ {interfaces} }} numgen inc mod 1 @shut goto wait
    }}
    chain wait {{
        meta pkttype {{ broadcast, multicast }} accept
        meta l4proto vrrp accept
        icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} accept
        ip6 daddr fe80::/10 accept
        ip daddr @own4 accept
        ip6 daddr @own6 accept
        counter name dropped drop
    }}
    chain knock {{
        type filter hook output priority raw - 10
        ip saddr {loopback} udp sport {port} goto knocked
    }}
    chain knocked {{
        udp dport {shut} update @shut {{ numgen inc mod 1 }} drop
        udp dport {open} delete @shut {{ numgen inc mod 1 }} drop
    }}
}}
"""
REMOVE: Final = f"delete table inet {NAME}"
COUNT: Final = f"list counter inet {NAME} dropped"


def table(interfaces: Sequence[str], own: Iterable[bytes], port: int) -> str:
    """Return the commands that make the table, with the gate open.

    `own` are addresses to which packets pass, packed; `port` is that of the daemon's socket.
    """
    made = _TABLE.format(
        name=NAME,
        timeout=TIMEOUT_S,
        interfaces=", ".join(f'"{interface}"' for interface in interfaces),
        loopback=LOOPBACK,
        port=port,
        shut=SHUT,
        open=OPEN,
    )
    return made + pass_to(own)


def pass_to(own: Iterable[bytes]) -> str:
    """Return the commands that pass packets to these addresses, packed, and to no others."""
    commands = ""
    for name, size in (("own4", 4), ("own6", 16)):
        commands += f"flush set inet {NAME} {name}\n"
        if elements := ", ".join(str(ip_address(packed)) for packed in sorted(own) if len(packed) == size):
            commands += f"add element inet {NAME} {name} {{ {elements} }}\n"
    return commands


def count(listed: str) -> int:
    """Return the number of dropped packets in the output of `COUNT`."""
    found = re.search(r"packets (\d+)", listed)
    return int(found[1]) if found else 0
