from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from ftfw.config import value_types as values
from ftfw.config.value_types import Endpoint, Mark, PortRange


def accepts(convert: Callable[[object], object], value: object) -> bool:
    try:
        convert(value)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("convert", "value", "expected"),
    [
        (values.multicast_address, "ff02::50", ip_address("ff02::50")),
        (values.host_address, "192.0.2.1", ip_address("192.0.2.1")),
        (values.network, "192.0.2.0/24", ip_network("192.0.2.0/24")),
        (values.network, "2001:db8::1", ip_network("2001:db8::1/128")),
        (values.protocol, "TCP", 6),
        (values.protocol, "47", 47),
        (values.protocol, 255, 255),
        (values.port_range, 22, PortRange(22, 22)),
        (values.port_range, "22", PortRange(22, 22)),
        (values.port_range, "0-65535", PortRange(0, 65535)),
        (values.mark, "0x10/0xff", Mark(0x10, 0xFF)),
        (values.mark, 5, Mark(5, 0xFFFFFFFF)),
        (values.mark, "0", Mark(0, 0xFFFFFFFF)),
        (values.tcp_state, "established", "ESTABLISHED"),
        (values.expectations, True, True),
        (values.expectations, ["ftp", "Q.931"], ("ftp", "Q.931")),
        (values.endpoint, "127.0.0.1:9166", Endpoint("127.0.0.1", 9166)),
        (values.endpoint, "[::1]:65535", Endpoint("::1", 65535)),
        (values.endpoint, "fw1:1", Endpoint("fw1", 1)),
        (values.socket_path, f"/{'x' * 106}", Path(f"/{'x' * 106}")),
        (values.interface, "eth0.100", "eth0.100"),
    ],
)
def test_a_value_is_converted(convert: Callable[[object], object], value: object, expected: object) -> None:
    assert convert(value) == expected


@pytest.mark.parametrize(
    ("convert", "wrong"),
    [
        (values.multicast_address, ["192.0.2.1", "", 3]),
        (values.host_address, ["225.0.0.50", "0.0.0.0", "::", "192.0.2.1/24", None]),
        (values.network, ["192.0.2.1/24", "192.0.2.0/33", 3]),
        (values.protocol, ["", "no", "256", -1, 256, True, 1.5]),
        (values.port_range, ["5-3", "-5", "1-", "65536", -1, True, []]),
        (values.mark, ["0x100/0xff", "1/", "x", -1, 1 << 32, "1/0x100000000"]),
        (values.tcp_state, ["", "OPEN", 3]),
        (values.expectations, [[], ["f tp"], ["x" * 16], "ftp", 1, None]),
        (values.endpoint, ["9166", ":9166", "::1:9166", "[x]:1", "h:0", "h:65536", 9166]),
        (values.absolute_path, ["x", "", "/a\0b", 3]),
        (values.socket_path, [f"/{'x' * 107}", "x"]),
        (values.interface, ["", "x" * 16, "a b", "a/b", "a:b", ".", "..", 3]),
    ],
)
def test_a_wrong_value_is_refused(convert: Callable[[object], object], wrong: list[object]) -> None:
    assert [value for value in wrong if accepts(convert, value)] == []
