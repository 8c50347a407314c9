"""Reads from this host's kernel the properties that are checked, in the network namespace of this process."""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from ftfw.security.key_file import SERVICE_USER

TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def clock_is_synchronised() -> bool:
    """Return whether the kernel regards the clock as synchronised (adjtimex(2))."""
    struct_timex = ctypes.create_string_buffer(512)  # larger than on any architecture; no bit of `modes` is set
    return bool(ctypes.CDLL(None).adjtimex(struct_timex) != TIME_ERROR)


def forwards() -> bool:
    """Return whether this host forwards packets of IPv4 or IPv6."""
    switches = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
    paths = [Path("/proc/sys/net") / switch for switch in switches]
    return any(path.read_text().strip() != "0" for path in paths if path.exists())


def runs(program: str) -> bool:
    """Return whether a process of this name runs in this network namespace."""
    here = Path("/proc/self/ns/net").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_bytes().strip() == program.encode() and (process / "ns/net").readlink() == here:
                return True
        except OSError:
            continue  # it has ended, or is another user's
    return False


def owner(file: Path) -> str:
    """Return the name of the user that a file belongs to, or the number of one without a name.  Raises OSError."""
    number = file.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def daemon_user(socket: Path) -> str:
    """Return the user that the daemon runs as: the owner of its control socket, else the user of the unit."""
    with suppress(OSError):
        return owner(socket)
    try:
        return pwd.getpwnam(SERVICE_USER).pw_name
    except KeyError:
        return "root"


def has_address(address: str) -> bool:
    """Return whether this host has the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as trying:
        try:
            trying.bind((address, 0))
        except OSError:
            return False
    return True


def listen_trouble(host: str, port: int) -> str:
    """Return why a socket cannot listen there, or an empty string if it can."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind) as trying:
                trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trying.bind(address)
                trying.listen()
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be sent to a resolver
        return getattr(error, "strerror", None) or str(error)
    return ""


def has_nft() -> bool:
    """Return whether the command of nftables is installed."""
    return shutil.which("nft") is not None


def loaded_modules() -> frozenset[str]:
    """Return the names of the loaded modules, without those built into the kernel."""
    try:
        lines = Path("/proc/modules").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.split()[0] for line in lines)


def kernel_version() -> tuple[int, int, int]:
    """Return the kernel's version, with the stable release of the distribution's build if uname names it."""
    names = os.uname()
    stable = re.search(r"\b(\d+)\.(\d+)\.(\d+)", names.version) or re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", names.release)
    if stable is None:
        return 0, 0, 0
    major, minor, patch = (int(part or 0) for part in stable.groups())
    return major, minor, patch
