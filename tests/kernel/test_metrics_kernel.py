"""A real daemon is scraped, as Prometheus does it."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.pair import Node, pair, until

pytestmark = pytest.mark.kernel

MORE = (
    '[metrics]\nlisten = "127.0.0.1:9166"\n[takeover]\ngate_interfaces = ["lan"]\n[replication]\nscrub_interval_s = 1\n'
)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    with pair(tmp_path, more=MORE) as both:
        yield both


def scrape(node: Node, host: str = "127.0.0.1") -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""

    def ask() -> str:
        with urllib.request.urlopen(f"http://{host}:9166/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(node.inside(ask))
        for sample in family.samples
    }


def test_a_pair_tells_its_state_and_its_takeover(nodes: tuple[Node, Node]) -> None:
    active, backup = nodes
    for number in range(20):
        active.insert(number)
    active.start("active")
    until(lambda: scrape(active).get(("ftfw_flows",)) == 20, "the flows of a node that is alone")
    active.insert(20)
    backup.start("backup")
    until(lambda: scrape(backup).get(("ftfw_synced",)) == 1, "in sync")
    until(lambda: scrape(active).get(("ftfw_flows",)) == 21, "the flows of the last compare")
    assert scrape(active)[("ftfw_conntrack_entries",)] >= 20
    until(lambda: ("ftfw_peer_lag_seconds", "fw2") in scrape(active), "the lag")
    until(lambda: scrape(backup)[("ftfw_gate_shut",)] == 1, "the gate")
    found = scrape(backup)
    assert (found[("ftfw_active",)], found[("ftfw_flows",)]) == (0, 21)
    assert found[("ftfw_commit_seconds_count",)] == 0
    backup.ftfw("promote")
    active.kill()
    until(lambda: scrape(backup)[("ftfw_promotion_held_packets_count",)] == 1, "what the gate held")
    found = scrape(backup)
    assert found[("ftfw_active",)] == found[("ftfw_commit_seconds_count",)] == 1
    assert found[("ftfw_flows",)] == 21
    assert found[("ftfw_promotion_seconds_count",)] == 1
    assert found[("ftfw_last_commit_created_entries",)] == 21
    assert found[("ftfw_promotion_seconds_sum",)] >= found[("ftfw_commit_seconds_sum",)]


def test_a_place_that_is_not_there_keeps_no_daemon_from_its_work(nodes: tuple[Node, Node]) -> None:
    node, _ = nodes
    node.config.write_text(node.config.read_text().replace("127.0.0.1", "198.51.100.1"))
    node.start("active")
    failed = until(lambda: node.status()["metrics"]["failed"], "it was tried in vain")
    assert list(failed) == ["eaddrnotavail"]
    assert node.status()["role"] == "active"
    trouble = "metrics.listen: 198.51.100.1 port 9166: Cannot assign requested address; name an address of this host"
    assert node.status()["metrics"]["trouble"].startswith(trouble)
    assert "metrics.listen: 198.51.100.1 port 9166: Cannot assign" in node.ftfw("check", check=False).stdout
    node.exec("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
    until(lambda: node.status()["metrics"]["trouble"] is None, "the address came, and Prometheus may ask")
    assert scrape(node, "198.51.100.1")[("ftfw_active",)] == 1
    log = node.log.read_text()
    assert (log.count(trouble), log.count("listening for Prometheus")) == (1, 1)
