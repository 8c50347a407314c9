"""Checks this host: capabilities, kernel version, sysctls, helpers, forwarding, clock."""

from __future__ import annotations

from collections.abc import Iterator

from ftfw.cli.check import host_probes
from ftfw.cli.check.finding import CheckInput, Finding, ok, problem, warning
from ftfw.config.value_types import PROTOCOLS
from ftfw.daemon.requirements import EVENTS_ALWAYS, conntrack_lack
from ftfw.kernel import helpers
from ftfw.system import sysctl

FULL_PROBLEM = 0.9  # of nf_conntrack_max
FULL_WARNING = 0.7
CHAIN_LENGTH_MAX = 8  # entries per bucket with a full table
# Linux d1ca60efc53d (5.16, and its stable updates): NAT set-up no longer removes an injected helper.
HELPER_FIXED = (5, 16, 0)
HELPER_FIXED_5_10 = (5, 10, 101)
NAT_HELPERS = ("amanda", "ftp", "h323", "irc", "pptp", "sip", "tftp")


def check_conntrack(_context: CheckInput) -> Iterator[Finding]:
    """Check that this process may use connection tracking."""
    if lack := conntrack_lack():
        yield problem(*lack)
    else:
        yield ok("nf_conntrack", "answers over netlink")


def check_events(_context: CheckInput) -> Iterator[Finding]:
    """Check that entries make events whether or not a process listens."""
    subject = "net.netfilter.nf_conntrack_events"
    mode = sysctl.read("nf_conntrack_events")
    if mode is None:
        yield problem(subject, "this kernel has no such sysctl", "use a kernel with CONFIG_NF_CONNTRACK_EVENTS")
    elif mode != EVENTS_ALWAYS:
        yield warning(
            subject,
            f"{mode}: entries created while ftfw is not running never make events; ftfw sets 1 when it starts",
            _set(subject, EVENTS_ALWAYS),
        )
    else:
        yield ok(subject, "1")


def check_table(context: CheckInput) -> Iterator[Finding]:
    """Check that the table has room for the entries of the peer."""
    subject = "net.netfilter.nf_conntrack_max"
    limit, count, buckets = (sysctl.read(f"nf_conntrack_{name}") for name in ("max", "count", "buckets"))
    if limit is None or count is None or buckets is None:
        return
    status = context.status or {}
    held = int(status.get("flows", 0)) if status.get("role") == "backup" else 0
    # The table of a hot backup has the entries already: the larger number is what a takeover leaves.
    expected = max(count, held)
    found = f"{limit}, {expected} flows"
    remedy = _set(subject, max(2 * expected, limit))
    if expected >= FULL_PROBLEM * limit:
        yield problem(subject, f"{found}: the table is full, or is after a takeover", remedy)
    elif expected >= FULL_WARNING * limit:
        yield warning(subject, f"{found}: the table has little room for a takeover", remedy)
    else:
        yield ok(subject, found)
    if limit > CHAIN_LENGTH_MAX * buckets:
        yield warning(
            "net.netfilter.nf_conntrack_buckets",
            f"{buckets} for up to {limit} entries: lookups and commits are slow",
            _set("net.netfilter.nf_conntrack_buckets", limit // 2),
        )


def check_tcp(_context: CheckInput) -> Iterator[Finding]:
    """Check that the kernel's TCP sysctls do not hide flows that replication missed."""
    loose, liberal = sysctl.read("nf_conntrack_tcp_loose"), sysctl.read("nf_conntrack_tcp_be_liberal")
    if loose:
        subject = "net.netfilter.nf_conntrack_tcp_loose"
        yield warning(
            subject,
            f"{loose}: segments of unknown flows create new entries, which block the replicated ones",
            _set(subject, 0),
        )
    elif loose is not None:
        yield ok("net.netfilter.nf_conntrack_tcp_loose", "0")
    if liberal:
        subject = "net.netfilter.nf_conntrack_tcp_be_liberal"
        yield warning(
            subject,
            f"{liberal}: TCP windows are never checked; ftfw disables that check itself for flows taken over",
            _set(subject, 0),
        )
    elif liberal is not None:
        yield ok("net.netfilter.nf_conntrack_tcp_be_liberal", "0")


def check_helpers(context: CheckInput) -> Iterator[Finding]:
    """Check which helpers an injected entry can have on this host."""
    if not host_probes.has_nft():
        yield warning("helpers", "not checked: nft is not installed", "`apt install nftables`")
        return
    if conntrack_lack():
        return
    wanted = context.config.replicate.expectations if context.config else True
    known = [name for name in helpers.HELPERS if wanted is True or (wanted and name in wanted)]
    there = [name for name in known if helpers.helper_works(name)]
    missing = [name for name in known if name not in there]
    if there:
        yield ok("helpers", f"this kernel has {', '.join(there)}")
    if missing:
        found = f"this kernel has no {', '.join(missing)}: flows with such a helper are taken over without it"
        remedy = "install all modules of the kernel, or name the helpers you use in replicate.expectations"
        yield warning("helpers", found, remedy) if wanted is True else problem("helpers", found, remedy)


def check_nat_helpers(context: CheckInput) -> Iterator[Finding]:
    """Check that the helpers' NAT modules are loaded: they rewrite addresses in the packets that the helpers read."""
    if context.ruleset is None or not context.ruleset.translates():
        return
    loaded = host_probes.loaded_modules()
    wanted = {f"nf_nat_{name}": f"nf_conntrack_{name}" for name in NAT_HELPERS}
    missing = [nat for nat, helper in wanted.items() if helper in loaded and nat not in loaded]
    if missing:
        names = " ".join(missing)
        yield warning(
            "helpers",
            f"the ruleset has NAT, but {names} is not loaded: related flows of translated flows fail",
            f"`modprobe -a {names}`, and list each in /etc/modules-load.d/ftfw.conf",
        )


def check_kernel_version(_context: CheckInput) -> Iterator[Finding]:
    """Check that this kernel keeps a helper that is injected together with NAT."""
    version = host_probes.kernel_version()
    shown = ".".join(map(str, version))
    fixed = version >= HELPER_FIXED or HELPER_FIXED_5_10 <= version < (5, 11, 0)
    if fixed or sysctl.read("nf_conntrack_helper"):
        yield ok("kernel", shown)
        return
    yield warning(
        "kernel",
        f"{shown}: may remove the helper of an entry that is injected with NAT",
        "use a kernel from 5.17 (or 5.10.101) on; else `sysctl -w net.netfilter.nf_conntrack_helper=1`, which"
        " enables helpers on standard ports again",
    )


def check_gre(context: CheckInput) -> Iterator[Finding]:
    """Check that ftfw can see whether a GRE flow is alive."""
    subject = "net.netfilter.nf_conntrack_acct"
    wanted = context.config is not None and PROTOCOLS["gre"] in context.config.replicate.protocols
    if not wanted and not (context.ruleset and context.ruleset.mentions_gre()):
        return
    if sysctl.read("nf_conntrack_acct"):
        yield ok(subject, "1")
        return
    yield warning(
        subject,
        "0, and GRE is in use: without counters ftfw cannot see whether a GRE flow taken over is alive",
        _set(subject, 1),
    )


def check_forwarding(_context: CheckInput) -> Iterator[Finding]:
    """Check that this host forwards packets."""
    if not host_probes.forwards():
        yield warning(
            "net.ipv4.ip_forward",
            "0, for IPv4 and IPv6: this host forwards nothing, so there are no flows to take over",
            "`sysctl -w net.ipv4.ip_forward=1` (IPv6: net.ipv6.conf.all.forwarding=1), and the same in /etc/sysctl.d",
        )


def check_clock(_context: CheckInput) -> Iterator[Finding]:
    """Check that the clock is synchronised."""
    if host_probes.clock_is_synchronised():
        yield ok("clock", "synchronised")
    else:
        yield ok(
            "clock", "the kernel does not know of any synchronisation", "run chrony or systemd-timesyncd on all nodes"
        )


def _set(name: str, value: int) -> str:
    return f"`sysctl -w {name}={value}`, and the same in /etc/sysctl.d/ftfw.conf"
