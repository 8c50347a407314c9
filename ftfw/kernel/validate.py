"""Check that attributes are as the kernel writes them, down to the innermost.  Pure.

What passes can be decoded and rewritten without another check.  A message that does not pass is dropped as a whole
where it comes in: an entry with a damaged attribute would be restored as another one.  Attributes of unknown type pass,
but not in a tuple, by which entries are told apart.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from ftfw.kernel import uapi
from ftfw.kernel.attributes import BODY, HEADER, MalformedError, nested
from ftfw.kernel.flow_entry import Kind, Parsed

ANY: Final = -1  # any size
SKELETONS_MAX: Final = 1024  # that a checker remembers; cleared when full
SKELETON_MAX_BYTES: Final = 2048  # longer messages, which no kernel makes, are walked each time

# An attribute's form is the size of its payload, or the forms of the attributes nested in it.
Form = int | Mapping[int, "Form"]

_TUPLE_IP: Final[Mapping[int, Form]] = {
    uapi.CTA_IP_V4_SRC: 4,
    uapi.CTA_IP_V4_DST: 4,
    uapi.CTA_IP_V6_SRC: 16,
    uapi.CTA_IP_V6_DST: 16,
}
_TUPLE_PROTO: Final[Mapping[int, Form]] = {
    uapi.CTA_PROTO_NUM: 1,
    uapi.CTA_PROTO_SRC_PORT: 2,
    uapi.CTA_PROTO_DST_PORT: 2,
    uapi.CTA_PROTO_ICMP_ID: 2,
    uapi.CTA_PROTO_ICMP_TYPE: 1,
    uapi.CTA_PROTO_ICMP_CODE: 1,
    uapi.CTA_PROTO_ICMPV6_ID: 2,
    uapi.CTA_PROTO_ICMPV6_TYPE: 1,
    uapi.CTA_PROTO_ICMPV6_CODE: 1,
}
_TUPLE: Final[Mapping[int, Form]] = {
    uapi.CTA_TUPLE_IP: _TUPLE_IP,
    uapi.CTA_TUPLE_PROTO: _TUPLE_PROTO,
    uapi.CTA_TUPLE_ZONE: 2,
}
_SEQ_ADJ: Final[Mapping[int, Form]] = {
    uapi.CTA_SEQADJ_CORRECTION_POS: 4,
    uapi.CTA_SEQADJ_OFFSET_BEFORE: 4,
    uapi.CTA_SEQADJ_OFFSET_AFTER: 4,
}
_FLOW: Final[Mapping[int, Form]] = {
    uapi.CTA_TUPLE_ORIG: _TUPLE,
    uapi.CTA_TUPLE_REPLY: _TUPLE,
    uapi.CTA_TUPLE_MASTER: _TUPLE,
    uapi.CTA_ZONE: 2,
    uapi.CTA_ID: 4,
    uapi.CTA_STATUS: 4,
    uapi.CTA_TIMEOUT: 4,
    uapi.CTA_MARK: 4,
    uapi.CTA_PROTOINFO: {
        uapi.CTA_PROTOINFO_TCP: {
            uapi.CTA_PROTOINFO_TCP_STATE: 1,
            uapi.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL: 1,
            uapi.CTA_PROTOINFO_TCP_WSCALE_REPLY: 1,
            uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: 2,
            uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY: 2,
        },
        uapi.CTA_PROTOINFO_SCTP: {
            uapi.CTA_PROTOINFO_SCTP_STATE: 1,
            uapi.CTA_PROTOINFO_SCTP_VTAG_ORIGINAL: 4,
            uapi.CTA_PROTOINFO_SCTP_VTAG_REPLY: 4,
        },
    },
    uapi.CTA_HELP: {uapi.CTA_HELP_NAME: ANY},
    uapi.CTA_SEQ_ADJ_ORIG: _SEQ_ADJ,
    uapi.CTA_SEQ_ADJ_REPLY: _SEQ_ADJ,
    uapi.CTA_SYNPROXY: {uapi.CTA_SYNPROXY_ISN: 4, uapi.CTA_SYNPROXY_ITS: 4, uapi.CTA_SYNPROXY_TSOFF: 4},
}
_EXPECTATION: Final[Mapping[int, Form]] = {
    uapi.CTA_EXPECT_MASTER: _TUPLE,
    uapi.CTA_EXPECT_TUPLE: _TUPLE,
    uapi.CTA_EXPECT_MASK: _TUPLE,
    uapi.CTA_EXPECT_TIMEOUT: 4,
    uapi.CTA_EXPECT_FLAGS: 4,
    uapi.CTA_EXPECT_CLASS: 4,
    uapi.CTA_EXPECT_NAT: {uapi.CTA_EXPECT_NAT_DIR: 4, uapi.CTA_EXPECT_NAT_TUPLE: _TUPLE},
}
_FAMILIES: Final = (
    frozenset({uapi.CTA_IP_V4_SRC, uapi.CTA_IP_V4_DST}),
    frozenset({uapi.CTA_IP_V6_SRC, uapi.CTA_IP_V6_DST}),
)


_KEY_OF_EXPECTATION: Final = (uapi.CTA_EXPECT_TUPLE, uapi.CTA_EXPECT_MASK, uapi.CTA_EXPECT_MASTER)
_TUPLES: Final = (uapi.CTA_TUPLE_ORIG, uapi.CTA_TUPLE_REPLY)
# The attributes that a message may have, and those that it must have.
_WHOLE: Final = {
    Kind.NEW: (_FLOW, _TUPLES),
    Kind.UPDATE: (_FLOW, _TUPLES),
    Kind.FULL: (_FLOW, _TUPLES),
    Kind.DESTROY: (_FLOW, _TUPLES),
    Kind.EXPECT_NEW: (_EXPECTATION, _KEY_OF_EXPECTATION),
    Kind.EXPECT_DESTROY: (_EXPECTATION, _KEY_OF_EXPECTATION),
}


class Checker:
    """Checks messages of flows and expectations.

    Most messages have the skeleton of one that was checked before: the same headers at the same offsets.  One test
    of the bytes under a mask shows it, as in `message_shapes`.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], tuple[int, int]] = {}

    def check(self, message: bytes, parsed: Parsed) -> None:
        """Check a message, which was parsed as `parsed`.

        Raises MalformedError if it lacks an attribute that its kind must have, or one of its attributes is damaged.
        """
        forms, required = _WHOLE[parsed.kind]
        body, attributes = message[BODY:], parsed.attributes
        signature = (len(body), parsed.kind.value, *attributes)
        mask, pattern = self._kept.get(signature, (0, 1))
        if int.from_bytes(body, "big") & mask == pattern:
            return
        _require(attributes, required)
        skeleton = _skeleton(attributes, forms)
        if len(skeleton) != len(body):
            return  # a type occurs twice: the last has been checked, but the offsets of headers tell nothing
        if len(body) > SKELETON_MAX_BYTES:
            return
        if len(self._kept) >= SKELETONS_MAX:
            self._kept.clear()
        mask = int.from_bytes(skeleton, "big")
        self._kept[signature] = (mask, int.from_bytes(body, "big") & mask)


def _require(attributes: Mapping[int, bytes], kinds: Iterable[int]) -> None:
    for kind in kinds:
        if kind not in attributes:
            raise MalformedError(f"no attribute {kind}")


def _skeleton(attributes: Mapping[int, bytes], forms: Mapping[int, Form]) -> bytes:
    """Return a mask of the headers of these attributes.  Raises MalformedError if one of them is damaged."""
    return b"".join([_one_skeleton(kind, each, forms.get(kind, ANY)) for kind, each in attributes.items()])


def _one_skeleton(kind: int, attribute: bytes, form: Form) -> bytes:
    if isinstance(form, int):
        size = HEADER.unpack_from(attribute)[0] - 4
        if form not in (ANY, size):
            raise MalformedError(f"attribute {kind} of {size} bytes, not {form}")
        return _HEADER_MASK + bytes(len(attribute) - 4)
    if form is _TUPLE:
        _check_tuple(attribute)
    inside = nested(attribute)
    if form is _SEQ_ADJ:
        _require(inside, _SEQ_ADJ)
    return _HEADER_MASK + _skeleton(inside, form)


def _check_tuple(attribute: bytes) -> None:
    inside = _in_order(attribute, _TUPLE)
    _require(inside, (uapi.CTA_TUPLE_IP, uapi.CTA_TUPLE_PROTO))
    if _in_order(inside[uapi.CTA_TUPLE_IP], _TUPLE_IP).keys() not in _FAMILIES:
        raise MalformedError("a tuple without two addresses of one family")
    _require(_in_order(inside[uapi.CTA_TUPLE_PROTO], _TUPLE_PROTO), (uapi.CTA_PROTO_NUM,))


def _in_order(attribute: bytes, forms: Mapping[int, Form]) -> Mapping[int, bytes]:
    """Return the attributes nested in a part of a tuple.

    Raises MalformedError unless each type stands there once, in ascending order, so that there is one way to write a
    tuple.
    """
    inside = nested(attribute)
    if list(inside) != sorted(inside) or sum(map(len, inside.values())) != len(attribute) - HEADER.size:
        raise MalformedError("a tuple whose attributes are in no kernel's order")
    if not inside.keys() <= forms.keys():
        raise MalformedError("a tuple with an attribute that is none of a tuple's")
    return inside


_HEADER_MASK: Final = b"\xff" * HEADER.size
