"""Which flows the configuration replicates.  Pure."""

from collections.abc import Callable
from ipaddress import ip_address

from ftfw.config import Replicate
from ftfw.model import Flow, Tuple

_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "icmpv6": 58, "sctp": 132, "udplite": 136}


def compile_filter(replicate: Replicate) -> Callable[[Flow], bool] | None:
    """The test for `[replicate]`: a flow passes if it meets every key that is given.  None: all flows pass."""
    tests: list[Callable[[Flow], bool]] = []
    if replicate.protocols:
        tests.append(lambda flow: _protocol(flow) in replicate.protocols)
    if replicate.addresses:
        tests.append(lambda flow: _any_address(flow, replicate))
    if replicate.ports:
        tests.append(lambda flow: _any_port(flow, replicate))
    if replicate.zones:
        tests.append(lambda flow: _zone(flow) in replicate.zones)
    if (mark := replicate.mark) is not None:
        tests.append(lambda flow: (flow.mark or 0) & mark.mask == mark.value)
    if replicate.tcp_states:
        # An event that does not tell the state changes none: the flow passes if it did before.
        tests.append(lambda flow: flow.tcp is None or flow.tcp["state"] in replicate.tcp_states)
    return (lambda flow: all(test(flow) for test in tests)) if tests else None


def _tuples(flow: Flow) -> tuple[Tuple, Tuple]:
    return flow.original, flow.reply


def _protocol(flow: Flow) -> int:
    return _NUMBERS.get(flow.protocol) or int(flow.protocol)


def _any_address(flow: Flow, replicate: Replicate) -> bool:
    addresses = [ip_address(end[side]) for end in _tuples(flow) for side in ("src", "dst")]
    return any(address in network for address in addresses for network in replicate.addresses)


def _any_port(flow: Flow, replicate: Replicate) -> bool:
    ports = {int(end[side]) for end in _tuples(flow) for side in ("sport", "dport") if side in end}
    return any(wanted.first <= port <= wanted.last for port in ports for wanted in replicate.ports)


def _zone(flow: Flow) -> int:
    return flow.zone or flow.zone_original or flow.zone_reply or 0
