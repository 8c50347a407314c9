from pathlib import Path
from typing import Any

import pytest

from ftfw.cli.check import peer_checks
from ftfw.cli.check.finding import Level
from ftfw.config.schema import Config
from tests.unit.checked_host import MULTICAST, FakeHost, config_of, findings, the, told


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    return FakeHost().install(monkeypatch, tmp_path)


def test_who_is_heard(tmp_path: Path) -> None:
    config = config_of(tmp_path, MULTICAST)
    assert the(findings(peer_checks.check_peers, why_no_status="no such socket")).level is Level.OK
    assert the(findings(peer_checks.check_peers, status={"peers": []})).level is Level.WARNING
    heard = [
        {"name": "fw2", "role": "active", "last_seen_s": 0.2},
        {"name": "fw3", "role": "backup", "last_seen_s": 9.7},
        {"name": "fw4", "role": "backup", "last_seen_s": None},
    ]
    found = findings(peer_checks.check_peers, config=config, status={"peers": heard})
    assert told(found) == [
        ("ok", "peer fw2: active, last heard 0.2 s ago"),
        ("problem", "peer fw3: last heard 10 s ago"),
        ("problem", "peer fw4: last heard never"),
    ]
    assert "port 3780 is accepted" in found[1].remedy


OWN = {
    "version": "1",
    "kernel": "6.1.0",
    "mode": "warm",
    "entries_max": 1000,
    "buckets": 500,
    "frame_bytes": 1472,
    "helpers": ["ftp", "sip"],
    "clock_ms": 1_000_000,
}


def compared(config: Config | None = None, **told_otherwise: Any) -> list[tuple[str, str]]:
    facts = {**OWN, "age_s": 3.0, "clock_ms": 997_000, **told_otherwise}
    status = {"facts": OWN, "peers": [{"name": "fw2", "facts": facts}]}
    return told(findings(peer_checks.check_peer_hosts, config=config, status=status))


def test_a_peer_whose_host_is_alike() -> None:
    assert compared() == [("ok", "peer fw2: its host is like this one; kernel 6.1.0")]
    assert compared(helpers=["ftp", "sip", "irc"], mode="hot", kernel="6.1.1")[0][0] == "ok"
    assert (
        findings(peer_checks.check_peer_hosts, status={"facts": OWN, "peers": [{"name": "fw2", "facts": None}]}) == []
    )
    assert findings(peer_checks.check_peer_hosts, status={"peers": [{"name": "fw2", "facts": OWN}]}) == []
    assert findings(peer_checks.check_peer_hosts) == []


@pytest.mark.parametrize(
    ("otherwise", "found"),
    [
        ({"entries_max": 10}, "net.netfilter.nf_conntrack_max is 10 there and 1000 here"),
        ({"buckets": 10}, "net.netfilter.nf_conntrack_buckets is 10 there and 500 here"),
        ({"frame_bytes": 8972}, "the longest frame is 8972 there and 1472 here"),
        ({"version": "2"}, "ftfw is 2 there and 1 here"),
        ({"helpers": ["ftp"]}, "its kernel has no sip: flows with such a helper are taken over there without it"),
        ({"clock_ms": 1_007_000}, "its clock is 10 s ahead of this one: "),
        ({"clock_ms": 900_000}, "its clock is 97 s behind this one: "),
    ],
)
def test_a_peer_whose_host_differs(otherwise: dict[str, Any], found: str) -> None:
    (only,) = compared(**otherwise)
    assert only[0] == "warning"
    assert only[1].startswith(f"peer fw2: {found}")


def test_what_a_peer_does_not_tell_is_not_compared() -> None:
    assert [level for level, _ in compared(helpers="all", clock_ms="now")] == ["ok"]


def test_helpers_that_the_configuration_names_and_the_peer_lacks(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'replicate.expectations = ["irc", "ftp"]\n')
    assert compared(config)[0][0] == "problem"
    assert "has no irc: " in compared(config)[0][1]
    assert compared(config, helpers=["irc", "ftp"])[0][0] == "ok"
    assert compared(config_of(tmp_path, "replicate.expectations = false\n"), helpers=[])[0][0] == "ok"


@pytest.mark.parametrize(
    ("peer", "blocked"),
    [
        ({"heard_for_s": 60.0, "facts": None}, True),
        ({"heard_for_s": 60.0, "facts": {"age_s": 40.0}}, True),
        ({"heard_for_s": 60.0, "facts": {"age_s": 4.0}}, False),
        ({"heard_for_s": 6.0, "facts": None}, False),
        ({}, False),
    ],
)
def test_a_path_that_takes_short_frames_only(peer: dict[str, Any], blocked: bool) -> None:
    status = {"peers": [{"name": "fw2", "role": "active", "last_seen_s": 0.1, **peer}]}
    found = findings(peer_checks.check_peers, status=status)
    assert len(found) == 1 + blocked
    if blocked:
        assert "the path has a smaller MTU" in found[1].found
        assert "ping -M do" in found[1].remedy
