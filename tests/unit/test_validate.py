from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftfw.kernel import flow_entry, validate
from ftfw.kernel.attributes import MalformedError, nested
from ftfw.kernel.validate import Checker
from tests.unit.conntrack import TCP, UDP, Expect, attribute, be16, conn, expectations, flow_messages, nest, netlink

any_message = flow_messages() | st.builds(Expect.new, expectations()) | st.builds(Expect.destroy, expectations())


def is_whole(checker: Checker, message: bytes) -> bool | None:
    """Return what the checker says; None for a message that does not get that far."""
    try:
        parsed = flow_entry.parse(message)
    except MalformedError:
        return None
    try:
        checker.check(message, parsed)
    except MalformedError:
        return False
    return True


@given(st.lists(any_message, max_size=10))
def test_what_the_kernel_writes_is_whole(messages: list[bytes]) -> None:
    checker = Checker()
    for message in messages + messages:
        assert is_whole(checker, message) is True


@settings(max_examples=40)
@given(any_message, st.integers(0, 1 << 32))
def test_having_seen_a_whole_message_makes_no_difference_to_a_damaged_one(message: bytes, seed: int) -> None:
    random = Random(seed)
    experienced = Checker()
    assert is_whole(experienced, message)
    for _ in range(40):
        damaged = bytearray(message)
        for _ in range(random.randrange(1, 4)):
            damaged[random.randrange(20, len(damaged))] ^= 1 << random.randrange(8)
        assert is_whole(experienced, bytes(damaged)) == is_whole(Checker(), bytes(damaged))


def test_a_type_that_occurs_twice_is_checked_and_teaches_nothing() -> None:
    checker = Checker()
    twice = netlink(0x100, 0x600, 2, attribute(3, b"odd") + conn().new()[20:])
    assert is_whole(checker, twice)  # the last one counts, and it is whole
    last = netlink(0x100, 0x600, 2, conn().new()[20:] + attribute(3, b"odd"))
    assert is_whole(checker, last) is False
    assert is_whole(Checker(), last) is False


@pytest.mark.parametrize(
    "extra",
    [
        attribute(3, b"abc"),
        attribute(7, b"abcde"),
        attribute(8, b""),
        attribute(18, b"\x01"),
        nest(4, nest(1, attribute(1, b""))),
        nest(4, nest(1, attribute(5, b"\x01"))),
        nest(4, nest(3, attribute(2, b"\x01"))),
        nest(4, nest(1, b"\x03\0\0\0")),
        attribute(5, b"ftp\0"),
        nest(14, nest(1)),
        nest(14),
        nest(15, attribute(1, bytes(4))),
        nest(24, attribute(1, bytes(2))),
        nest(2, nest(1, attribute(1, bytes(4)), attribute(4, bytes(16))), nest(2, attribute(1, b"\x06"))),
        nest(2, nest(1, attribute(1, bytes(4)), attribute(2, bytes(4))), nest(2)),
        nest(2, nest(1, attribute(1, bytes(4)), attribute(2, bytes(4)))),
    ],
)
def test_damage(extra: bytes) -> None:
    assert is_whole(Checker(), netlink(0x100, 0x600, 2, conn().new()[20:] + extra)) is False


def test_skeletons_of_messages_longer_than_any_kernels_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A skeleton that is remembered is not walked again."""
    walks: list[bytes] = []

    def counted(attribute_: bytes) -> dict[int, bytes]:
        walks.append(attribute_)
        return nested(attribute_)

    monkeypatch.setattr(validate, "nested", counted)
    checker = Checker()
    long = netlink(0x100, 0x600, 2, conn().new()[20:] + attribute(99, bytes(3000)))
    for message, again in ((conn().new(), False), (long, True)):
        assert is_whole(checker, message)
        assert walks
        walks.clear()
        assert is_whole(checker, message)
        assert bool(walks) is again
        walks.clear()
    assert is_whole(checker, netlink(0x100, 0x600, 2, long[20:] + nest(14))) is False


def test_attributes_of_unknown_type_pass_at_any_depth() -> None:
    strange = attribute(99, b"odd") + nest(4, nest(1, attribute(77, b"odd")), attribute(9, b"x"))
    assert is_whole(Checker(), netlink(0x100, 0x600, 2, conn().new()[20:] + strange))


ADDRESSES = nest(1, attribute(1, bytes(4)), attribute(2, bytes(4)))
PORTS = nest(2, attribute(1, b"\x06"), be16(2, 7), be16(3, 9))


@pytest.mark.parametrize(
    "parts",
    [
        (PORTS, ADDRESSES),
        (ADDRESSES, PORTS, PORTS),
        (nest(1, attribute(2, bytes(4)), attribute(1, bytes(4))), PORTS),
        (ADDRESSES, nest(2, be16(2, 7), attribute(1, b"\x06"), be16(3, 9))),
        (ADDRESSES, nest(2, attribute(1, b"\x06"), attribute(1, b"\x11"), be16(3, 9))),
        (ADDRESSES, PORTS, attribute(12, bytes(4))),
        (ADDRESSES, nest(2, attribute(1, b"\x06"), be16(2, 7), be16(3, 9), be16(10, 1))),
    ],
)
def test_there_is_one_way_to_write_a_tuple(parts: tuple[bytes, ...]) -> None:
    """Else one flow would be held under two keys, or another one be read from known places than from the attributes."""
    for tuples in (nest(1, *parts) + conn().reply.pack(2), conn().key + nest(2, *parts)):
        assert is_whole(Checker(), netlink(0x100, 0x600, 2, tuples)) is False
    assert is_whole(Checker(), netlink(0x100, 0x600, 2, conn().key + nest(2, ADDRESSES, PORTS)))


@pytest.mark.parametrize("kept", [conn().key, conn().reply.pack(2), b""])
def test_every_message_about_a_flow_needs_both_tuples(kept: bytes) -> None:
    for kind, flags in ((0x100, 0x600), (0x100, 0), (0x100, 2), (0x102, 0)):
        assert is_whole(Checker(), netlink(kind, flags, 2, kept)) is False


def test_an_expectation_needs_its_three_tuples() -> None:
    parts = [UDP.pack(2), UDP.pack(3), TCP.pack(1)]
    assert is_whole(Checker(), netlink(0x200, 0, 2, b"".join(parts)))
    for lacking in range(3):
        rest = b"".join(part for number, part in enumerate(parts) if number != lacking)
        assert is_whole(Checker(), netlink(0x200, 0, 2, rest)) is False
