from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from ftfw.cli.brace_syntax import Statement
from ftfw.cli.migration import conntrackd_values as values
from ftfw.cli.migration.conntrackd_syntax import MigrationError
from ftfw.config.value_types import host_address


def statement(*words: str) -> Statement:
    return Statement(words, 7)


@pytest.mark.parametrize(
    ("convert", "words", "expected"),
    [
        (values.boolean, ("X", "Yes"), True),
        (values.boolean, ("X", "off"), False),
        (values.integer, ("X", "0"), 0),
        (values.integer, ("X", "9" * 20), int("9" * 20)),
        (values.port, ("X", "65535"), 65535),
        (values.interface, ("X", "eth0.100"), "eth0.100"),
        (values.network, ("X", "192.0.2.99/24"), ip_network("192.0.2.0/24")),
        (values.network, ("X", "2001:db8::1"), ip_network("2001:db8::1/128")),
    ],
)
def test_a_value_is_converted(convert: Callable[[Statement], object], words: tuple[str, ...], expected: object) -> None:
    assert convert(statement(*words)) == expected


@pytest.mark.parametrize(
    ("convert", "words", "message"),
    [
        (values.boolean, ("X", "perhaps"), 'found "perhaps"; expected yes or no for X'),
        (values.boolean, ("X",), 'found "X"; expected yes or no behind X'),
        (values.boolean, ("X", "yes", "no"), 'found "X yes no"; expected yes or no behind X'),
        (values.integer, ("X", "-1"), 'found "-1"; expected a number for X'),
        (values.integer, ("X", "9" * 21), f'found "{"9" * 21}"; expected a number for X'),
        (values.port, ("X", "0"), "found 0; expected a port, 1 to 65535, for X"),
        (values.interface, ("X", "9eth"), 'found "9eth"; expected the name of an interface, at most 15 characters'),
        (values.interface, ("X", "e" * 16), f'found "{"e" * 16}"; expected the name of an interface, at most 15'),
        (values.network, ("X", "192.0.2.0/33"), 'found "192.0.2.0/33"; expected an address or a network for X'),
        (values.network, ("X", "fe80::1%eth0"), 'found "fe80::1%eth0"; expected an address or a network for X'),
    ],
)
def test_a_wrong_value_is_named(convert: Callable[[Statement], object], words: tuple[str, ...], message: str) -> None:
    with pytest.raises(MigrationError) as caught:
        convert(statement(*words))
    assert str(caught.value).startswith(f"line 7: {message}")


def test_an_address_is_of_the_family_in_the_name_of_the_option() -> None:
    found = values.address(statement("IPv6_address", "2001:db8::1"), host_address, "an address")
    assert found == ip_address("2001:db8::1")
    for word in ("192.0.2.1", "fe80::1%eth0"):
        with pytest.raises(MigrationError, match="expected an address"):
            values.address(statement("IPv6_address", word), host_address, "an address")


@pytest.mark.parametrize(
    ("word", "expected"), [("TCP", "tcp"), ("IPv6-ICMP", "icmpv6"), ("6", "tcp"), ("137", 137), ("ipencap", "ipip")]
)
def test_a_protocol_has_the_name_that_ftfw_gives_it(word: str, expected: str | int) -> None:
    assert values.protocol(word, 7) == expected


def test_a_protocol_without_a_name_asks_for_its_number() -> None:
    with pytest.raises(MigrationError, match=r'line 7: found "mpls-in-ip"; expected one of .*the protocol\'s number'):
        values.protocol("mpls-in-ip", 7)


@pytest.mark.parametrize(
    ("word", "expected"), [("ESTABLISHED", "ESTABLISHED"), ("CLOSED", "CLOSE"), ("LISTEN", "SYN_SENT2")]
)
def test_a_state_has_the_name_that_the_kernel_gives_it(word: str, expected: str) -> None:
    assert values.tcp_state(word, 7) == expected


def test_a_state_that_is_not_there_is_named() -> None:
    with pytest.raises(MigrationError, match=r'line 7: found "OPEN"; expected one of .*ESTABLISHED'):
        values.tcp_state("OPEN", 7)


@pytest.mark.parametrize(("word", "expected"), [("ftp", "ftp"), ("ras", "RAS"), ("H.245", "H.245"), ("Q.931", "Q.931")])
def test_a_helper_has_the_name_that_the_kernel_gives_it(word: str, expected: str) -> None:
    assert values.helper(word, 7) == expected


def test_a_helper_that_cannot_be_one_is_named() -> None:
    with pytest.raises(MigrationError, match='line 7: found "f/tp"; expected the name of a helper'):
        values.helper("f/tp", 7)
