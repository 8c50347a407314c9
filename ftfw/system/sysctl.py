"""Reads switches of net.netfilter, in the network namespace of this process."""

from pathlib import Path

SYSCTLS = Path("/proc/sys/net/netfilter")


def read(name: str) -> int | None:
    """Return the value of net.netfilter.`name`; None if the kernel does not have it."""
    try:
        return int((SYSCTLS / name).read_text())
    except (OSError, ValueError):
        return None
