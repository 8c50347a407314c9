"""Which flows the configuration replicates.  Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from ftfw.config import Replicate
from ftfw.model import Flow, Tuple

_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "icmpv6": 58, "sctp": 132, "udplite": 136}


@dataclass(frozen=True, slots=True)
class Filter:
    """`[replicate]`: a flow passes if it meets every key that is given."""

    tests: tuple[Callable[[Flow], bool], ...]
    marks: bool  # whether marks decide
    tcp_states: bool  # whether TCP's states do

    def __call__(self, flow: Flow, /) -> bool:
        """Whether the flow passes."""
        return all(test(flow) for test in self.tests)

    def may_begin(self, flow: Flow, /) -> bool:
        """Whether a flow that passes now may not have passed before: only its mark and its TCP state change."""
        return self.marks or (self.tcp_states and flow.protocol == "tcp")


def compile_filter(replicate: Replicate) -> Filter | None:
    """The test for `[replicate]`.  None: all flows pass."""
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
        # An UPDATE that does not tell the state passes; the answer to its hint tells, and ends what should not have.
        tests.append(lambda flow: flow.tcp is None or flow.tcp["state"] in replicate.tcp_states)
    if not tests:
        return None
    return Filter(tuple(tests), marks=mark is not None, tcp_states=bool(replicate.tcp_states))


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
