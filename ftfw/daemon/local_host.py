"""What the daemon reads of its host: addresses, and the kernel's timeouts."""

import logging
import os
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

import trio
from pyroute2 import IPRoute

from ftfw import __version__
from ftfw.kernel.create import Timeouts
from ftfw.replication.host_facts import TEXT_MAX, Fact
from ftfw.system import sysctl

log = logging.getLogger(__name__)

RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100

_TIMEOUTS = {
    "tcp_established": "nf_conntrack_tcp_timeout_established",
    "udp": "nf_conntrack_udp_timeout",
    "udp_stream": "nf_conntrack_udp_timeout_stream",
    "icmp": "nf_conntrack_icmp_timeout",
    "icmpv6": "nf_conntrack_icmpv6_timeout",
    "gre": "nf_conntrack_gre_timeout",
    "gre_stream": "nf_conntrack_gre_timeout_stream",
    "sctp_established": "nf_conntrack_sctp_timeout_established",
    "generic": "nf_conntrack_generic_timeout",
}


def timeouts() -> Timeouts:
    """The timeouts of this host; the kernel's defaults for those that it does not tell."""
    told = {}
    for name, switch in _TIMEOUTS.items():
        if (value := sysctl.read(switch)) is not None:
            told[name] = value
    return Timeouts(**told)


def addresses() -> frozenset[bytes]:
    """All addresses of this host, packed."""
    with IPRoute() as route:
        found = [message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in route.get_addr()]
    return frozenset(ip_address(address).packed for address in found if address)


def facts(mode: str, frame_bytes: int, helpers: list[str] | None) -> dict[str, Fact]:
    """What the other nodes' `ftfw check` compares with theirs; what this kernel does not tell is left out."""
    told: dict[str, Fact | None] = {
        "version": __version__,
        "kernel": os.uname().release[:TEXT_MAX],
        "mode": mode,
        "entries_max": sysctl.read("nf_conntrack_max"),
        "buckets": sysctl.read("nf_conntrack_buckets"),
        "frame_bytes": frame_bytes,
        "helpers": helpers,
        "clock_ms": time.time_ns() // 1_000_000,
    }
    return {name: value for name, value in told.items() if value is not None}


async def watch_addresses(changed: Callable[[frozenset[bytes]], None]) -> None:
    """Tell `changed` about this host's addresses, now and whenever they change."""
    family, kind = socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(family, kind, socket.NETLINK_ROUTE) as watcher:
        watcher.setblocking(False)
        watcher.bind((0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        while True:
            changed(await trio.to_thread.run_sync(addresses))
            await trio.lowlevel.wait_readable(watcher)
            try:
                while True:
                    watcher.recv(1 << 16)
            except OSError:
                pass  # emptied, or overrun: either way the addresses are read again
