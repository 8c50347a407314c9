"""Questions to this host's kernel, in the network namespace that the process runs in."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import re
import shutil
import socket
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

from ftfw.kernel import uapi
from ftfw.kernel.attributes import message
from ftfw.keyfile import SERVICE_USER

SYSCTLS = Path("/proc/sys/net/netfilter")
CT_GET_STATS = 0x105  # IPCTNL_MSG_CT_GET_STATS: changes nothing, and is short
NETLINK_TIMEOUT_S = 2.0
NFT_TIMEOUT_S = 30.0

# The kernel's helpers, as CTA_HELP and `ct helper` name them, each with a protocol that it serves.
HELPERS = {
    "ftp": "tcp",
    "tftp": "udp",
    "sip": "udp",
    "irc": "tcp",
    "pptp": "tcp",
    "Q.931": "tcp",
    "RAS": "udp",
    "amanda": "udp",
    "sane": "tcp",
    "snmp": "udp",
    "netbios-ns": "udp",
}


HELPER_MODULES = {"Q.931": "nf_conntrack_h323", "RAS": "nf_conntrack_h323", "netbios-ns": "nf_conntrack_netbios_ns"}
MODULES = Path("/lib/modules")
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def installed_helpers() -> list[str] | None:
    """Return the helpers that the kernel has or can load, without having it load any; None if that cannot be told."""
    directory = MODULES / os.uname().release
    try:
        listed = "".join((directory / name).read_text() for name in ("modules.builtin", "modules.dep"))
    except OSError:
        return None
    modules = set(re.findall(r"([\w-]+)\.ko", listed))
    return [name for name in HELPERS if HELPER_MODULES.get(name, f"nf_conntrack_{name}") in modules]


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


def sysctl(name: str) -> int | None:
    """Return the value of net.netfilter.`name`; None if the kernel has no such switch."""
    try:
        return int((SYSCTLS / name).read_text())
    except (OSError, ValueError):
        return None


def conntrack_errno() -> int:
    """Ask conntrack for its counters over netlink and return how that failed: 0 if it did not."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, uapi.NETLINK_NETFILTER) as asking:
            asking.settimeout(NETLINK_TIMEOUT_S)
            asking.send(message(CT_GET_STATS, uapi.NLM_F_REQUEST | uapi.NLM_F_ACK, socket.AF_UNSPEC, b""))
            while True:
                reply = asking.recv(1 << 16)
                kind, error = struct.unpack_from("=4xH10xi", reply)
                if kind == uapi.NLMSG_ERROR:
                    return int(-error)
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or errno.EIO


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


def helper_works(name: str) -> bool:
    """Tell whether the kernel has the helper, built in or as a module that it can load.

    The kernel is asked to check, and not to make, a `ct helper` object: it looks the helper up, and loads its
    module, just as when an entry with that helper is injected.
    """
    helper = f'{{ type "{name}" protocol {HELPERS[name]}; }}'
    rules = f"add table ip ftfw-check\nadd ct helper ip ftfw-check it {helper}\n"
    command = ["nft", "-c", "-f", "-"]
    done = subprocess.run(command, input=rules.encode(), capture_output=True, timeout=NFT_TIMEOUT_S, check=False)
    return done.returncode == 0


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
