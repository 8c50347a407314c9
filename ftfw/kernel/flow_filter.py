"""Which flows the configuration replicates.  Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from ftfw.config.schema import Replicate
from ftfw.config.value_types import PROTOCOLS
from ftfw.kernel.flow_model import Flow

_ADDRESSES_KEPT = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """`[replicate]`: a flow passes if it passes every test that is not None."""

    protocol: Callable[[int], bool] | None
    zone: Callable[[int], bool] | None
    addresses: Callable[[tuple[bytes, ...]], bool] | None
    """Of those of both tuples, packed."""
    ports: Callable[[tuple[bytes, ...]], bool] | None
    """Likewise, in network order."""
    mark: Callable[[int], bool] | None
    tcp_state: Callable[[str], bool] | None
    """Of TCP's flows that tell it."""

    def __call__(self, flow: Flow, /) -> bool:
        """Whether the flow passes."""
        ends = (flow.original, flow.reply)
        return (
            (self.protocol is None or self.protocol(PROTOCOLS.get(flow.protocol) or int(flow.protocol)))
            and (self.zone is None or self.zone(flow.zone or flow.zone_original or flow.zone_reply or 0))
            and (
                self.addresses is None
                or self.addresses(tuple(ip_address(end[side]).packed for end in ends for side in ("src", "dst")))
            )
            and (
                self.ports is None
                or self.ports(
                    tuple(
                        int(end[side]).to_bytes(2, "big") for end in ends for side in ("sport", "dport") if side in end
                    )
                )
            )
            and (self.mark is None or self.mark(flow.mark or 0))
            and (self.tcp_state is None or flow.tcp is None or self.tcp_state(str(flow.tcp["state"])))
        )

    def may_change(self, protocol: int, /) -> bool:
        """Whether a flow of this protocol may come to pass, or cease to: only its mark and its TCP state change."""
        if self.protocol is not None and not self.protocol(protocol):
            return False
        return self.mark is not None or (self.tcp_state is not None and protocol == PROTOCOLS["tcp"])


def compile_filter(replicate: Replicate) -> Filter | None:
    """The test for `[replicate]`.  None: all flows pass."""
    if replicate.model_copy(update={"expectations": True}) == Replicate():
        return None
    wanted = replicate.mark
    ports = frozenset(port.to_bytes(2, "big") for each in replicate.ports for port in range(each.first, each.last + 1))
    return Filter(
        protocol=frozenset(replicate.protocols).__contains__ if replicate.protocols else None,
        zone=frozenset(replicate.zones).__contains__ if replicate.zones else None,
        addresses=_any_within(replicate) if replicate.addresses else None,
        ports=(lambda found: not ports.isdisjoint(found)) if ports else None,
        mark=(lambda mark: mark & wanted.mask == wanted.value) if wanted is not None else None,
        # An UPDATE that does not tell the state passes; the answer to its hint tells, and ends what should not have.
        tcp_state=frozenset(replicate.tcp_states).__contains__ if replicate.tcp_states else None,
    )


def _any_within(replicate: Replicate) -> Callable[[tuple[bytes, ...]], bool]:
    """Whether any of so many addresses is in one of the networks."""
    networks = [
        (network.version, int(network.network_address), int(network.netmask)) for network in replicate.addresses
    ]

    @lru_cache(maxsize=_ADDRESSES_KEPT)
    def within(packed: bytes) -> bool:
        address, version = int.from_bytes(packed, "big"), 4 if len(packed) == 4 else 6
        return any(address & mask == start for kind, start, mask in networks if kind == version)

    return lambda addresses: any(map(within, addresses))
