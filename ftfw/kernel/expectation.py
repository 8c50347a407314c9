"""Define the form in which expectations are held, and make the messages that put them into a kernel.  Pure.

key    CTA_EXPECT_TUPLE, CTA_EXPECT_MASK and CTA_EXPECT_MASTER
value  the other attributes that can be restored

The zone is in no message of the kernel (ctnetlink_exp_dump_expect); it is the master's.
"""

from typing import Final

from ftfw.kernel import uapi
from ftfw.kernel.attributes import HEADER, MalformedError, message, nested, number, pack, payload, split, text, u32
from ftfw.kernel.create import DOUBTED_S, PINNED_S

KEY: Final = (uapi.CTA_EXPECT_TUPLE, uapi.CTA_EXPECT_MASK, uapi.CTA_EXPECT_MASTER)
VALUE: Final = (
    uapi.CTA_EXPECT_TIMEOUT,
    uapi.CTA_EXPECT_FLAGS,
    uapi.CTA_EXPECT_CLASS,
    uapi.CTA_EXPECT_HELP_NAME,
    uapi.CTA_EXPECT_FN,
    uapi.CTA_EXPECT_NAT,
)
HeldExpectation = tuple[bytes, bytes, bytes]
"""Key and value of an expectation, and the CTA_ZONE attribute of its master (or nothing)."""

CREATE: Final = uapi.NLM_F_REQUEST | uapi.NLM_F_CREATE
FALLBACK_TIMEOUT_S: Final = 300  # instead of a doubted one: the longest timeout of a helper's policy
# Helpers whose expectations must name the helper of the expected flow (kernels before 6.18 use it).
NAMES_CHILD_HELPER: Final = frozenset({"sip", "RAS", "Q.931", "H.245"})


def key_of(attributes: dict[int, bytes]) -> bytes:
    """Return the key of the expectation with these attributes.  Raises MalformedError if one is missing."""
    try:
        return b"".join([attributes[kind] for kind in KEY])
    except KeyError as missing:
        raise MalformedError(f"an expectation without attribute {missing}") from None


def is_key(key: bytes) -> bool:
    """Return whether a key is an expectation's, and not a flow's."""
    return int(HEADER.unpack_from(key)[1]) & uapi.NLA_TYPE_MASK == uapi.CTA_EXPECT_TUPLE


def value_of(attributes: dict[int, bytes]) -> bytes:
    """Return the value made of these attributes."""
    return b"".join([attributes[kind] for kind in VALUE if kind in attributes])


def master_of(key: bytes) -> bytes:
    """Return the master's original tuple as CTA_TUPLE_ORIG, which has the number of CTA_EXPECT_MASTER."""
    return split(key)[uapi.CTA_EXPECT_MASTER]


def helper_name(value: bytes) -> str | None:
    """Return the name of the helper that made the expectation; None if the value does not tell it."""
    name = split(value).get(uapi.CTA_EXPECT_HELP_NAME)
    return None if name is None else text(name)


def timeout_of(attributes: dict[int, bytes]) -> int:
    """Return the seconds until the expectation runs out; 0 if the attributes do not tell them."""
    return number(attributes[uapi.CTA_EXPECT_TIMEOUT]) if uapi.CTA_EXPECT_TIMEOUT in attributes else 0


def create(key: bytes, value: bytes, zone: bytes, *, sequence: int, pinned: bool) -> tuple[bytes, bytes]:
    """Return two messages: the first creates the expectation, the second sets its timeout, which creation ignores.

    `zone` is the master's CTA_ZONE attribute, or nothing.  `pinned`: the timeout does not run out.  The messages have
    the numbers `sequence` and `sequence + 1`.
    """
    body = _body(key, value, zone, pinned=pinned)
    return (
        message(uapi.EXP_NEW, CREATE, _family(key), body, sequence),
        message(uapi.EXP_NEW, CREATE, _family(key), body, sequence + 1),
    )


def set_timeout(key: bytes, value: bytes, zone: bytes) -> bytes:
    """Return the message that gives an existing expectation the timeout in its value, and creates none."""
    return message(uapi.EXP_NEW, uapi.NLM_F_REQUEST, _family(key), _body(key, value, zone, pinned=False))


def _body(key: bytes, value: bytes, zone: bytes, *, pinned: bool) -> bytes:
    attributes = split(value)
    if pinned:
        attributes[uapi.CTA_EXPECT_TIMEOUT] = u32(uapi.CTA_EXPECT_TIMEOUT, PINNED_S)
    elif timeout_of(attributes) >= DOUBTED_S:
        attributes[uapi.CTA_EXPECT_TIMEOUT] = u32(uapi.CTA_EXPECT_TIMEOUT, FALLBACK_TIMEOUT_S)
    flags = number(attributes[uapi.CTA_EXPECT_FLAGS]) if uapi.CTA_EXPECT_FLAGS in attributes else 0
    attributes[uapi.CTA_EXPECT_FLAGS] = u32(uapi.CTA_EXPECT_FLAGS, flags & ~uapi.NF_CT_EXPECT_USERSPACE)
    name = attributes.get(uapi.CTA_EXPECT_HELP_NAME)
    if name is not None and text(name) not in NAMES_CHILD_HELPER:
        del attributes[uapi.CTA_EXPECT_HELP_NAME]
    if uapi.CTA_EXPECT_FN not in attributes:
        attributes.pop(uapi.CTA_EXPECT_NAT, None)  # with a translation but without its function, the flow would fail
    return key + b"".join(attributes.values()) + _zone(zone)


def delete(key: bytes, zone: bytes, *, sequence: int) -> bytes:
    """Return the message that removes the expectation."""
    return message(uapi.EXP_DELETE, uapi.NLM_F_REQUEST, _family(key), key + _zone(zone), sequence)


def _zone(zone: bytes) -> bytes:
    return pack(uapi.CTA_EXPECT_ZONE, payload(zone)) if zone else b""


def _family(key: bytes) -> int:
    addresses = nested(nested(split(key)[uapi.CTA_EXPECT_TUPLE])[uapi.CTA_TUPLE_IP])
    return uapi.AF_INET if len(payload(addresses[min(addresses)])) == 4 else uapi.AF_INET6
