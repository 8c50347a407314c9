"""Reads interfaces and addresses that the kernel really has."""

from ipaddress import ip_address

import pytest

from ftfw.system.interfaces import addresses, interface
from tests.kernel.namespaces import namespaces

pytestmark = pytest.mark.kernel


def test_the_addresses_are_this_host_s_own_of_both_families() -> None:
    with namespaces(1) as (only,):
        only.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "other")
        for command in (
            ("ip", "link", "set", "lo", "up"),
            ("ip", "link", "set", "lan", "addrgenmode", "none"),
            ("ip", "link", "set", "lan", "up"),
            ("ip", "address", "add", "192.0.2.1/24", "dev", "lan"),
            ("ip", "address", "add", "192.0.2.2/32", "dev", "lan"),
            ("ip", "address", "add", "198.51.100.1", "peer", "198.51.100.2", "dev", "lan"),
            ("ip", "address", "add", "2001:db8::1/64", "dev", "lan", "nodad"),
        ):
            only.run(*command)
        with only:
            found = addresses()
    own = {"127.0.0.1", "::1", "192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1"}
    assert {str(ip_address(packed)) for packed in found} == own


def test_the_state_of_an_interface_and_its_index_which_another_of_its_name_does_not_have() -> None:
    with namespaces(1) as (only,):
        only.run("ip", "link", "add", "lan", "mtu", "1400", "type", "veth", "peer", "name", "other")
        with only:
            before = interface("lan")
            assert interface("wan") is None
        assert before is not None
        assert (before.up, before.running, before.multicast, before.mtu) == (False, False, True, 1400)
        only.run("ip", "link", "delete", "lan")
        only.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "other")
        for command in (("lan", "up"), ("other", "up"), ("lan", "multicast", "off")):
            only.run("ip", "link", "set", *command)
        with only:
            after = interface("lan")
        assert after is not None
        assert (after.up, after.running, after.multicast, after.mtu) == (True, True, False, 1500)
        assert after.index != before.index
