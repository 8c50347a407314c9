"""Which of the kernel's messages concern the peer.  Pure; on the active's hot path.

Never the peer's: flows whose original or reply source is in `excluded`, the addresses of this host and of the links'
groups.  The rest is asked of `passes`, if there is one, with the flow decoded.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ftfw.model import Flow

from . import decode, entry, expectation, uapi
from .attributes import BODY, MESSAGE, MESSAGE_SIZE, MalformedError, message, nested, payload, split
from .entry import Kind
from .layout import PREFIX, SHAPES
from .wellformed import Checker


@dataclass(slots=True)
class Selected:
    """What to stream, and the keys of flows that have something to say that no event says."""

    messages: list[bytes] = field(default_factory=list)
    hints: set[bytes] = field(default_factory=set)


class Selector:
    """Selects messages; `dropped` counts by reason what was no message of ours at all."""

    def __init__(
        self, *, passes: Callable[[Flow], bool] | None, expectations: bool | tuple[str, ...], dropped: Counter[str]
    ) -> None:
        self.excluded: frozenset[bytes] = frozenset()  # packed addresses
        self._passes = passes
        self._expectations = expectations
        self._dropped = dropped
        self._checker = Checker()
        self._helper_zones: set[bytes] = {b""}  # CTA_ZONE attributes of flows with helpers

    def select(self, messages: Iterable[bytes]) -> Selected:
        """The messages to stream, in their order."""
        selected = Selected()
        take = selected.messages.append
        excluded, deep = self.excluded, self._passes is not None
        shape_of = SHAPES.get
        for found in messages:
            shape = shape_of(found[:PREFIX])
            if (
                shape is None
                or found[shape.types] != shape.types_are
                or found[shape.protocol_at] != shape.protocol
                or deep
            ):
                self._select_slowly(found, selected)
            elif (
                found[PREFIX : shape.source_end] not in excluded
                and found[shape.reply_source : shape.reply_source_end] not in excluded
            ):
                take(found)
        return selected

    def _select_slowly(self, found: bytes, selected: Selected) -> None:
        try:
            if len(found) > MESSAGE_SIZE and found[8:MESSAGE_SIZE] != bytes(8):  # an administrator's has a port id
                length, kind, flags, _, _ = MESSAGE.unpack_from(found)
                found = MESSAGE.pack(length, kind, flags, 0, 0) + found[MESSAGE_SIZE:]
            parsed = entry.parse(found)
            self._checker.check(found, parsed)
            if parsed.kind in (Kind.EXPECT_NEW, Kind.EXPECT_DESTROY):
                self._select_expectation(found, parsed, selected)
            else:
                self._select_flow(found, parsed, selected)
        except MalformedError:
            self._dropped["malformed"] += 1

    def _select_flow(self, found: bytes, parsed: entry.Parsed, selected: Selected) -> None:
        attributes = parsed.attributes
        key = entry.key_of(attributes)
        if _source(key) in self.excluded or _source(attributes[uapi.CTA_TUPLE_REPLY]) in self.excluded:
            return
        if self._passes is not None and parsed.kind is not Kind.DESTROY:
            value = entry.value_of({k: v for k, v in attributes.items() if k in entry.ORDER}, self._dropped)
            if not self._passes(decode.flow(key, value)):
                if parsed.kind is Kind.UPDATE:  # it passed once, perhaps: for the peer it ends here
                    selected.messages.append(
                        message(uapi.CT_DELETE, 0, parsed.family, key + attributes[uapi.CTA_TUPLE_REPLY])
                    )
                return
        selected.messages.append(found)
        if parsed.kind is Kind.DESTROY:
            return
        if uapi.CTA_HELP in attributes:
            self._helper_zones.add(entry.zone_of(key))
        if parsed.kind is not Kind.FULL:
            self._hint(key, attributes, selected)

    def _hint(self, key: bytes, attributes: dict[int, bytes], selected: Selected) -> None:
        """A flow that announces another, or whose sequence numbers shift, has changed without an event."""
        if uapi.CTA_TUPLE_MASTER in attributes:
            selected.hints.add(entry.master_key(key, attributes[uapi.CTA_TUPLE_MASTER]))
        if entry.status_of(attributes) & uapi.IPS_SEQ_ADJUST:
            selected.hints.add(key)

    def _select_expectation(self, found: bytes, parsed: entry.Parsed, selected: Selected) -> None:
        key = expectation.key_of(parsed.attributes)
        master = expectation.master_of(key)
        if _source(master) in self.excluded or not self._wanted(parsed.attributes):
            return
        selected.messages.append(found)
        if parsed.kind is Kind.EXPECT_NEW:
            selected.hints.update(master + zone for zone in self._helper_zones)

    def _wanted(self, attributes: dict[int, bytes]) -> bool:
        if isinstance(self._expectations, bool):
            return self._expectations
        return expectation.helper_name(expectation.value_of(attributes)) in self._expectations


def _source(tuple_: bytes) -> bytes:
    """The packed source address in a tuple attribute."""
    addresses = nested(nested(tuple_)[uapi.CTA_TUPLE_IP])
    return payload(addresses[min(addresses)])


def key_in(found: bytes) -> bytes:
    """The key of the flow that a message is about."""
    return entry.key_of(split(found, BODY))
