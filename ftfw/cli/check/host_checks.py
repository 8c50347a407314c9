"""Checks of the kernel: capabilities, modules, switches, helpers, table sizes."""

from __future__ import annotations

from collections.abc import Iterator

from ftfw.cli.check import host_probes
from ftfw.cli.check.finding import Context, Finding, ok, problem, warning
from ftfw.config.value_types import PROTOCOLS
from ftfw.daemon.requirements import EVENTS_ALWAYS, conntrack_lack
from ftfw.kernel import helpers
from ftfw.system import sysctl

FULL_PROBLEM = 0.9  # of nf_conntrack_max
FULL_WARNING = 0.7
CHAIN_LENGTH_MAX = 8  # entries per bucket with a full table
HELPER_FIXED = (
    5,
    16,
    0,
)  # with stable updates; commit d1ca60efc53d: NAT set-up no longer takes an injected helper away
HELPER_FIXED_5_10 = (5, 10, 101)
NAT_HELPERS = ("amanda", "ftp", "h323", "irc", "pptp", "sip", "tftp")


def check_conntrack(_context: Context) -> Iterator[Finding]:
    """Find whether this process may use connection tracking."""
    if lack := conntrack_lack():
        yield problem(*lack)
    else:
        yield ok("nf_conntrack", "answers over netlink")


def check_events(_context: Context) -> Iterator[Finding]:
    """Find whether entries make events whoever listens."""
    subject = "net.netfilter.nf_conntrack_events"
    mode = sysctl.read("nf_conntrack_events")
    if mode is None:
        yield problem(subject, "no such switch", "a kernel with CONFIG_NF_CONNTRACK_EVENTS")
    elif mode != EVENTS_ALWAYS:
        yield warning(
            subject,
            f"{mode}: entries made while ftfw is down never make events; ftfw sets 1 when it starts",
            _set(subject, EVENTS_ALWAYS),
        )
    else:
        yield ok(subject, "1")


def check_table(context: Context) -> Iterator[Finding]:
    """Find whether the table has room for what the peer has."""
    subject = "net.netfilter.nf_conntrack_max"
    limit, count, buckets = (sysctl.read(f"nf_conntrack_{name}") for name in ("max", "count", "buckets"))
    if limit is None or count is None or buckets is None:
        return
    status = context.status or {}
    held = int(status.get("flows", 0)) if status.get("role") == "backup" else 0
    # A hot backup's entries are in the table already: the larger of the two is what a takeover leaves.
    expected = max(count, held)
    found = f"{limit}, {expected} flows"
    remedy = _set(subject, max(2 * expected, limit))
    if expected >= FULL_PROBLEM * limit:
        yield problem(subject, f"{found}: the table is full, or will be after a takeover", remedy)
    elif expected >= FULL_WARNING * limit:
        yield warning(subject, f"{found}: hardly any room for a takeover", remedy)
    else:
        yield ok(subject, found)
    if limit > CHAIN_LENGTH_MAX * buckets:
        yield warning(
            "net.netfilter.nf_conntrack_buckets",
            f"{buckets} for up to {limit} entries: lookups and a commit get slow",
            _set("net.netfilter.nf_conntrack_buckets", limit // 2),
        )


def check_tcp(_context: Context) -> Iterator[Finding]:
    """Find whether the kernel's TCP switches hide what replication missed."""
    loose, liberal = sysctl.read("nf_conntrack_tcp_loose"), sysctl.read("nf_conntrack_tcp_be_liberal")
    if loose:
        subject = "net.netfilter.nf_conntrack_tcp_loose"
        yield warning(
            subject,
            f"{loose}: segments of unknown flows make new entries, which stand in the way of the right ones",
            _set(subject, 0),
        )
    elif loose is not None:
        yield ok("net.netfilter.nf_conntrack_tcp_loose", "0")
    if liberal:
        subject = "net.netfilter.nf_conntrack_tcp_be_liberal"
        yield warning(
            subject,
            f"{liberal}: TCP windows are never checked; ftfw needs that only for flows that it takes over",
            _set(subject, 0),
        )
    elif liberal is not None:
        yield ok("net.netfilter.nf_conntrack_tcp_be_liberal", "0")


def check_helpers(context: Context) -> Iterator[Finding]:
    """Find which helpers an injected entry can have here."""
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
        remedy = "install the kernel's full set of modules, or name the helpers you use in replicate.expectations"
        yield warning("helpers", found, remedy) if wanted is True else problem("helpers", found, remedy)


def check_nat_helpers(context: Context) -> Iterator[Finding]:
    """Find whether the helpers' NAT halves are loaded: they rewrite addresses in what the helpers read."""
    if context.ruleset is None or not context.ruleset.translates():
        return
    loaded = host_probes.loaded_modules()
    wanted = {f"nf_nat_{name}": f"nf_conntrack_{name}" for name in NAT_HELPERS}
    missing = [nat for nat, helper in wanted.items() if helper in loaded and nat not in loaded]
    if missing:
        names = " ".join(missing)
        yield warning(
            "helpers",
            f"there is NAT, but {names} is not loaded: related flows of translated ones fail",
            f"`modprobe -a {names}`, and each also in /etc/modules-load.d/ftfw.conf",
        )


def check_kernel_version(_context: Context) -> Iterator[Finding]:
    """Find whether this kernel keeps a helper that is injected together with NAT."""
    version = host_probes.kernel_version()
    shown = ".".join(map(str, version))
    fixed = version >= HELPER_FIXED or HELPER_FIXED_5_10 <= version < (5, 11, 0)
    if fixed or sysctl.read("nf_conntrack_helper"):
        yield ok("kernel", shown)
        return
    yield warning(
        "kernel",
        f"{shown}: may take the helper away from an entry that is injected with NAT",
        "a kernel since 5.17 (or 5.10.101); else `sysctl -w net.netfilter.nf_conntrack_helper=1`, which"
        " brings helpers on standard ports back",
    )


def check_gre(context: Context) -> Iterator[Finding]:
    """Find whether ftfw could see that a GRE flow still lives."""
    subject = "net.netfilter.nf_conntrack_acct"
    wanted = context.config is not None and PROTOCOLS["gre"] in context.config.replicate.protocols
    if not wanted and not (context.ruleset and context.ruleset.mentions_gre()):
        return
    if sysctl.read("nf_conntrack_acct"):
        yield ok(subject, "1")
        return
    yield warning(
        subject,
        "0, and GRE is in use: without counters nobody sees whether a GRE flow taken over still lives",
        _set(subject, 1),
    )


def check_forwarding(_context: Context) -> Iterator[Finding]:
    """Find whether this host is a router at all."""
    if not host_probes.forwards():
        yield warning(
            "net.ipv4.ip_forward",
            "0, and the same for IPv6: this host forwards nothing, so there are no flows to take over",
            "`sysctl -w net.ipv4.ip_forward=1` (IPv6: net.ipv6.conf.all.forwarding=1), and the same in /etc/sysctl.d",
        )


def check_clock(_context: Context) -> Iterator[Finding]:
    """Find whether anything keeps the clock right."""
    if host_probes.clock_is_synchronised():
        yield ok("clock", "synchronised")
    else:
        yield ok(
            "clock", "not synchronised, as far as the kernel knows", "run chrony or systemd-timesyncd on all nodes"
        )


def _set(name: str, value: int) -> str:
    return f"`sysctl -w {name}={value}`, and the same in /etc/sysctl.d/ftfw.conf"
