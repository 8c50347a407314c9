"""Make the requests that create many flows: the bytes of `create.create`, by slices at known offsets.

Pure; the hot path of a commit.  Plain flows with ports have everything at the same offset, and flows in the same state
share the rewritten attributes.  All others go through `create.create`.
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

STATES_MAX: Final = 4096  # combinations of status, protocol state and mark that a Creator remembers; cleared when full
BATCH: Final = 1024  # messages in one datagram: about a millisecond in the kernel

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


class Creator:
    """Makes the messages of a commit.

    `message_parts` returns the pieces of one message, whose header carries `sequence`; pieces rather than a message, so
    that a whole batch is joined once.
    """

    def __init__(self, timeouts: Timeouts, *, pinned: bool) -> None:
        self._timeouts = timeouts
        self._pinned = pinned
        self.slow = 0  # how many messages `slow_parts` has made
        self._shared: dict[bytes, _Shared | None] = {}

    def message_parts(self, key: bytes, value: bytes, sequence: int) -> tuple[bytes, ...]:
        """Return the message that creates one flow, in pieces; `sequence`, below BATCH, is its number."""
        at = _OFFSETS.get(key[:12])
        if at is None or value[:2] != key[:2]:  # the reply's tuple has another length: nothing is at its offset
            return self.slow_parts(key, value, sequence)
        # With the family: the shared headers have the size of one family's message.
        state = b"%b%c%b%b" % (
            at.family,
            key[at.protocol],
            value[at.status_header : at.timeout + _TOLD],
            value[at.rest :],
        )
        shared = self._shared[state] if state in self._shared else self._share(key, value, at, state)
        if shared is None:
            return self.slow_parts(key, value, sequence)
        timeout, least = value[at.timeout : at.rest], shared.least
        if shared.as_held and timeout >= least and len(key) == at.id:
            return (shared.headers[sequence], key, value)
        if shared.fixed or timeout < least:
            timeout = least
        if shared.nat:
            return self._nat_parts(key, value, sequence, at, (shared.status, timeout, shared.rest))
        body = len(key) + at.id + 16 + len(shared.rest)
        header = MESSAGE.pack(BODY + body, uapi.CT_NEW, CREATE, sequence, 0)
        return (header, at.family, key, value[: at.id], shared.status, timeout, shared.rest)

    def slow_parts(self, key: bytes, value: bytes, sequence: int) -> tuple[bytes, ...]:
        """Return the message of any flow, made by `create.create`, in pieces."""
        self.slow += 1
        body = create(key, value, timeouts=self._timeouts, pinned=self._pinned)
        header = MESSAGE.pack(BODY + len(body), uapi.CT_NEW, CREATE, sequence, 0)
        return (header, bytes((family_of(key), 0, 0, 0)), body)

    def _share(self, key: bytes, value: bytes, at: "_Offsets", state: bytes) -> "_Shared | None":
        """Return the attributes that all flows in this state share, rewritten once; None if the flow is not plain."""
        if len(self._shared) >= STATES_MAX:
            self._shared.clear()
        self._shared[state] = None
        if (
            value[at.status_header : at.status] != _STATUS_HEADER
            or value[at.timeout : at.timeout + 4] != _TIMEOUT_HEADER
            or not split(value).keys() <= _BULK
            or protocol_of(key) == uapi.IPPROTO_GRE
        ):
            return None
        doubted = number(value[at.timeout : at.rest]) >= DOUBTED_S
        told = value if doubted else value[: at.timeout] + u32(uapi.CTA_TIMEOUT, 0) + value[at.rest :]
        attributes = split(create(key, told, timeouts=self._timeouts, pinned=self._pinned))
        status = attributes[uapi.CTA_STATUS]
        rest = b"".join(attributes[kind] for kind in (uapi.CTA_PROTOINFO, uapi.CTA_MARK) if kind in attributes)
        nat = bool(number(status) & NAT)
        fixed = self._pinned or doubted
        shared = _Shared(
            status=status,
            fixed=fixed,
            least=attributes[uapi.CTA_TIMEOUT],
            rest=rest,
            nat=nat,
            as_held=(
                not nat and not fixed and status == value[at.status_header : at.timeout] and rest == value[at.rest :]
            ),
            headers=_headers(BODY + at.id + len(value), at.family),
        )
        self._shared[state] = shared
        return shared

    @staticmethod
    def _nat_parts(
        key: bytes, value: bytes, sequence: int, at: "_Offsets", tail: tuple[bytes, bytes, bytes]
    ) -> tuple[bytes, ...]:
        """Return the pieces for a translated flow: the original tuple inverted as reply tuple, and the translation."""
        source, destination = key[at.source : at.source_end], key[at.destination : at.destination_end]
        sport, dport = key[at.sport : at.sport + 4], key[at.dport : at.dport + 4]
        parts = [
            value[: at.source],
            destination,
            value[at.source_end : at.destination],
            source,
            value[at.destination_end : at.sport],
            dport,
            value[at.sport + 4 : at.dport],
            sport,
            *tail,
        ]
        reply_source, reply_destination = (
            value[at.source : at.source_end],
            value[at.destination : at.destination_end],
        )
        reply_sport, reply_dport = value[at.sport : at.sport + 4], value[at.dport : at.dport + 4]
        for header, differs, address, port in (
            (at.nat_src, reply_destination != source or reply_dport != sport, reply_destination, reply_dport),
            (at.nat_dst, reply_source != destination or reply_sport != dport, reply_source, reply_sport),
        ):
            if differs:
                parts += (header, address, at.nat_max, address, _NAT_PORT_MIN, port, _NAT_PORT_MAX, port)
        body = b"".join(parts)
        head = MESSAGE.pack(BODY + len(key) + len(body), uapi.CT_NEW, CREATE, sequence, 0)
        return (head, at.family, key, body)


@cache
def _headers(length: int, family: bytes) -> list[bytes]:
    """Return the headers of messages of one length, by sequence; plain flows come in a handful of lengths."""
    return [MESSAGE.pack(length, uapi.CT_NEW, CREATE, sequence, 0) + family for sequence in range(BATCH)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """Hold the rewritten attributes that flows in the same state share."""

    status: bytes
    least: bytes  # the least CTA_TIMEOUT that the flow gets
    fixed: bool  # the flow gets `least` and no other
    rest: bytes  # the attributes behind CTA_TIMEOUT
    nat: bool  # translated
    as_held: bool  # apart from the timeout, the held value creates the flow: the kernel ignores CTA_ID in it
    headers: list[bytes]  # by sequence, for `as_held`, of a flow without zone


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offsets:
    """Hold the offsets of attributes in the key and the value of a plain flow with ports; they are the same in both."""

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


_TOLD: Final = 6  # bytes of CTA_TIMEOUT: its header, and the half of the number that tells whether it is doubted
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


def _offsets(family: int) -> tuple[bytes, _Offsets]:
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

    return tuple_head(uapi.CTA_TUPLE_ORIG), _Offsets(
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


_OFFSETS: Final = dict((_offsets(uapi.AF_INET), _offsets(uapi.AF_INET6)))
