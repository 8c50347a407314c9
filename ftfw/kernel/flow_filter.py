"""Decide which flows `[replicate]` replicates.  Pure.

A criterion is a field of a flow and a test on it.  Each field knows two ways to its value: at known offsets in a
message of a known shape, which costs least, and among the attributes of a parsed message.  Both give the same value to
the same test.

To add a key to `[replicate]`: declare it in `config/schema.py`, and in `_KEYS` with the field that it tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ftfw.kernel import flow_entry, uapi
from ftfw.kernel.attributes import nested, number, payload
from ftfw.kernel.message_shapes import Shape

if TYPE_CHECKING:
    from ftfw.config.schema import Replicate
    from ftfw.config.value_types import Mark, Network, PortRange

T = TypeVar("T")
Attributes = Mapping[int, bytes]
"""The attributes of a flow's message by type, each with its header."""

_ADDRESSES_KEPT: Final = 1 << 14  # results of a search through networks
_NO_MARK: Final = bytes(4)
_TUPLES: Final = (uapi.CTA_TUPLE_ORIG, uapi.CTA_TUPLE_REPLY)


@dataclass(frozen=True, slots=True)
class Constant(Generic[T]):
    """Hold the value that a field has in all messages of a shape."""

    value: T


@dataclass(frozen=True, slots=True, kw_only=True)
class Field(Generic[T]):
    """Read one property of a flow, from bytes or from attributes."""

    in_shape: Callable[[Shape], Callable[[bytes], T] | Constant[T]]
    """Return, for a shape, the function that reads the field from its messages, or the value that all of them have."""
    in_attributes: Callable[[Attributes], T]
    changes: Callable[[int], bool] = lambda _protocol: False
    """Return whether the field may change while a flow of this protocol lives."""


@dataclass(frozen=True, slots=True)
class Criterion(Generic[T]):
    """Require that a field of a flow passes a test."""

    field: Field[T]
    accepts: Callable[[T], bool]

    def among(self, shape: Shape, messages: list[bytes]) -> list[bytes]:
        """Return the messages whose flow meets the criterion; all of them have this shape."""
        accepts, read = self.accepts, self.field.in_shape(shape)
        if isinstance(read, Constant):
            return messages if accepts(read.value) else []
        return [message for message in messages if accepts(read(message))]

    def is_met(self, attributes: Attributes) -> bool:
        """Return whether the flow with these attributes meets the criterion."""
        return self.accepts(self.field.in_attributes(attributes))


class Filter:
    """Pass the flows that meet every criterion."""

    def __init__(self, criteria: Sequence[Criterion[Any]]) -> None:
        self._criteria = tuple(criteria)
        self._changing = frozenset(filter(self._find_out_whether_changing, range(256)))

    def among(self, shape: Shape, messages: list[bytes]) -> list[bytes]:
        """Return the messages whose flow passes; all of them have this shape."""
        for criterion in self._criteria:
            messages = criterion.among(shape, messages)
        return messages

    def passes(self, attributes: Attributes) -> bool:
        """Return whether the flow with these attributes passes; they are all attributes of a message."""
        return all(criterion.is_met(attributes) for criterion in self._criteria)

    def may_change(self, protocol: int) -> bool:
        """Return whether flows of this protocol number may begin to pass, or cease to, while they live."""
        return protocol in self._changing

    def _find_out_whether_changing(self, protocol: int) -> bool:
        never = any(each.field is PROTOCOL and not each.accepts(protocol) for each in self._criteria)
        return not never and any(each.field.changes(protocol) for each in self._criteria)


def _zone_in(attributes: Attributes) -> int:
    """Return the zone of both directions, or else of the original or the reply direction; 0 for none."""
    of_tuples = [nested(attributes[kind]).get(uapi.CTA_TUPLE_ZONE) for kind in _TUPLES]
    told = [number(zone) for zone in (attributes.get(uapi.CTA_ZONE), *of_tuples) if zone is not None]
    return next(filter(None, told), 0)


def _addresses_in(attributes: Attributes) -> tuple[bytes, ...]:
    return tuple(
        payload(address) for kind in _TUPLES for address in nested(nested(attributes[kind])[uapi.CTA_TUPLE_IP]).values()
    )


def _ports_in(attributes: Attributes) -> tuple[bytes, ...]:
    """Return the ports; none for ICMP, and none for GRE, whose keys have the attributes of ports."""
    found = []
    for kind in _TUPLES:
        fields = nested(nested(attributes[kind])[uapi.CTA_TUPLE_PROTO])
        if number(fields[uapi.CTA_PROTO_NUM]) != uapi.IPPROTO_GRE:
            found += [
                payload(fields[port]) for port in (uapi.CTA_PROTO_SRC_PORT, uapi.CTA_PROTO_DST_PORT) if port in fields
            ]
    return tuple(found)


def _tcp_state_in(attributes: Attributes) -> int | None:
    info = attributes.get(uapi.CTA_PROTOINFO)
    tcp = None if info is None else nested(info).get(uapi.CTA_PROTOINFO_TCP)
    state = None if tcp is None else nested(tcp).get(uapi.CTA_PROTOINFO_TCP_STATE)
    return None if state is None else number(state)


PROTOCOL: Final[Field[int]] = Field(
    in_shape=lambda shape: Constant(shape.protocol),
    in_attributes=lambda attributes: flow_entry.protocol_of(attributes[uapi.CTA_TUPLE_ORIG]),
)
"""The protocol number."""
ZONE: Final[Field[int]] = Field(in_shape=lambda _shape: Constant(0), in_attributes=_zone_in)
"""The zone; 0 for none."""
ADDRESSES: Final[Field[tuple[bytes, ...]]] = Field(
    in_shape=lambda shape: shape.addresses_of, in_attributes=_addresses_in
)
"""The addresses of both tuples, packed."""
PORTS: Final[Field[tuple[bytes, ...]]] = Field(in_shape=lambda shape: shape.ports_of, in_attributes=_ports_in)
"""The ports of both tuples, two bytes each in network order."""
MARK: Final[Field[bytes]] = Field(
    in_shape=lambda shape: shape.mark_of or Constant(_NO_MARK),
    in_attributes=lambda attributes: payload(attributes[uapi.CTA_MARK]) if uapi.CTA_MARK in attributes else _NO_MARK,
    changes=lambda _protocol: True,
)
"""The mark, four bytes in network order."""
TCP_STATE: Final[Field[int | None]] = Field(
    in_shape=lambda shape: shape.tcp_state_of or Constant(None),
    in_attributes=_tcp_state_in,
    changes=lambda protocol: protocol == uapi.IPPROTO_TCP,
)
"""The number of the TCP state; None if the message does not tell it."""


def _one_of(wanted: Collection[int]) -> Callable[[int], bool]:
    return frozenset(wanted).__contains__


def _any_within(networks: Collection[Network]) -> Callable[[tuple[bytes, ...]], bool]:
    """Return a test whether any of the packed addresses is in one of the networks."""
    ranges = [(network.version, int(network.network_address), int(network.netmask)) for network in networks]

    @lru_cache(maxsize=_ADDRESSES_KEPT)
    def within(packed: bytes) -> bool:
        address, version = int.from_bytes(packed, "big"), 4 if len(packed) == 4 else 6
        return any(address & mask == start for kind, start, mask in ranges if kind == version)

    return lambda addresses: any(map(within, addresses))


def _any_port_of(ranges: Collection[PortRange]) -> Callable[[tuple[bytes, ...]], bool]:
    wanted = frozenset(port.to_bytes(2, "big") for each in ranges for port in range(each.first, each.last + 1))
    return lambda ports: not wanted.isdisjoint(ports)


def _marked(wanted: Mark) -> Callable[[bytes], bool]:
    return lambda mark: int.from_bytes(mark, "big") & wanted.mask == wanted.value


def _in_tcp_state(names: Collection[str]) -> Callable[[int | None], bool]:
    """Return a test that also passes an UPDATE without a state: the answer to its hint decides later."""
    return frozenset([*map(uapi.TCP_STATES.index, names), None]).__contains__


@dataclass(frozen=True, slots=True)
class _Key(Generic[T]):
    """Hold the field that a key of `[replicate]` tests, and a function that makes the test from the key's value."""

    name: str
    field: Field[T]
    test: Callable[[Any], Callable[[T], bool]]


# They are applied in this order: the tests that cost least and leave out most come first.
_KEYS: Final[tuple[_Key[Any], ...]] = (
    _Key("protocols", PROTOCOL, _one_of),
    _Key("zones", ZONE, _one_of),
    _Key("addresses", ADDRESSES, _any_within),
    _Key("ports", PORTS, _any_port_of),
    _Key("mark", MARK, _marked),
    _Key("tcp_states", TCP_STATE, _in_tcp_state),
)


def compile_filter(replicate: Replicate) -> Filter | None:
    """Return the filter that `[replicate]` asks for; None if all flows pass."""
    criteria = [Criterion(key.field, key.test(value)) for key in _KEYS if (value := getattr(replicate, key.name))]
    return Filter(criteria) if criteria else None
