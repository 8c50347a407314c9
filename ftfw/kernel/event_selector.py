"""Which of the kernel's messages concern the peer.  Pure; on the active's hot path.

Never the peer's: loopback, and flows whose original or reply source is in `excluded`, the addresses of this host and of
the links' groups.  The rest is asked of `passes`, if there is one: of messages of a known shape by the bytes that it
is about, of others with the flow decoded.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import chain, combinations, islice
from typing import Final, Protocol

from ftfw.kernel import decode, expectation, flow_entry, message_run, uapi
from ftfw.kernel.attributes import BODY, MESSAGE, MESSAGE_SIZE, MalformedError, message, nested, payload, split
from ftfw.kernel.flow_entry import Kind
from ftfw.kernel.flow_model import Flow
from ftfw.kernel.message_run import Part, Run
from ftfw.kernel.message_shapes import DESTROY, NEW, PREFIX, SHAPES, UPDATE, Shape
from ftfw.kernel.validate import Checker

HINTS_PER_REQUEST = 128
RUN_MIN = 4  # messages; fewer are shorter one by one
LOOPBACK: Final = 127  # the first byte of 127.0.0.0/8, of which any address may be used without standing on `lo`
_TCP_STATES: Final = (*uapi.TCP_STATES, *("",) * (256 - len(uapi.TCP_STATES)))  # by number
IPV4_SIZE: Final = 4  # bytes of an address
LOOPBACK6: Final = ip_address("::1").packed

Read = Callable[[list[bytes]], list[bytes]]
"""The kernel's answers to GETs of flows by these keys; flows that it lacks are left out."""


class Filter(Protocol):
    """The tests that flows have to pass: all of those that are not None."""

    @property
    def protocol(self) -> Callable[[int], bool] | None:
        """Of the protocol's number."""

    @property
    def zone(self) -> Callable[[int], bool] | None:
        """Of the zone, 0 for none."""

    @property
    def addresses(self) -> Callable[[tuple[bytes, ...]], bool] | None:
        """Of the packed addresses in both tuples."""

    @property
    def ports(self) -> Callable[[tuple[bytes, ...]], bool] | None:
        """Of the ports in both tuples, two bytes each in network order."""

    @property
    def mark(self) -> Callable[[int], bool] | None:
        """Of the mark, 0 for none."""

    @property
    def tcp_state(self) -> Callable[[str], bool] | None:
        """Of the name of a TCP flow's state."""

    def __call__(self, flow: Flow, /) -> bool:
        """Whether a decoded flow passes all of them."""

    def may_change(self, protocol: int, /) -> bool:
        """Whether flows of this protocol may come to pass or cease to: what they are judged by changes."""


def _unread(_keys: list[bytes]) -> list[bytes]:
    return []


@dataclass(slots=True)
class Selected:
    """What to stream, and the keys of flows that have something to say that no event says."""

    parts: list[Part] = field(default_factory=list)
    hints: set[bytes] = field(default_factory=set)

    @property
    def messages(self) -> list[bytes]:
        """All messages, one by one."""
        return list(chain.from_iterable(part.split() if isinstance(part, Run) else part for part in self.parts))

    def take(self, messages: list[bytes]) -> None:
        """Stream these, too."""
        if self.parts and isinstance(last := self.parts[-1], list):
            last += messages
        else:
            self.parts.append(messages)


class Selector:
    """Selects messages; `dropped` counts by reason what was no message of ours at all.

    `read` asks the kernel for the masters of expectations, which are selected by them; without it all are.
    """

    def __init__(
        self,
        *,
        passes: Filter | None,
        expectations: bool | tuple[str, ...],
        dropped: Counter[str],
        read: Read = _unread,
    ) -> None:
        self.excluded = frozenset()
        self._passes = passes
        self._expectations = expectations
        self._dropped = dropped
        self._read = read
        self._masters: dict[bytes, bool] = {}  # within one call: what was found of masters
        self._checker = Checker()
        self._helper_zones: set[bytes] = {b""}  # CTA_ZONE attributes of flows with helpers

    @property
    def excluded(self) -> frozenset[bytes]:
        """Packed addresses whose flows end on this host; ::1 is always among them."""
        return self._excluded

    @excluded.setter
    def excluded(self, addresses: frozenset[bytes]) -> None:
        self._excluded = addresses | {LOOPBACK6}

    def answers(self, messages: Sequence[bytes]) -> Selected:
        """What to stream of the kernel's answers about hinted flows.

        One that does not pass ends the flow for the peer: an UPDATE that did not tell all had passed.
        """
        selected = Selected()
        for found in map(flow_entry.as_full, messages):
            self._select_slowly(found, selected, ends=True)
        return selected

    def follow(self, hints: Iterable[bytes]) -> Iterator[Selected]:
        """Ask the kernel about hinted flows, and tell what to stream of its answers, a request at a time."""
        rest = iter(sorted(hints))  # a simulated run is the same again
        while keys := list(islice(rest, HINTS_PER_REQUEST)):
            yield self.answers(self._read(keys))

    def dumped(self, messages: Sequence[bytes]) -> Selected:
        """What concerns the peer of a part of a dump, as it travels."""
        return self.select([flow_entry.as_full(found) for found in messages])

    def select(self, messages: Sequence[bytes]) -> Selected:
        """The messages to stream.

        Those about one flow keep their order.  Otherwise plain ones are gathered by shape, between others that are not.
        """
        self._masters.clear()
        selected = Selected()
        groups: dict[bytes, list[bytes]] = {}
        grouped = 0  # messages before this one are in `selected` already
        for number, (prefix, found) in enumerate(zip(map(message_run.prefix_of, messages), messages, strict=True)):
            if prefix in groups:
                groups[prefix].append(found)
            elif prefix in SHAPES:
                groups[prefix] = [found]
            else:
                self._select_groups(groups, messages[grouped:number], selected)
                groups, grouped = {}, number + 1
                self._select_slowly(found, selected)
        self._select_groups(groups, messages[grouped:], selected)
        return selected

    def _select_groups(self, groups: dict[bytes, list[bytes]], in_order: Sequence[bytes], selected: Selected) -> None:
        shaped = [(SHAPES[prefix], group) for prefix, group in groups.items()]
        if len(shaped) > 1:
            if _entangled(shaped):
                shaped = [(SHAPES[message_run.prefix_of(found)], [found]) for found in in_order]
            else:
                shaped.sort(key=lambda group: group[0].kind)
        for shape, group in shaped:
            self._select_group(shape, group, selected)

    def _select_group(self, shape: Shape, group: list[bytes], selected: Selected) -> None:
        found = message_run.of_kernel(shape, group)
        changing = self._is_changing(shape.protocol)
        if found is None or (changing and shape.kind == UPDATE):
            for message_ in group:
                self._select_slowly(message_, selected)
            return
        excluded = self._excluded
        if not (
            excluded.isdisjoint(map(shape.source_of, group))
            and excluded.isdisjoint(map(shape.reply_source_of, group))
            and not _has_loopback(found)
        ):
            group = [m for m in group if not self._ends_here(shape.source_of(m), shape.reply_source_of(m))]
        if self._passes is not None and not (changing and shape.kind == DESTROY):
            group = _passing(self._passes, shape, group)
        if len(group) < len(found):
            found = Run(shape, b"".join(group))
        if len(group) >= RUN_MIN:
            selected.parts.append(found)
        elif group:
            selected.take(group)

    def _ends_here(self, *sources: bytes) -> bool:
        return any(
            source in self._excluded or (len(source) == IPV4_SIZE and source[0] == LOOPBACK) for source in sources
        )

    def _select_slowly(self, found: bytes, selected: Selected, *, ends: bool = False) -> None:
        try:
            asked_for = len(found) > MESSAGE_SIZE and found[8:MESSAGE_SIZE] != bytes(8)  # by a process: its port id
            if asked_for:
                length, kind, flags, _, _ = MESSAGE.unpack_from(found)
                found = MESSAGE.pack(length, kind, flags, 0, 0) + found[MESSAGE_SIZE:]
            parsed = flow_entry.parse(found)
            self._checker.check(found, parsed)
            if parsed.kind in (Kind.EXPECT_NEW, Kind.EXPECT_DESTROY):
                self._select_expectation(found, parsed, selected)
            else:
                self._select_flow(found, parsed, selected, ends=ends, asked_for=asked_for)
        except MalformedError:
            self._dropped["malformed"] += 1

    def _select_flow(
        self, found: bytes, parsed: flow_entry.Parsed, selected: Selected, *, ends: bool, asked_for: bool
    ) -> None:
        attributes = parsed.attributes
        key = flow_entry.key_of(attributes)
        if uapi.CTA_HELP in attributes:
            self._helper_zones.add(flow_entry.zone_of(key))
        if self._ends_here(_source(key), _source(attributes[uapi.CTA_TUPLE_REPLY])):
            return
        changing = self._is_changing(flow_entry.protocol_of(key))
        if not (changing and parsed.kind is Kind.DESTROY) and not self._is_passed(key, attributes):
            if ends or (changing and parsed.kind is Kind.UPDATE):  # it passed once, perhaps: for the peer it ends here
                selected.take([message(uapi.CT_DELETE, 0, parsed.family, key + attributes[uapi.CTA_TUPLE_REPLY])])
            return
        selected.take([found])
        if parsed.kind is Kind.DESTROY:
            return
        if changing and parsed.kind is Kind.UPDATE:
            selected.hints.add(key)
        if parsed.kind is not Kind.FULL:
            self._hint(key, attributes, selected)
        if asked_for and parsed.kind is Kind.UPDATE:  # labels that were taken off are left out (ctnetlink_dump_labels)
            selected.hints.add(key)

    def _is_changing(self, protocol: int) -> bool:
        return self._passes is not None and self._passes.may_change(protocol)

    def _is_passed(self, key: bytes, attributes: dict[int, bytes]) -> bool:
        if self._passes is None:
            return True
        value = flow_entry.value_of({k: v for k, v in attributes.items() if k in flow_entry.ORDER}, self._dropped)
        return self._passes(decode.flow(key, value))

    def _hint(self, key: bytes, attributes: dict[int, bytes], selected: Selected) -> None:
        """A flow that announces another, or whose sequence numbers shift, has changed without an event."""
        if uapi.CTA_TUPLE_MASTER in attributes:
            selected.hints.add(flow_entry.master_key(key, attributes[uapi.CTA_TUPLE_MASTER]))
        if flow_entry.status_of(attributes) & uapi.IPS_SEQ_ADJUST:
            selected.hints.add(key)

    def _select_expectation(self, found: bytes, parsed: flow_entry.Parsed, selected: Selected) -> None:
        key = expectation.key_of(parsed.attributes)
        master = expectation.master_of(key)
        if self._ends_here(_source(master)) or not self._wanted(parsed.attributes):
            return
        if parsed.kind is Kind.EXPECT_NEW:
            if not self._is_selected(master):
                return
            selected.hints.update(master + zone for zone in self._helper_zones)
        selected.take([found])

    def _is_selected(self, master: bytes) -> bool:
        """Whether the flow that announced an expectation is the peer's; one that cannot be found counts as such.

        The expectation tells the master's original tuple only: not its zone, nor how it is translated.
        """
        if master not in self._masters:
            answers = self._read([master + zone for zone in sorted(self._helper_zones)])
            found = [self._attributes(flow_entry.as_full(answer)) for answer in answers]
            helped = [attributes for attributes in found if uapi.CTA_HELP in attributes]
            self._masters[master] = not helped or any(map(self._is_peers, helped))
        return self._masters[master]

    def _attributes(self, found: bytes) -> dict[int, bytes]:
        parsed = flow_entry.parse(found)
        self._checker.check(found, parsed)
        return parsed.attributes

    def _is_peers(self, attributes: dict[int, bytes]) -> bool:
        key = flow_entry.key_of(attributes)
        if self._ends_here(_source(key), _source(attributes[uapi.CTA_TUPLE_REPLY])):
            return False
        return self._is_passed(key, attributes)

    def _wanted(self, attributes: dict[int, bytes]) -> bool:
        if isinstance(self._expectations, bool):
            return self._expectations
        return expectation.helper_name(expectation.value_of(attributes)) in self._expectations


def _passing(passes: Filter, shape: Shape, group: list[bytes]) -> list[bytes]:
    """Those messages of a shape, which has no zone, that pass."""
    if (passes.protocol and not passes.protocol(shape.protocol)) or (passes.zone and not passes.zone(0)):
        return []
    if (are_wanted := passes.addresses) is not None:
        addresses_of = shape.addresses_of
        group = [found for found in group if are_wanted(addresses_of(found))]
    if (are_wanted := passes.ports) is not None:
        ports_of = shape.ports_of
        group = [found for found in group if are_wanted(ports_of(found))]
    if (is_wanted := passes.mark) is not None:
        start, end = (0, 0) if shape.mark is None else (shape.mark, shape.mark + 4)
        group = [found for found in group if is_wanted(int.from_bytes(found[start:end], "big"))]
    if (is_named := passes.tcp_state) is not None and (place := shape.tcp_state) is not None:
        group = [found for found in group if is_named(_TCP_STATES[found[place]])]
    return group


def _has_loopback(found: Run) -> bool:
    """Whether a source in the run is in 127.0.0.0/8, told by two columns of it."""
    shape, messages = found.shape, found.messages
    reply = shape.split + PREFIX - BODY
    return messages[MESSAGE_SIZE] == uapi.AF_INET and (
        LOOPBACK in messages[PREFIX :: shape.size] or LOOPBACK in messages[reply :: shape.size]
    )


def _entangled(groups: list[tuple[Shape, list[bytes]]]) -> bool:
    """Whether putting NEW before UPDATE before DESTROY could turn round what happened to one flow.

    It does where a tuple was used again at once, and where two shapes (with mark, without) tell the same about it.
    What begins like a shape may have another protocol; the length of its tuple it has in common with it.
    """
    for (one, first), (other, second) in combinations(groups, 2):
        if one.split == other.split and (one.kind == other.kind or {one.kind, other.kind} == {NEW, DESTROY}):
            keys = {found[BODY : one.split] for found in first}
            if not keys.isdisjoint([found[BODY : other.split] for found in second]):
                return True
    return False


def _source(tuple_: bytes) -> bytes:
    """The packed source address in a tuple attribute."""
    addresses = nested(nested(tuple_)[uapi.CTA_TUPLE_IP])
    return payload(addresses[min(addresses)])


def key_in(found: bytes) -> bytes:
    """The key of the flow that a message is about."""
    return flow_entry.key_of(split(found, BODY))
