import re
from pathlib import Path

import pytest

from ftfw.lab import topology
from vagrant.vm_lab.guest_files import MACHINES, guest_files, hardware_address, interfaces, link

VAGRANT = Path(__file__).parents[2] / "vagrant"


@pytest.mark.parametrize("host", MACHINES)
def test_a_guest_has_its_addresses_and_nobody_elses(host: str) -> None:
    own = {address for addresses in topology.ADDRESSES[host].values() for address in addresses}
    assert set(re.findall(r"address replace (\S+) dev", interfaces(host))) == own


def test_an_end_finds_the_other_side_and_leaves_the_default_route_alone() -> None:
    routes = interfaces(topology.CLIENT)
    assert "ip route replace 198.51.100.0/24 via 192.0.2.1\n" in routes
    assert "ip route replace 2001:db8:2::/64 via 2001:db8:1::1\n" in routes
    assert "default" not in routes
    assert "ip route replace 192.0.2.0/24 via 198.51.100.1\n" in interfaces(topology.SERVER)
    assert "route" not in interfaces(topology.FW1)


def test_only_firewalls_forward_and_load_helpers() -> None:
    for host in MACHINES:
        files = guest_files(host)
        firewall = host in topology.FIREWALLS
        assert ("net.ipv4.ip_forward = 1" in files["/etc/sysctl.d/lab.conf"]) is firewall
        assert ("nf_nat_ftp" in files["/etc/modules-load.d/lab.conf"].split()) is firewall


def test_each_card_has_an_address_and_a_name_of_its_own() -> None:
    named = {
        card: segment
        for segment in topology.SEGMENTS
        for line in link(segment).splitlines()
        if line.startswith("MACAddress=")
        for card in line.partition("=")[2].split()
    }
    assert len(named) == len(MACHINES) * len(topology.SEGMENTS)
    assert all(named[hardware_address(host, segment)] == segment for host in MACHINES for segment in topology.SEGMENTS)


def test_the_vagrantfile_has_the_same_machines_in_the_same_order() -> None:
    text = (VAGRANT / "Vagrantfile").read_text()
    machines = re.search(r"^MACHINES = \{(.*)\}\.freeze$", text, re.MULTILINE)
    segments = re.search(r"^SEGMENTS = %w\[(.*)\]\.freeze$", text, re.MULTILINE)
    assert machines
    assert segments
    assert tuple(re.findall(r'"(\w+)" =>', machines[1])) == MACHINES
    assert tuple(segments[1].split()) == topology.SEGMENTS


def test_what_is_provisioned_has_the_labs_virtual_addresses() -> None:
    text = (VAGRANT / "provision").read_text() + (VAGRANT.parent / "conf/keepalived/keepalived.conf").read_text()
    for addresses in topology.VIRTUAL.values():
        for address in addresses:
            assert address in text
