"""Name the connection tracking helpers, and find those that this kernel has or can load."""

import os
import re
import subprocess
from pathlib import Path

NFT_TIMEOUT_S = 30.0
MODULES = Path("/lib/modules")

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


def installed_helpers() -> list[str] | None:
    """Return the helpers that the kernel has or can load, without loading any; None if the list cannot be read."""
    directory = MODULES / os.uname().release
    try:
        listed = "".join((directory / name).read_text() for name in ("modules.builtin", "modules.dep"))
    except OSError:
        return None
    modules = set(re.findall(r"([\w-]+)\.ko", listed))
    return [name for name in HELPERS if HELPER_MODULES.get(name, f"nf_conntrack_{name}") in modules]


def helper_works(name: str) -> bool:
    """Return whether the kernel has the helper, built in or as a module that it can load.

    `nft -c` has the kernel check a `ct helper` object without making it: the kernel looks the helper up and loads its
    module, as it does when an entry with that helper is injected.
    """
    helper = f'{{ type "{name}" protocol {HELPERS[name]}; }}'
    rules = f"add table ip ftfw-check\nadd ct helper ip ftfw-check it {helper}\n"
    command = ["nft", "-c", "-f", "-"]
    done = subprocess.run(command, input=rules.encode(), capture_output=True, timeout=NFT_TIMEOUT_S, check=False)
    return done.returncode == 0
