"""Select the kernel's messages that are replicated.  Pure; on the active's hot path.

Loopback is never replicated, nor are flows whose original or reply source is in `Selector.excluded`: the addresses
of this host and of the links' groups.  The filter of `[replicate]` decides about the rest: on bytes at known offsets
where the message has a known shape, else on its attributes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import chain, combinations, islice
from typing import Final

from ftfw.kernel import expectation, flow_entry, message_run, uapi
from ftfw.kernel.attributes import BODY, MESSAGE, MESSAGE_SIZE, MalformedError, message, split
from ftfw.kernel.flow_entry import Kind, source_of
from ftfw.kernel.flow_filter import Filter
from ftfw.kernel.message_run import Part, Run
from ftfw.kernel.message_shapes import DESTROY, NEW, PREFIX, SHAPES, UPDATE, Shape
from ftfw.kernel.validate import Checker

KEYS_PER_REQUEST: Final = 128  # flows requested from the kernel at once: a fraction of a millisecond
RUN_MIN: Final = 4  # messages; fewer are shorter one by one
LOOPBACK: Final = 127  # the first byte of 127.0.0.0/8, of which any address may be used without standing on `lo`
IPV4_SIZE: Final = 4  # bytes of an address
LOOPBACK6: Final = ip_address("::1").packed

Read = Callable[[list[bytes]], list[bytes]]
"""Return the kernel's answers to GETs of at most KEYS_PER_REQUEST keys; flows that it lacks are left out."""
Shapes = tuple[Shape, ...]
"""The shapes that messages with one prefix may have."""


def _unread(_keys: list[bytes]) -> list[bytes]:
    return []


@dataclass(slots=True)
class Selected:
    """Hold messages to stream, and keys of flows to read again because they changed without an event."""

    parts: list[Part] = field(default_factory=list)
    hints: set[bytes] = field(default_factory=set)

    @property
    def messages(self) -> list[bytes]:
        """Return all messages, one by one."""
        return list(chain.from_iterable(part.split() if isinstance(part, Run) else part for part in self.parts))

    def add(self, messages: list[bytes]) -> None:
        """Add messages to stream, behind those that are there."""
        if self.parts and isinstance(last := self.parts[-1], list):
            last += messages
        else:
            self.parts.append(messages)


class Selector:
    """Selects messages; `dropped` counts, by reason, messages that are not about a flow or an expectation.

    `passes` is the filter of `[replicate]`, `expectations` its key of that name.  `read` requests the
    masters of expectations from the kernel: they decide whether an expectation is selected.  Without it all are.
    """

    def __init__(
        self,
        *,
        passes: Filter | None,
        expectations: bool | tuple[str, ...],
        dropped: Counter[str],
        read: Read = _unread,
    ) -> None:
        self._excluded = self._always_excluded = frozenset({LOOPBACK6})
        self._has_selected = False
        self._passes = passes
        self._expectations = expectations
        self._dropped = dropped
        self._read = read
        self._masters: dict[bytes, bool] = {}  # within one call: whether the flow with this tuple is selected
        self._checker = Checker()
        self._helper_zones: set[bytes] = {b""}  # CTA_ZONE attributes of flows with helpers

    @property
    def excluded(self) -> frozenset[bytes]:
        """Return the packed addresses whose flows end on this host; ::1 is always among them."""
        return self._excluded

    @excluded.setter
    def excluded(self, addresses: frozenset[bytes]) -> None:
        """Exclude the flows of these addresses.

        The end of a flow is left out only if its address has been excluded since the first selection.  Otherwise the
        flow may have been streamed before, and without its end a backup would keep it.
        """
        self._excluded = addresses | {LOOPBACK6}
        self._always_excluded = self._always_excluded & self._excluded if self._has_selected else self._excluded

    def answers(self, messages: Sequence[bytes]) -> Selected:
        """Select from the kernel's answers about hinted flows.

        A flow whose answer does not pass is ended on the peer: an incomplete UPDATE of it had passed.
        """
        selected = Selected()
        for found in map(flow_entry.as_full, messages):
            self._select_slowly(found, selected, ends=True)
        return selected

    def read_hinted(self, hints: Iterable[bytes]) -> Iterator[Selected]:
        """Request hinted flows from the kernel; yield the messages selected from its answers, once for each request."""
        for keys in _batches(sorted(hints)):  # sorted: a simulation repeats itself
            yield self.answers(self._read(keys))

    def dumped(self, messages: Sequence[bytes]) -> Selected:
        """Select from a part of a dump; the messages get the headers with which they are streamed."""
        return self.select([flow_entry.as_full(found) for found in messages])

    def select(self, messages: Sequence[bytes]) -> Selected:
        """Select from events.

        Messages about one flow keep their order.  Otherwise plain messages are grouped by shape, between messages that
        have no shape.
        """
        self._has_selected = True
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
                shaped.sort(key=lambda group: group[0][0].kind)
        for shapes, group in shaped:
            self._select_group(shapes, group, selected)

    def _select_group(self, shapes: Shapes, group: list[bytes], selected: Selected) -> None:
        """Select from messages that may have one of `shapes`; if not all of them have one, from each protocol's."""
        found = message_run.of_kernel(shapes, group)
        if found is not None:
            self._select_run(found, group, selected)
            return
        protocol_at = shapes[0].discriminators[0][0]
        by_protocol: dict[bytes, list[bytes]] = {}
        for each in group:
            by_protocol.setdefault(each[protocol_at : protocol_at + 1], []).append(each)
        for protocol, part in by_protocol.items():
            fitting = tuple(shape for shape in shapes if bytes((shape.protocol,)) == protocol)
            if fitting and len(part) < len(group):
                self._select_group(fitting, part, selected)
            else:
                self._select_each(part, selected)

    def _select_each(self, messages: Iterable[bytes], selected: Selected) -> None:
        for found in messages:
            self._select_slowly(found, selected)

    def _select_run(self, found: Run, group: list[bytes], selected: Selected) -> None:
        """Select from the messages of a run, which are also given one by one."""
        shape = found.shape
        changing = self._is_changing(shape.protocol)
        if changing and shape.kind == UPDATE:
            self._select_each(group, selected)
            return
        excluded = self._always_excluded if shape.kind == DESTROY else self._excluded
        if not (
            excluded.isdisjoint(map(shape.source_of, group))
            and excluded.isdisjoint(map(shape.reply_source_of, group))
            and not _has_loopback(found)
        ):
            group = [m for m in group if not _is_local(excluded, shape.source_of(m), shape.reply_source_of(m))]
        if self._passes is not None and not (changing and shape.kind == DESTROY):
            group = self._passes.among(shape, group)
        if len(group) < len(found):
            found = Run(shape, b"".join(group))
        if len(group) >= RUN_MIN:
            selected.parts.append(found)
        elif group:
            selected.add(group)

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
        attributes, destroyed = parsed.attributes, parsed.kind is Kind.DESTROY
        key = flow_entry.key_of(attributes)
        if uapi.CTA_HELP in attributes:
            self._helper_zones.add(flow_entry.zone_of(key))
        if self._ends_here(attributes, destroyed=destroyed):
            return
        changing = self._passes is not None and self._is_changing(flow_entry.protocol_of(key))
        if not (changing and destroyed) and not self._is_passed(attributes):
            if ends or (changing and parsed.kind is Kind.UPDATE):  # it may have passed before: end it on the peer
                selected.add([message(uapi.CT_DELETE, 0, parsed.family, key + attributes[uapi.CTA_TUPLE_REPLY])])
            return
        selected.add([found])
        if destroyed:
            return
        if changing and parsed.kind is Kind.UPDATE:
            selected.hints.add(key)
        if parsed.kind is not Kind.FULL:
            self._hint(key, attributes, selected)
        if asked_for and parsed.kind is Kind.UPDATE:  # removed labels are left out (ctnetlink_dump_labels)
            selected.hints.add(key)

    def _ends_here(self, attributes: dict[int, bytes], *, destroyed: bool = False) -> bool:
        """Return whether the flow of a checked message, which ends it if `destroyed`, is this host's own."""
        excluded = self._always_excluded if destroyed else self._excluded
        sources = source_of(attributes[uapi.CTA_TUPLE_ORIG]), source_of(attributes[uapi.CTA_TUPLE_REPLY])
        return _is_local(excluded, *sources)

    def _is_changing(self, protocol: int) -> bool:
        return self._passes is not None and self._passes.may_change(protocol)

    def _is_passed(self, attributes: dict[int, bytes]) -> bool:
        return self._passes is None or self._passes.passes(attributes)

    def _hint(self, key: bytes, attributes: dict[int, bytes], selected: Selected) -> None:
        """Note a flow that changed without an event: the master of a new flow, and one whose sequence numbers shift."""
        if uapi.CTA_TUPLE_MASTER in attributes:
            selected.hints.add(flow_entry.master_key(key, attributes[uapi.CTA_TUPLE_MASTER]))
        if flow_entry.status_of(attributes) & uapi.IPS_SEQ_ADJUST:
            selected.hints.add(key)

    def _select_expectation(self, found: bytes, parsed: flow_entry.Parsed, selected: Selected) -> None:
        key = expectation.key_of(parsed.attributes)
        master = expectation.master_of(key)
        begins = parsed.kind is Kind.EXPECT_NEW
        excluded = self._excluded if begins else self._always_excluded
        if _is_local(excluded, source_of(master)):
            return
        wanted = self._wanted(parsed.attributes)
        if begins:
            if not self._is_selected(master):
                return
            # Also for an expectation that is not wanted: its helper may have begun to adjust the master's sequence
            # numbers, and the kernel makes no event for that (nf_ct_seqadj_set).
            selected.hints.update(master + zone for zone in self._helper_zones)
        if wanted:
            selected.add([found])

    def _is_selected(self, master: bytes) -> bool:
        """Return whether the flow that announced an expectation is selected, or cannot be found.

        The expectation has only the master's original tuple: not its zone, nor its translation.
        """
        if master not in self._masters:
            self._masters[master] = self._find_master(master)
        return self._masters[master]

    def _find_master(self, master: bytes) -> bool:
        """Look for the master in every zone that has had helpers: return whether one is selected, or none found."""
        any_helped = False
        for keys in _batches([master + zone for zone in sorted(self._helper_zones)]):
            for answer in self._read(keys):
                attributes = self._attributes(flow_entry.as_full(answer))
                if uapi.CTA_HELP in attributes:
                    any_helped = True
                    if not self._ends_here(attributes) and self._is_passed(attributes):
                        return True
        return not any_helped

    def _attributes(self, found: bytes) -> dict[int, bytes]:
        parsed = flow_entry.parse(found)
        self._checker.check(found, parsed)
        return parsed.attributes

    def _wanted(self, attributes: dict[int, bytes]) -> bool:
        if isinstance(self._expectations, bool):
            return self._expectations
        return expectation.helper_name(expectation.value_of(attributes)) in self._expectations


def _batches(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while batch := list(islice(rest, KEYS_PER_REQUEST)):
        yield batch


def _is_local(excluded: frozenset[bytes], *sources: bytes) -> bool:
    """Return whether one of the packed source addresses is excluded or in 127.0.0.0/8."""
    return any(source in excluded or (len(source) == IPV4_SIZE and source[0] == LOOPBACK) for source in sources)


def _has_loopback(found: Run) -> bool:
    """Return whether a source in the run may be in 127.0.0.0/8: two columns tell its first byte."""
    shape, messages = found.shape, found.messages
    reply = shape.split + PREFIX - BODY
    return messages[MESSAGE_SIZE] == uapi.AF_INET and (
        LOOPBACK in messages[PREFIX :: shape.size] or LOOPBACK in messages[reply :: shape.size]
    )


def _entangled(groups: list[tuple[Shapes, list[bytes]]]) -> bool:
    """Return whether putting NEW before UPDATE before DESTROY could reverse the order of one flow's messages.

    It could where a tuple was used again at once, and where messages of two lengths (with mark, without) are of one
    kind about one flow.  All shapes of a group have tuples of one length and are of one kind.
    """
    for (one, first), (other, second) in combinations(groups, 2):
        kinds, split_ = {one[0].kind, other[0].kind}, one[0].split
        if split_ == other[0].split and (len(kinds) == 1 or kinds == {NEW, DESTROY}):
            keys = {found[BODY:split_] for found in first}
            if not keys.isdisjoint([found[BODY:split_] for found in second]):
                return True
    return False


def key_in(found: bytes) -> bytes:
    """Return the key of the flow that a message is about.  Raises MalformedError if it tells none."""
    return flow_entry.key_of(split(found, BODY))
