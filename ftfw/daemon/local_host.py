"""Reads the properties of the host that the daemon uses: addresses, the kernel's timeouts, facts for other nodes."""

import os
import socket
import time
from collections.abc import Callable

import trio

from ftfw import __version__
from ftfw.kernel.create import Timeouts
from ftfw.replication.host_facts import Fact
from ftfw.replication.limits import FACT_TEXT_MAX
from ftfw.system import interfaces, sysctl

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
    """Return this host's timeouts in seconds; the kernel's defaults for timeouts that cannot be read."""
    told = {}
    for name, switch in _TIMEOUTS.items():
        if (value := sysctl.read(switch)) is not None:
            told[name] = value
    return Timeouts(**told)


def facts(mode: str, frame_bytes: int, helpers: list[str] | None) -> dict[str, Fact]:
    """Return the facts that `ftfw check` on the other nodes compares with theirs, without those that cannot be read."""
    told: dict[str, Fact | None] = {
        "version": __version__,
        "kernel": os.uname().release[:FACT_TEXT_MAX],
        "mode": mode,
        "entries_max": sysctl.read("nf_conntrack_max"),
        "buckets": sysctl.read("nf_conntrack_buckets"),
        "frame_bytes": frame_bytes,
        "helpers": helpers,
        "clock_ms": time.time_ns() // 1_000_000,
    }
    return {name: value for name, value in told.items() if value is not None}


async def watch_addresses(changed: Callable[[frozenset[bytes]], None]) -> None:
    """Call `changed` with this host's addresses, packed, now and whenever they change, until cancelled."""
    family, kind = socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(family, kind, socket.NETLINK_ROUTE) as watcher:
        watcher.setblocking(False)
        watcher.bind((0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        while True:
            changed(await trio.to_thread.run_sync(interfaces.addresses))
            await trio.lowlevel.wait_readable(watcher)
            try:
                while True:
                    watcher.recv(1 << 16)
            except OSError:
                pass  # empty, or overrun: the addresses are read again in both cases
