import pytest

from bench.errors import BenchError
from bench.lab import parse_interface_bytes

DEVICES = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0
  sync:    1000      10    0    0    0     0          0         0     2345      20    0    0    0     0
"""


def test_interface_bytes_are_those_of_both_directions() -> None:
    assert parse_interface_bytes(DEVICES.splitlines(), "sync") == 3345
    with pytest.raises(BenchError, match="no interface wan"):
        parse_interface_bytes(DEVICES.splitlines(), "wan")
