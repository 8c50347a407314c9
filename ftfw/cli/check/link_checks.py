"""Checks the links: their interfaces and addresses, and whether frames arrive."""

from __future__ import annotations

from collections.abc import Iterator

from ftfw.cli.check import host_probes
from ftfw.cli.check.finding import CheckInput, Finding, ok, problem, warning
from ftfw.config.schema import AnyLink, MulticastLink
from ftfw.system.interfaces import interface

SENT_ENOUGH = 50  # frames: five seconds of heartbeats
MULTICAST_REMEDY = "; a switch that snoops IGMP or MLD needs a querier, or must not snoop there; or use udp"
LINK_REMEDY = "check the interface, the cable and the packet filter, on the other node too"


def check_links(context: CheckInput) -> Iterator[Finding]:
    """Check that every link can use its interface and its address."""
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
        yield problem(subject, f"no interface {name}", f"create it, or correct {subject}.interface")
        return
    if not state.up:
        yield problem(subject, f"{name} is down", f"`ip link set {name} up`")
    elif not state.running:
        yield problem(subject, f"{name} has no carrier", "check the cable and the other end")
    if isinstance(link, MulticastLink) and not state.multicast:
        yield problem(subject, f"{name} does not support multicast", f"`ip link set {name} multicast on`")
    if link.transport != "tcp" and link.mtu is not None and link.mtu > state.mtu:
        found = f"{subject}.mtu is {link.mtu}, but the MTU of {name} is {state.mtu}"
        yield problem(subject, found, f"`ip link set {name} mtu {link.mtu}`, or remove the key")


def _address_faults(subject: str, link: AnyLink) -> Iterator[Finding]:
    if not isinstance(link, MulticastLink) and not host_probes.has_address(str(link.bind)):
        yield problem(subject, f"{link.bind} is not an address of this host", f"correct {subject}.bind")


def check_traffic(context: CheckInput) -> Iterator[Finding]:
    """Check that on each link over which the daemon sends, frames of a peer arrive."""
    links = (context.status or {}).get("links") or []
    somebody_is_heard = any(link.get("received") for link in links)
    configured = context.config.link if context.config else ()
    for index, link in enumerate(links):
        if link.get("received") or link.get("sent", 0) < SENT_ENOUGH:
            continue
        found = f"{link.get('name')}: {link.get('sent')} frames sent, none received"
        remedy = LINK_REMEDY
        if strange := (link.get("dropped") or {}).get("kernel"):
            found += f"; {strange} datagrams arrived that no key of this node opens"
            remedy = "compare security.key_files on both nodes"
        elif index < len(configured):
            remedy = f"accept port {configured[index].port} on both nodes; {LINK_REMEDY}"
            if isinstance(configured[index], MulticastLink):
                remedy += MULTICAST_REMEDY
        yield (problem if somebody_is_heard or strange else warning)(f"link[{index}]", found, remedy)
