"""The filters that simulated runs have, and what passes them, told from decoded flows in the simplest way."""

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any, Final

from ftfw.config.schema import Replicate
from ftfw.kernel.flow_model import Flow

KINDS: Final[tuple[dict[str, Any], ...]] = (
    {"protocols": ["tcp"]},
    {"protocols": ["udp", "icmp"]},
    {"zones": [4]},
    {"zones": [0]},
    {"addresses": ["192.0.2.0/25"]},
    {"addresses": ["2001:db8::/32", "198.51.100.2"]},
    {"ports": [21, "40000-40008"]},
    {"protocols": ["tcp"], "ports": [22, 80, "40004-49999"]},
    {"expectations": False},
    {"expectations": ["tftp"]},
    {"tcp_states": ["ESTABLISHED", "CLOSE_WAIT"], "expectations": False},
)
# Rules set marks without an event, in recordings: the toy kernel tells all it does.
TOY_KINDS: Final[tuple[dict[str, Any], ...]] = (
    {"mark": "1"},
    {"mark": "0/1"},
    {"mark": "2/2", "tcp_states": ["SYN_SENT", "ESTABLISHED"]},
)


def flow_passes(replicate: Replicate, flow: Flow) -> bool:
    """Return whether a flow is to be replicated."""
    return all(test(replicate, flow) for test in _TESTS)


def helper_passes(replicate: Replicate, helper: str | None) -> bool:
    """Return whether the expectations of a helper are to be replicated, if their master is."""
    wanted = replicate.expectations
    return wanted if isinstance(wanted, bool) else helper in wanted


_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "icmpv6": 58}


def _protocol(replicate: Replicate, flow: Flow) -> bool:
    return not replicate.protocols or _PROTOCOLS[flow.protocol] in replicate.protocols


def _zone(replicate: Replicate, flow: Flow) -> bool:
    return not replicate.zones or (flow.zone or flow.zone_original or flow.zone_reply or 0) in replicate.zones


def _address(replicate: Replicate, flow: Flow) -> bool:
    addresses = [ip_address(end[side]) for end in (flow.original, flow.reply) for side in ("src", "dst")]
    networks = [ip_network(str(network)) for network in replicate.addresses]
    return not networks or any(address in network for address in addresses for network in networks)


def _port(replicate: Replicate, flow: Flow) -> bool:
    ports = [int(end[side]) for end in (flow.original, flow.reply) for side in ("sport", "dport") if side in end]
    return not replicate.ports or any(each.first <= port <= each.last for port in ports for each in replicate.ports)


def _mark(replicate: Replicate, flow: Flow) -> bool:
    return replicate.mark is None or (flow.mark or 0) & replicate.mark.mask == replicate.mark.value


def _tcp_state(replicate: Replicate, flow: Flow) -> bool:
    return not replicate.tcp_states or flow.tcp is None or flow.tcp["state"] in replicate.tcp_states


_TESTS: Final[tuple[Callable[[Replicate, Flow], bool], ...]] = (_protocol, _zone, _address, _port, _mark, _tcp_state)
