import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.kernel import attributes
from ftfw.kernel.attributes import MalformedError
from tests.unit.conntrack import Conn as Connection
from tests.unit.conntrack import attribute, conn, connections, walk

kinds = st.integers(0, 0x3FFF)


def in_a_row(payloads: list[bytes]) -> bytes:
    return b"".join(attribute(kind, payload) for kind, payload in enumerate(payloads))


@given(kinds, st.binary(max_size=40))
def test_what_is_packed_is_split_and_padded_to_four_bytes(kind: int, data: bytes) -> None:
    packed = attributes.pack(kind, data)
    assert len(packed) % 4 == 0
    assert attributes.split(packed) == {kind: packed}
    assert attributes.payload(packed) == data


@given(st.lists(st.tuples(kinds, st.binary(max_size=12)), max_size=6))
def test_nested_attributes_come_out_as_they_went_in(inner: list[tuple[int, bytes]]) -> None:
    nest = attributes.nest(3, (attributes.pack(kind, data) for kind, data in inner))
    found = {kind: attributes.payload(each) for kind, each in attributes.nested(nest).items()}
    assert found == dict(inner)
    assert list(attributes.split(nest)) == [3]


def test_of_a_type_that_occurs_twice_the_last_counts() -> None:
    twice = attributes.u8(5, 1) + attributes.u8(6, 2) + attributes.u8(5, 3)
    assert attributes.number(attributes.split(twice)[5]) == 3


@given(connections())
def test_split_finds_what_a_plain_walk_finds(each: Connection) -> None:
    message = each.full()
    found = {kind: attributes.payload(data) for kind, data in attributes.split(message, 20).items()}
    assert found == walk(message[20:])


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x08",
        b"\x08\0\x01",
        b"\0\0\x01\0",  # a length of 0
        b"\x03\0\x01\0",
        b"\x09\0\x01\0abcd",  # one byte beyond the end
        b"\x08\0\x01\0abcd\x05",
    ],
)
def test_damaged_attributes_are_malformed(damaged: bytes) -> None:
    with pytest.raises(MalformedError):
        attributes.split(damaged)


def test_the_last_attribute_may_lack_its_padding_and_gets_it() -> None:
    assert attributes.split(b"\x05\0\x01\0a") == {1: b"\x05\0\x01\0a\0\0\0"}


@given(st.binary(max_size=64) | st.lists(st.binary(max_size=9), max_size=5).map(in_a_row))
def test_any_bytes_are_attributes_as_a_plain_walk_finds_them_or_malformed(data: bytes) -> None:
    expected, found = None, None
    with suppress(AssertionError, struct.error):
        expected = walk(data)
    with suppress(MalformedError):
        found = {kind: attributes.payload(each) for kind, each in attributes.split(data).items()}
    assert found == expected


@pytest.mark.parametrize(("make", "width"), [(attributes.u8, 1), (attributes.u16, 2), (attributes.u32, 4)])
def test_numbers_are_in_network_byte_order(make: object, width: int) -> None:
    assert callable(make)
    packed = make(9, 1)
    assert attributes.payload(packed) == bytes(width - 1) + b"\x01"
    assert attributes.number(packed) == 1


def test_text_ends_at_its_nul_and_shows_what_is_no_ascii_escaped() -> None:
    assert attributes.text(attributes.pack(1, b"ftp\0")) == "ftp"
    assert attributes.text(attributes.pack(1, b"f\xff\0")) == "f\\xff"


def test_a_message_says_its_length_and_carries_its_sequence() -> None:
    body = conn().new()[20:]
    made = attributes.message(0x100, 0x600, 2, body, sequence=7)
    assert attributes.MESSAGE.unpack_from(made) == (len(made), 0x100, 0x600, 7, 0)
    assert made[16:20] == b"\x02\0\0\0"
    assert made[20:] == body
