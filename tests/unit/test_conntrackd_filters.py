import tomllib

import pytest

from ftfw.cli.migration.conntrackd_options import Severity
from ftfw.cli.migration.conntrackd_syntax import MigrationError
from ftfw.cli.migration.translation import translate
from ftfw.config.value_types import PROTOCOLS, TCP_STATES
from tests.unit.conntrackd_files import filtered, replicate_of, told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (filtered("Protocol Accept { }"), "line 8: found Protocol Accept of nothing; expected a list in braces"),
        (filtered("Protocol Some { TCP }"), 'line 8: found "Some"; expected Accept or Ignore for Protocol'),
        (
            filtered("Address Accept { 192.0.2.0/24 }"),
            'line 8: found "192.0.2.0/24"; expected IPv4_address or IPv6_address',
        ),
        (
            filtered("Address Accept { IPv4_address 192.0.2.0/33 }"),
            'line 8: found "192.0.2.0/33"; expected an address or a network for IPv4_address',
        ),
        (filtered("State Accept { ESTABLISHED for UDP }"), 'line 8: found "UDP"; expected "TCP" behind "for"'),
        (
            filtered("Protocol Accept { TCP }\nProtocol Ignore { TCP }"),
            "line 8: found a filter that lets nothing through; expected something to replicate",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(MigrationError) as caught:
        translate(text)
    assert str(caught.value) == message


def test_protocols() -> None:
    assert replicate_of("Protocol Accept {\nTCP\nSCTP\nDCCP\n}")["protocols"] == ["tcp", "sctp", "dccp"]
    assert replicate_of("Protocol Accept { UDP IPv6-ICMP udp gre }")["protocols"] == ["udp", "icmpv6", "gre"]
    assert replicate_of("Protocol Ignore { UDP }")["protocols"] == [name for name in PROTOCOLS if name != "udp"]
    assert replicate_of("Protocol Accept { TCP UDP }\nProtocol Ignore { UDP }")["protocols"] == ["tcp"]
    assert told(translate(filtered("Protocol Ignore { UDP }")))["General.Filter.Protocol"] is Severity.DIFFERS
    assert replicate_of("Protocol Ignore { }") == {"protocols": list(PROTOCOLS), "expectations": False}


def test_states() -> None:
    said = "ESTABLISHED CLOSED TIME_WAIT CLOSE_WAIT for TCP LISTEN for TCP"
    states = ["ESTABLISHED", "CLOSE", "TIME_WAIT", "CLOSE_WAIT", "SYN_SENT2"]
    assert replicate_of(f"State Accept {{ {said} }}")["tcp_states"] == states
    assert replicate_of(f"State Ignore {{ {said} }}")["tcp_states"] == [
        each for each in TCP_STATES if each not in states
    ]
    assert told(translate(filtered(f"State Accept {{ {said} }}")))["General.Filter.State"] is Severity.DIFFERS


def test_addresses() -> None:
    said = "Address Accept { IPv4_address 192.0.2.99/24 IPv6_address 2001:db8::/32 IPv4_address 198.51.100.1 }"
    assert replicate_of(said)["addresses"] == ["192.0.2.0/24", "2001:db8::/32", "198.51.100.1/32"]


def test_only_ignored_networks_that_flows_pass_through_are_lost() -> None:
    """The link's among them: its other hosts may speak through this one."""
    ignored = (
        *("IPv4_address 127.0.0.1", "IPv6_address ::1", "IPv4_address 192.0.2.1", "IPv4_address 203.0.113.1/32"),
        *("IPv4_address 203.0.113.0/24", "IPv4_address 198.51.100.0/24"),
    )
    translation = translate(filtered(f"Address Ignore {{ {' '.join(ignored)} }}"))
    assert "addresses" not in tomllib.loads(translation.toml)["replicate"]
    assert [remark.option for remark in translation.remarks if remark.severity is Severity.LOST] == [
        "General.Filter.Address Ignore 203.0.113.0/24",
        "General.Filter.Address Ignore 198.51.100.0/24",
    ]
    why = {remark.option.rpartition(" ")[2]: remark.why for remark in translation.remarks if "Ignore" in remark.option}
    assert len(why) == 6
    assert why["203.0.113.1"] == "it is an address of this host's link: the links' own flows are never replicated"
    assert why["203.0.113.0/24"].startswith("the links' own flows are never replicated; others of this network are")
