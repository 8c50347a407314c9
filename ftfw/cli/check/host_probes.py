"""Questions to this host's kernel, in the network namespace that the process runs in."""

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
    """Tell whether something keeps this host's clock right, as far as the kernel knows."""
    struct_timex = ctypes.create_string_buffer(512)  # larger than it is anywhere; no bit of `modes` is set
    return bool(ctypes.CDLL(None).adjtimex(struct_timex) != TIME_ERROR)


def forwards() -> bool:
    """Tell whether this host forwards packets, of either family."""
    switches = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
    paths = [Path("/proc/sys/net") / switch for switch in switches]
    return any(path.read_text().strip() != "0" for path in paths if path.exists())


def runs(program: str) -> bool:
    """Tell whether a process of this name is there, in this process's network namespace."""
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
    """Return whom the daemon runs as: whose control socket it is, or whom the unit would run it as."""
    with suppress(OSError):
        return owner(socket)
    try:
        return pwd.getpwnam(SERVICE_USER).pw_name
    except KeyError:
        return "root"


def has_address(address: str) -> bool:
    """Tell whether this host has the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as trying:
        try:
            trying.bind((address, 0))
        except OSError:
            return False
    return True


def listen_trouble(host: str, port: int) -> str:
    """Say why nobody can listen there now, if nobody can; else the empty string."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind) as trying:
                trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trying.bind(address)
                trying.listen()
    except (OSError, UnicodeError) as error:  # the latter: a name that no resolver could be asked for
        return getattr(error, "strerror", None) or str(error)
    return ""


def has_nft() -> bool:
    """Tell whether nftables' command is installed."""
    return shutil.which("nft") is not None


def loaded_modules() -> frozenset[str]:
    """Return the names of the modules that are loaded; those built in are not among them."""
    try:
        lines = Path("/proc/modules").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.split()[0] for line in lines)


def kernel_version() -> tuple[int, int, int]:
    """Return the kernel's version, with the stable release that a distribution builds from if it says so."""
    names = os.uname()
    stable = re.search(r"\b(\d+)\.(\d+)\.(\d+)", names.version) or re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", names.release)
    if stable is None:
        return 0, 0, 0
    major, minor, patch = (int(part or 0) for part in stable.groups())
    return major, minor, patch
