import re
from pathlib import Path

import pytest

import ftfw.lab
from ftfw.lab import topology
from ftfw.lab.failover_run import select_flows
from ftfw.lab.flows import catalogue
from ftfw.lab.flows.tcp_flows import BLOCK_SIZE, block
from ftfw.lab.flows.tftp_flows import TFTP_BLOCK_SIZE, content
from ftfw.lab.lab_host import LabError


def test_every_flow_has_a_name_of_its_own_that_fits_the_table() -> None:
    flows = catalogue()
    assert len({flow.name for flow in flows}) == len(flows)
    for flow in flows:
        assert re.fullmatch(r"[a-z0-9-]{1,26}", flow.name)
        assert len(flow.title) <= 58
        assert flow.near in {topology.CLIENT, topology.SERVER}


def test_ftp_is_tried_in_every_way_and_phase() -> None:
    names = {flow.name for flow in catalogue()}
    for phase in ("new", "pending", "transfer"):
        for way in ("pasv", "port", "epsv", "eprt"):
            assert {f"ftp-{way}-{phase}-v4", f"ftp-{way}-{phase}-v4-snat"} <= names
        for way in ("epsv", "eprt"):
            assert f"ftp-{way}-{phase}-v6" in names
        for way in ("pasv", "port"):
            assert {f"ftp-{way}-{phase}-v4-dnat", f"ftp-{way}-{phase}-v4-zone"} <= names


def test_flows_are_selected_by_a_pattern() -> None:
    assert [row.name for row in select_flows("udp-v4*")] == ["udp-v4", "udp-v4-snat", "udp-v4-zone"]
    with pytest.raises(LabError, match="no flow is called 'nonsense'"):
        select_flows("nonsense")


def test_only_documentation_addresses_are_used() -> None:
    folder = Path(ftfw.lab.__file__).parent
    texts = [path.read_text() for pattern in ("**/*.py", "*.nft", "*.conf") for path in folder.glob(pattern)]
    found = {address for text in texts for address in re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)}
    documentation = ("192.0.2.", "198.51.100.", "203.0.113.")
    assert {address for address in found if not address.startswith(documentation)} <= {
        "127.0.0.1",
        "225.0.0.50",
    }


def test_the_file_served_by_tftp_is_the_file_served_by_ftp() -> None:
    blocks_each = BLOCK_SIZE // TFTP_BLOCK_SIZE
    assert b"".join(content(number) for number in range(1, 2 * blocks_each + 1)) == block(0) + block(1)
