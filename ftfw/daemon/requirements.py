"""Checks, before the daemon starts, that the host has everything without which the daemon cannot work."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from ftfw.config.schema import Config
from ftfw.kernel.netlink import conntrack_errno
from ftfw.system import libnftables, sysctl

EVENTS = sysctl.SYSCTLS / "nf_conntrack_events"
EVENTS_ALWAYS = 1  # 2, the default, makes no events for entries that were created while nobody listened


class RequirementError(Exception):
    """Raised if the host lacks something; the message names it and the remedy."""


class Lack(NamedTuple):
    """Names a property that the host lacks, what was found instead, and the remedy."""

    subject: str
    found: str
    remedy: str


def require(config: Config) -> None:
    """Check that this process may use conntrack and, if a gate is configured, can make it.  Raises RequirementError."""
    for lack in (conntrack_lack(), gate_lack(config)):
        if lack is not None:
            raise RequirementError(f"{lack.found}; {lack.remedy}")


def conntrack_lack() -> Lack | None:
    """Return the reason why this process cannot use the kernel's connection tracking; None if it can."""
    error = conntrack_errno()
    if error == errno.EPERM:
        return Lack(
            "capabilities",
            "CAP_NET_ADMIN is missing",
            "run ftfw as root, or with AmbientCapabilities=CAP_NET_ADMIN in its systemd unit",
        )
    if error or not sysctl.SYSCTLS.is_dir() or sysctl.read("nf_conntrack_count") is None:
        why = f" ({os.strerror(error)})" if error else ""
        return Lack(
            "nf_conntrack",
            f"connection tracking does not answer over netlink{why}",
            "`modprobe -a nf_conntrack nf_conntrack_netlink`, both also in /etc/modules-load.d/ftfw.conf,"
            " or a kernel with CONFIG_NF_CONNTRACK, CONFIG_NF_CT_NETLINK and CONFIG_NF_CONNTRACK_EVENTS",
        )
    return None


def gate_lack(config: Config) -> Lack | None:
    """Return the reason why this process cannot make the configured gate; None if it can, or if none is configured."""
    if not config.takeover.gate_interfaces or libnftables.is_installed():
        return None
    return Lack(
        "takeover.gate_interfaces",
        f"{libnftables.LIBRARY} is not installed, and the gate needs it",
        "`apt install nftables`, or take takeover.gate_interfaces out of the configuration",
    )


def ensure_events_mode() -> int:
    """Set nf_conntrack_events to 1 and return its former value.  Raises RequirementError if that is not possible."""
    name = f"net.netfilter.{EVENTS.name}"
    old = sysctl.read(EVENTS.name)
    if old is None:
        raise RequirementError("this kernel makes no conntrack events; use a kernel with CONFIG_NF_CONNTRACK_EVENTS")
    if old != EVENTS_ALWAYS:
        try:
            EVENTS.write_text(f"{EVENTS_ALWAYS}\n")
        except OSError as error:
            raise RequirementError(
                f"{name} is {old} and cannot be set to {EVENTS_ALWAYS} ({error.strerror}); do it before ftfw"
                f" starts: `sysctl -w {name}={EVENTS_ALWAYS}`, and the same in /etc/sysctl.d/ftfw.conf"
            ) from None
    return old
