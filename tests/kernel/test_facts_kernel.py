"""What two real daemons know of each other's hosts, and what `ftfw check` makes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftfw.replication.limits import FACTS_S
from tests.kernel.pair import MULTICAST, Node, pair, until

pytestmark = pytest.mark.kernel

Pair = tuple[Node, Node]
DROP = "table inet path {{ chain c {{ type filter hook input priority raw; udp dport 3780 {} drop; }}; }}"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as both:
        yield both


def start(nodes: Pair) -> None:
    nodes[0].start("active")
    nodes[1].start("backup")


def peer(node: Node) -> dict[str, Any]:
    return next(iter(node.status()["peers"]), {})


def findings(node: Node) -> dict[str, list[dict[str, str]]]:
    """What `ftfw check` finds, by subject."""
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(node.ftfw("check", "--json", check=False).stdout):
        found.setdefault(finding["subject"], []).append(finding)
    return found


def test_each_node_knows_what_the_other_one_s_host_is_like(nodes: Pair) -> None:
    active, backup = nodes
    start(nodes)
    for node, other in ((active, backup), (backup, active)):
        until(lambda node=node: peer(node).get("facts"), "facts")  # type: ignore[misc]
        told, own = peer(node)["facts"], other.status()["facts"]
        assert told.pop("age_s") < 2 * FACTS_S
        assert abs(told.pop("clock_ms") - own.pop("clock_ms")) < 20_000
        assert told == own
        assert (told["mode"], told["frame_bytes"]) == ("warm", 1472)
    assert findings(backup)["peer fw1"][-1]["found"].startswith("its host is like this one; kernel ")


def test_hosts_that_differ_are_told(tmp_path: Path) -> None:
    with pair(tmp_path, links=lambda number: MULTICAST + ("mtu = 1400\n" if number == 2 else "")) as nodes:
        start(nodes)
        until(lambda: peer(nodes[1]).get("facts"), "facts")
        found = findings(nodes[1])["peer fw1"]
    assert [each["found"] for each in found if each["level"] == "warning"] == [
        "the longest frame is 1472 there and 1372 here"
    ]


def test_a_path_that_takes_short_frames_only_shows(nodes: Pair) -> None:
    nodes[1].nft(DROP.format("meta length > 1000"))
    start(nodes)
    until(lambda: peer(nodes[1]).get("heard_for_s", 0) > FACTS_S + 2, "heartbeats come, and facts were due")
    assert peer(nodes[1])["facts"] is None
    assert peer(nodes[0])["facts"] is not None  # the way back takes them


def test_a_link_on_which_nothing_comes_is_told(nodes: Pair) -> None:
    nodes[1].nft(DROP.format(""))
    start(nodes)
    until(lambda: nodes[1].status()["links"][0]["sent"] >= 50, "five seconds of heartbeats")
    (found,) = [each for each in findings(nodes[1])["link[0]"] if each["level"] != "ok"]
    assert found["found"].endswith("frames sent, none received")
    assert "accept port 3780" in found["remedy"]
