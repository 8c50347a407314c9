import struct

from bench.generator import tuples
from bench.netlink import attribute, create_message


def test_a_prebuilt_message_says_its_length_and_is_aligned() -> None:
    message = create_message(*tuples(1, seed=4)[0])
    assert struct.unpack("=I", message[:4])[0] == len(message)
    assert len(message) % 4 == 0
    assert attribute(1, b"abc") == struct.pack("=HH", 7, 1) + b"abc\0"
