"""Checks of what the configuration names outside itself: keys, interfaces, places to listen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ftfw.cli.check import host_probes
from ftfw.cli.check.finding import Context, Finding, ok, problem, warning
from ftfw.config.config_errors import ConfigError
from ftfw.config.schema import AnyLink, MulticastLink, require_complete
from ftfw.daemon.requirements import gate_lack
from ftfw.security import key_file
from ftfw.system.interfaces import interface

SENT_ENOUGH = 50  # frames: five seconds of heartbeats
MULTICAST_REMEDY = "; a switch that snoops IGMP or MLD needs a querier, or not to snoop there; else use udp"
LINK_REMEDY = "look at the interface, the cable and the packet filter, on the other node too"
LISTEN_REMEDY = "name an address of this host, and a port that nobody else has"

REASONS_REMEDY = "docs/commands.md tells what each reason means, and what to do"
# What comes over one link is there from another already; keepalived tells of more than states and what was named.
WANTED = frozenset({"duplicate", "no_state", "not_listed", "hook_overruled", "hook_overtaken"})
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
    """Find whether the daemon can read every key, and nobody else."""
    if context.config is None:
        return
    user = host_probes.daemon_user(context.config.control.socket)
    for file in context.config.security.key_files:
        try:
            key_file.read(file)
        except key_file.KeyFileError as error:
            found, _, remedy = str(error).rpartition("; ")
            yield problem("key file", found, remedy)
        else:
            owner = host_probes.owner(file)
            if user in ("root", owner):
                yield ok("key file", f"{file}: readable, mode as it should be")
            else:
                found = f"{file}: only {owner} may read it, and ftfw runs as {user}"
                yield problem("key file", found, f"`chown {user}: {file}`")


def check_links(context: Context) -> Iterator[Finding]:
    """Find whether every link can run over its interface, from its address."""
    for index, link in enumerate(context.config.link if context.config else ()):
        subject = f"link[{index}]"
        faults = [*_interface_faults(subject, link), *_address_faults(subject, link)]
        yield from faults or [ok(subject, f"{link.transport} over {link.interface or 'any interface'}: up")]


def _interface_faults(subject: str, link: AnyLink) -> Iterator[Finding]:
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


def _address_faults(subject: str, link: AnyLink) -> Iterator[Finding]:
    if not isinstance(link, MulticastLink) and not host_probes.has_address(str(link.bind)):
        yield problem(subject, f"{link.bind} is no address of this host", f"mend {subject}.bind")


def check_gate(context: Context) -> Iterator[Finding]:
    """Find whether the gate can be made, and the interfaces are there on which traffic waits during a takeover."""
    if context.config is None:
        return
    if lack := gate_lack(context.config):
        yield problem(*lack)
    for name in context.config.takeover.gate_interfaces:
        if interface(name) is None:
            yield problem("takeover.gate_interfaces", f"no interface {name}", "create it, or mend the key")


def check_metrics(context: Context) -> Iterator[Finding]:
    """Find whether Prometheus can ask at the configured place."""
    listen = context.config.metrics.listen if context.config else None
    if listen is None:
        return
    if context.status is None:
        trouble = host_probes.listen_trouble(*listen)
        found, remedy = trouble and f"{listen.host} port {listen.port}: {trouble}", LISTEN_REMEDY
    else:
        told = (context.status.get("metrics") or {}).get("trouble") or ""
        found, _, remedy = told.removeprefix("metrics.listen: ").partition("; ")
    if found:
        yield warning("metrics.listen", found, remedy)
    else:
        yield ok("metrics.listen", f"{listen.host} port {listen.port}")


def check_traffic(context: Context) -> Iterator[Finding]:
    """Find links over which the daemon sends and never hears anybody."""
    links = (context.status or {}).get("links") or []
    somebody_is_heard = any(link.get("received") for link in links)
    configured = context.config.link if context.config else ()
    for index, link in enumerate(links):
        if link.get("received") or link.get("sent", 0) < SENT_ENOUGH:
            continue
        found = f"{link.get('name')}: {link.get('sent')} frames sent, and none received"
        remedy = LINK_REMEDY
        if strange := (link.get("dropped") or {}).get("kernel"):
            found += f"; {strange} datagrams came that are under no key of this node"
            remedy = "compare security.key_files on both nodes"
        elif index < len(configured):
            remedy = f"let port {configured[index].port} in on both nodes; {LINK_REMEDY}"
            if isinstance(configured[index], MulticastLink):
                remedy += MULTICAST_REMEDY
        yield (problem if somebody_is_heard or strange else warning)(f"link[{index}]", found, remedy)


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
            found, _, remedy = (link.get("trouble") or "nothing gets through").partition("; ")
            yield problem(link.get("name"), found, remedy or LINK_REMEDY)
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
