import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.kernel import netlink
from ftfw.kernel.attributes import MalformedError
from tests.unit.conntrack import conn, flow_messages


@given(st.lists(flow_messages(), max_size=6))
def test_a_datagram_falls_into_its_messages(messages: list[bytes]) -> None:
    assert netlink.slices(b"".join(messages)) == messages


def test_messages_begin_at_multiples_of_four() -> None:
    odd = struct.pack("=IHHII", 17, 2, 0, 0, 0) + b"x"
    assert netlink.slices(odd + b"\0\0\0" + conn().new()) == [odd, conn().new()]


@pytest.mark.parametrize("length", [0, 15, 1 << 20])
def test_a_length_that_leaves_its_datagram_is_malformed(length: int) -> None:
    with pytest.raises(MalformedError):
        netlink.slices(struct.pack("=I", length) + conn().new()[4:])


@given(st.binary(max_size=80))
def test_any_bytes_are_messages_or_malformed(datagram: bytes) -> None:
    try:
        found = netlink.slices(datagram)
    except MalformedError:
        return
    assert all(len(message) == struct.unpack_from("=I", message)[0] for message in found)


def test_errors_have_names_for_people() -> None:
    assert netlink.errno_name(errno.EEXIST) == "exists"
    assert netlink.errno_name(errno.EIO) == "eio"
    assert netlink.errno_name(9999) == "9999"
