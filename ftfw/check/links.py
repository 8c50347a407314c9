"""Checks of what the configuration names outside itself: keys, interfaces, peers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ftfw import keyfile
from ftfw.check import probes
from ftfw.check.finding import Context, Finding, ok, problem, warning
from ftfw.check.requirements import gate_lack
from ftfw.config import ConfigError, Link, MulticastLink, require_complete
from ftfw.link.interface import interface

PEER_SILENT_S = 3.0
LINK_REMEDY = "look at the interface, the cable and the packet filter, on the other node too"
PORT_REMEDY = "see that the other node runs, has the same key and link, and that UDP or TCP port {port} is let in"

REASONS_REMEDY = "docs/commands.md tells what each reason means, and what to do"
# What comes over one link is there from another already; keepalived tells of more than states and what was named.
WANTED = frozenset({"duplicate", "no_state", "not_listed", "hook_overruled"})
COUNTERS = (
    ("links", "frames were dropped", ("link", "dropped")),
    ("events", "messages were dropped", ("kernel", "dropped")),
    ("keepalived", "notifications that did not count", ("keepalived", "dropped")),
    ("injection", "the kernel refused entries", ("kernel", "inject_failed")),
    ("gate", "it did not do what it should", ("gate", "failed")),
    ("injection", "the last commit put entries in otherwise than asked for", ("last_commit", "otherwise")),
)


def check_config(context: Context) -> Iterator[Finding]:
    """Find whether the configuration file is as it should be."""
    problems = context.why_no_config
    if context.config is not None:
        try:
            require_complete(context.config, context.config_path)
        except ConfigError as error:
            problems = str(error)
        else:
            yield ok("configuration", f"{context.config_path}: node {context.config.node.name}")
    for line in problems.splitlines():
        found, _, expected = line.partition("; ")
        yield problem("configuration", found, expected)


def check_keys(context: Context) -> Iterator[Finding]:
    """Find whether every key can be read, and by nobody else."""
    for file in context.config.security.key_files if context.config else ():
        try:
            keyfile.read(file)
        except keyfile.KeyFileError as error:
            found, _, remedy = str(error).rpartition("; ")
            yield problem("key file", found, remedy)
        else:
            yield ok("key file", f"{file}: readable, mode as it should be")


def check_links(context: Context) -> Iterator[Finding]:
    """Find whether every link can run over its interface, from its address."""
    for index, link in enumerate(context.config.link if context.config else ()):
        subject = f"link[{index}]"
        faults = [*_interface_faults(subject, link), *_address_faults(subject, link)]
        yield from faults or [ok(subject, f"{link.transport} over {link.interface or 'any interface'}: up")]


def _interface_faults(subject: str, link: Link) -> Iterator[Finding]:
    name = link.interface
    if name is None:
        return
    state = interface(name)
    if state is None:
        yield problem(subject, f"no interface {name}", f"create it, or mend {subject}.interface")
        return
    if not state.up:
        yield problem(subject, f"{name} is down", f"`ip link set {name} up`")
    elif not state.running:
        yield problem(subject, f"{name} has no carrier", "look at the cable, and at the other end")
    if isinstance(link, MulticastLink) and not state.multicast:
        yield problem(subject, f"{name} does not do multicast", f"`ip link set {name} multicast on`")
    if link.transport != "tcp" and link.mtu is not None and link.mtu > state.mtu:
        found = f"{subject}.mtu is {link.mtu}, but {name} takes {state.mtu}"
        yield problem(subject, found, f"`ip link set {name} mtu {link.mtu}`, or take the key out")


def _address_faults(subject: str, link: Link) -> Iterator[Finding]:
    if not isinstance(link, MulticastLink) and not probes.has_address(str(link.bind)):
        yield problem(subject, f"{link.bind} is no address of this host", f"mend {subject}.bind")


def check_gate(context: Context) -> Iterator[Finding]:
    """Find whether the gate can be made, and the interfaces are there on which traffic waits during a takeover."""
    if context.config is None:
        return
    if lack := gate_lack(context.config):
        yield problem(*lack)
    names = context.config.takeover.gate_interfaces
    for name in names:
        if interface(name) is None:
            yield problem("takeover.gate_interfaces", f"no interface {name}", "create it, or mend the key")
    if names and context.config.standby.mode == "hot":
        yield ok("takeover.gate_interfaces", "not used: a hot backup has the state in its kernel")


def check_peers(context: Context) -> Iterator[Finding]:
    """Find what the running daemon hears from its peers."""
    status = context.status
    if status is None:
        yield ok("peers", f"not asked: {context.why_no_status}", "start ftfw and check again")
        return
    ports = {link.port for link in context.config.link} if context.config else set()
    remedy = PORT_REMEDY.format(port=" or ".join(map(str, sorted(ports))))
    peers = status.get("peers") or []
    if not peers:
        yield warning("peers", "none was heard since ftfw started", remedy)
    for peer in peers:
        name, seen = peer.get("name"), peer.get("last_seen_s")
        if seen is None or seen > PEER_SILENT_S:
            ago = "never" if seen is None else f"{seen:.0f} s ago"
            yield problem(f"peer {name}", f"last heard {ago}", remedy)
        else:
            yield ok(f"peer {name}", f"{peer.get('role')}, last heard {seen:.1f} s ago")


def _counted(status: dict[str, Any], section: str, counter: str) -> Iterable[tuple[str, int]]:
    return ((status.get(section) or {}).get(counter) or {}).items()


def check_daemon(context: Context) -> Iterator[Finding]:
    """Find what the running daemon complains about."""
    status = context.status
    if status is None:
        return
    if status.get("conflict"):
        yield problem("roles", "this node and a peer are both active", "`ftfw demote` on the one without the addresses")
    for link in status.get("links") or []:
        if link.get("up") is False:
            yield problem(link.get("name"), "nothing gets through", LINK_REMEDY)
    if status.get("role") == "backup" and not status.get("synced"):
        yield warning("sync", "this node does not hold all that the active has", "wait, or `ftfw resync`")
    for subject, what, (section, counter) in COUNTERS:
        counts = [
            f"{count} {reason}"
            for reason, count in _counted(status, section, counter)
            if count and reason not in WANTED
        ]
        if counts:
            yield warning(subject, f"{what}: {', '.join(counts)}", REASONS_REMEDY)
    if overruns := (status.get("kernel") or {}).get("overruns"):
        yield warning("events", f"the kernel dropped events {overruns} times", "raise kernel.event_buffer_bytes")
