"""Creating flows in bulk: what `rewrite.create` says, by slices at known places.  Pure; the hot path of a commit.

Plain flows with ports have everything at the same place; flows in the same state share what is rewritten.  All others
go through `rewrite.create`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Final, TypeVar

from ftfw.kernel import uapi
from ftfw.kernel.attributes import BODY, HEADER, MESSAGE, number, split, u32
from ftfw.kernel.create import CREATE, DOUBTED_S, NAT, Timeouts, create
from ftfw.kernel.flow_entry import family_of, protocol_of

BATCH: Final = 1024  # messages in one datagram: about a millisecond in the kernel

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


class Creator:
    """Makes the messages of a commit.

    `message_parts` gives the pieces of one message, whose header carries `sequence`; pieces rather than a message,
    so that a whole batch is joined once.
    """

    _KEPT_MAX = 4096  # combinations of status and protocol state; cleared when full

    def __init__(self, timeouts: Timeouts, *, pinned: bool) -> None:
        self._timeouts = timeouts
        self._pinned = pinned
        self._kept: dict[bytes, _Kept | None] = {}

    def message_parts(self, key: bytes, value: bytes, sequence: int) -> tuple[bytes, ...]:
        """The message that creates one flow, in pieces; `sequence` is below BATCH."""
        place = _PLACES.get(key[:12])
        if place is None or value[:2] != key[:2]:  # the reply's tuple has another length: nothing is at its place
            return self.slow_parts(key, value, sequence)
        # With the family: what is kept has the size of one family's message.
        state = b"%b%c%b%b" % (
            place.family,
            key[place.protocol],
            value[place.status_header : place.timeout + _TOLD],
            value[place.rest :],
        )
        kept = self._kept[state] if state in self._kept else self._keep(key, value, place, state)
        if kept is None:
            return self.slow_parts(key, value, sequence)
        timeout, least = value[place.timeout : place.rest], kept.least
        if kept.as_held and timeout >= least and len(key) == place.id:
            return (kept.headers[sequence], key, value)
        if kept.fixed or timeout < least:
            timeout = least
        if kept.nat:
            return self._nat_parts(key, value, sequence, place, (kept.status, timeout, kept.rest))
        body = len(key) + place.id + 16 + len(kept.rest)
        header = MESSAGE.pack(BODY + body, uapi.CT_NEW, CREATE, sequence, 0)
        return (header, place.family, key, value[: place.id], kept.status, timeout, kept.rest)

    def slow_parts(self, key: bytes, value: bytes, sequence: int) -> tuple[bytes, ...]:
        """The same for any flow."""
        body = create(key, value, timeouts=self._timeouts, pinned=self._pinned)
        header = MESSAGE.pack(BODY + len(body), uapi.CT_NEW, CREATE, sequence, 0)
        return (header, bytes((family_of(key), 0, 0, 0)), body)

    def _keep(self, key: bytes, value: bytes, place: "_Place", state: bytes) -> "_Kept | None":
        """What is rewritten once for all flows in this state; None if the flow is not plain."""
        if len(self._kept) >= self._KEPT_MAX:
            self._kept.clear()
        self._kept[state] = None
        if (
            value[place.status_header : place.status] != _STATUS_HEADER
            or value[place.timeout : place.timeout + 4] != _TIMEOUT_HEADER
            or not split(value).keys() <= _BULK
            or protocol_of(key) == uapi.IPPROTO_GRE
        ):
            return None
        doubted = number(value[place.timeout : place.rest]) >= DOUBTED_S
        told = value if doubted else value[: place.timeout] + u32(uapi.CTA_TIMEOUT, 0) + value[place.rest :]
        attributes = split(create(key, told, timeouts=self._timeouts, pinned=self._pinned))
        status = attributes[uapi.CTA_STATUS]
        rest = b"".join(attributes[kind] for kind in (uapi.CTA_PROTOINFO, uapi.CTA_MARK) if kind in attributes)
        nat = bool(number(status) & NAT)
        fixed = self._pinned or doubted
        kept = _Kept(
            status=status,
            fixed=fixed,
            least=attributes[uapi.CTA_TIMEOUT],
            rest=rest,
            nat=nat,
            as_held=(
                not nat
                and not fixed
                and status == value[place.status_header : place.timeout]
                and rest == value[place.rest :]
            ),
            headers=_headers(BODY + place.id + len(value), place.family),
        )
        self._kept[state] = kept
        return kept

    @staticmethod
    def _nat_parts(
        key: bytes, value: bytes, sequence: int, place: "_Place", tail: tuple[bytes, bytes, bytes]
    ) -> tuple[bytes, ...]:
        """A translated flow of a protocol with ports: the reply tuple inverted, the translation beside it."""
        p = place
        source, destination = key[p.source : p.source_end], key[p.destination : p.destination_end]
        sport, dport = key[p.sport : p.sport + 4], key[p.dport : p.dport + 4]
        parts = [
            value[: p.source],
            destination,
            value[p.source_end : p.destination],
            source,
            value[p.destination_end : p.sport],
            dport,
            value[p.sport + 4 : p.dport],
            sport,
            *tail,
        ]
        reply_source, reply_destination = (
            value[p.source : p.source_end],
            value[p.destination : p.destination_end],
        )
        reply_sport, reply_dport = value[p.sport : p.sport + 4], value[p.dport : p.dport + 4]
        for header, differs, address, port in (
            (p.nat_src, reply_destination != source or reply_dport != sport, reply_destination, reply_dport),
            (p.nat_dst, reply_source != destination or reply_sport != dport, reply_source, reply_sport),
        ):
            if differs:
                parts += (header, address, p.nat_max, address, _NAT_PORT_MIN, port, _NAT_PORT_MAX, port)
        body = b"".join(parts)
        head = MESSAGE.pack(BODY + len(key) + len(body), uapi.CT_NEW, CREATE, sequence, 0)
        return (head, p.family, key, body)


@cache
def _headers(length: int, family: bytes) -> list[bytes]:
    """The headers of messages of one length, by sequence; plain flows come in a handful of lengths."""
    return [MESSAGE.pack(length, uapi.CT_NEW, CREATE, sequence, 0) + family for sequence in range(BATCH)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What flows in the same state share."""

    status: bytes
    least: bytes  # the least CTA_TIMEOUT
    fixed: bool  # it is the only one
    rest: bytes  # what follows CTA_TIMEOUT
    nat: bool
    as_held: bool  # but for the timeout, the value as it is held creates the flow: CTA_ID in it is ignored
    headers: list[bytes]  # by sequence, for that case, in a flow without zone


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where things are in the key and the value of a plain flow with ports; offsets count in both alike."""

    family: bytes
    source: int
    source_end: int
    destination: int
    destination_end: int
    protocol: int
    sport: int
    dport: int
    id: int
    status_header: int
    status: int
    timeout: int
    rest: int
    nat_src: bytes
    nat_dst: bytes
    nat_max: bytes


_TOLD: Final = 6  # bytes of CTA_TIMEOUT: its header, and of the number what tells whether it is doubted
assert DOUBTED_S % (1 << 16) == 0
_STATUS_HEADER: Final = HEADER.pack(8, uapi.CTA_STATUS)
_TIMEOUT_HEADER: Final = HEADER.pack(8, uapi.CTA_TIMEOUT)
_BULK: Final = frozenset(
    {uapi.CTA_TUPLE_REPLY, uapi.CTA_ID, uapi.CTA_STATUS, uapi.CTA_TIMEOUT, uapi.CTA_PROTOINFO, uapi.CTA_MARK}
)
_NAT_PORT_MIN: Final = HEADER.pack(20, uapi.CTA_NAT_PROTO | uapi.NLA_F_NESTED) + HEADER.pack(
    6, uapi.CTA_PROTONAT_PORT_MIN
)
_NAT_PORT_MAX: Final = HEADER.pack(6, uapi.CTA_PROTONAT_PORT_MAX)


def _place(family: int) -> tuple[bytes, _Place]:
    size = 4 if family == uapi.AF_INET else 16
    first_kind = uapi.CTA_IP_V4_SRC if family == uapi.AF_INET else uapi.CTA_IP_V6_SRC
    nat_kind = uapi.CTA_NAT_V4_MINIP if family == uapi.AF_INET else uapi.CTA_NAT_V6_MINIP
    tuple_size = 4 + 4 + 2 * (4 + size) + 4 + 24
    protocol = 8 + 2 * (4 + size) + 8
    sport = protocol + 8
    nat_size = 4 + 2 * (4 + size) + 20

    def tuple_head(kind: int) -> bytes:
        return (
            HEADER.pack(tuple_size, kind | uapi.NLA_F_NESTED)
            + HEADER.pack(4 + 2 * (4 + size), uapi.CTA_TUPLE_IP | uapi.NLA_F_NESTED)
            + HEADER.pack(4 + size, first_kind)
        )

    def nat_head(kind: int) -> bytes:
        return HEADER.pack(nat_size, kind | uapi.NLA_F_NESTED) + HEADER.pack(4 + size, nat_kind)

    return tuple_head(uapi.CTA_TUPLE_ORIG), _Place(
        family=bytes((family, 0, 0, 0)),
        source=12,
        source_end=12 + size,
        destination=16 + size,
        destination_end=16 + 2 * size,
        protocol=protocol,
        sport=sport,
        dport=sport + 8,
        id=tuple_size,
        status_header=tuple_size + 8,
        status=tuple_size + 12,
        timeout=tuple_size + 16,
        rest=tuple_size + 24,
        nat_src=nat_head(uapi.CTA_NAT_SRC),
        nat_dst=nat_head(uapi.CTA_NAT_DST),
        nat_max=HEADER.pack(4 + size, nat_kind + 1),
    )


_PLACES: Final = dict((_place(uapi.AF_INET), _place(uapi.AF_INET6)))
