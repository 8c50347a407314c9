import errno
from pathlib import Path
from typing import Any

import pytest

from ftfw.cli.check import (
    host_checks,
)
from ftfw.cli.check.finding import Level
from tests.unit.checked_host import (
    INPUT,
    FakeHost,
    chain,
    config_of,
    findings,
    rule,
    ruleset,
    the,
    told,
)


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    return FakeHost().install(monkeypatch, tmp_path)


def test_conntrack(fake_host: FakeHost) -> None:
    assert the(findings(host_checks.check_conntrack)).level is Level.OK
    fake_host.errno = errno.EPERM
    found = the(findings(host_checks.check_conntrack))
    assert (found.level, found.found) == (Level.PROBLEM, "CAP_NET_ADMIN is missing")
    fake_host.errno = errno.EINVAL
    found = the(findings(host_checks.check_conntrack))
    assert found.found == "connection tracking does not answer over netlink (Invalid argument)"
    assert found.remedy.startswith("`modprobe -a nf_conntrack nf_conntrack_netlink`")
    fake_host.errno = 0
    fake_host.sysctls = {}
    assert the(findings(host_checks.check_conntrack)).level is Level.PROBLEM


@pytest.mark.parametrize(("mode", "level"), [(0, "warning"), (1, "ok"), (2, "warning"), (None, "problem")])
def test_events(fake_host: FakeHost, mode: int | None, level: str) -> None:
    fake_host.sysctls.pop("nf_conntrack_events")
    if mode is not None:
        fake_host.sysctls["nf_conntrack_events"] = mode
    found = the(findings(host_checks.check_events))
    assert found.level == level
    assert found.subject == "net.netfilter.nf_conntrack_events"


@pytest.mark.parametrize(
    ("count", "status", "level"),
    [
        (10, None, Level.OK),
        (750, None, Level.WARNING),
        (950, None, Level.PROBLEM),
        (10, {"role": "backup", "flows": 950}, Level.PROBLEM),
        (10, {"role": "active", "flows": 950}, Level.OK),
    ],
)
def test_the_table_has_room(fake_host: FakeHost, count: int, status: dict[str, Any] | None, level: Level) -> None:
    fake_host.sysctls["nf_conntrack_count"] = count
    assert the(findings(host_checks.check_table, status=status)).level is level


def test_too_few_buckets(fake_host: FakeHost) -> None:
    fake_host.sysctls["nf_conntrack_buckets"] = 100
    _, found = findings(host_checks.check_table)
    assert (found.level, found.subject) == (Level.WARNING, "net.netfilter.nf_conntrack_buckets")
    assert "nf_conntrack_buckets=500`" in found.remedy


def test_tcp_switches(fake_host: FakeHost) -> None:
    assert {finding.level for finding in findings(host_checks.check_tcp)} == {Level.OK}
    fake_host.sysctls |= {"nf_conntrack_tcp_loose": 1, "nf_conntrack_tcp_be_liberal": 1}
    loose, liberal = findings(host_checks.check_tcp)
    assert (loose.level, liberal.level) == (Level.WARNING, Level.WARNING)
    assert "nf_conntrack_tcp_loose=0`" in loose.remedy


def test_helpers(fake_host: FakeHost, tmp_path: Path) -> None:
    assert the(findings(host_checks.check_helpers)).level is Level.OK
    fake_host.helpers = {"ftp"}
    there, missing = findings(host_checks.check_helpers)
    assert there.found == "this kernel has ftp"
    assert missing.level is Level.WARNING
    named = config_of(tmp_path, 'replicate.expectations = ["ftp", "sip"]')
    there, missing = findings(host_checks.check_helpers, config=named)
    assert (missing.level, missing.found.split(":")[0]) == (Level.PROBLEM, "this kernel has no sip")
    none = config_of(tmp_path, "replicate.expectations = false")
    assert findings(host_checks.check_helpers, config=none) == []


def test_helpers_cannot_be_asked_for(fake_host: FakeHost) -> None:
    fake_host.nft = False
    assert the(findings(host_checks.check_helpers)).found == "not checked: nft is not installed"
    fake_host.nft = True
    fake_host.errno = errno.EPERM
    assert findings(host_checks.check_helpers) == []


def test_nat_halves_of_helpers(fake_host: FakeHost) -> None:
    translating = ruleset(chain("n", type="nat", hook="postrouting", prio=100))
    fake_host.modules = frozenset({"nf_conntrack", "nf_conntrack_ftp", "nf_conntrack_sip", "nf_nat_sip"})
    found = the(findings(host_checks.check_nat_helpers, ruleset=translating))
    assert found.level is Level.WARNING
    assert found.remedy.startswith("`modprobe -a nf_nat_ftp`")
    assert findings(host_checks.check_nat_helpers, ruleset=ruleset(INPUT)) == []
    fake_host.modules = frozenset()
    assert findings(host_checks.check_nat_helpers, ruleset=translating) == []


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((6, 1, 0), Level.OK),
        ((5, 17, 0), Level.OK),
        ((5, 10, 209), Level.OK),
        ((5, 10, 0), Level.WARNING),
        ((5, 15, 3), Level.WARNING),
        ((4, 19, 0), Level.WARNING),
    ],
)
def test_kernels_that_lose_helpers(fake_host: FakeHost, version: tuple[int, int, int], level: Level) -> None:
    fake_host.version = version
    assert the(findings(host_checks.check_kernel_version)).level is level
    fake_host.sysctls["nf_conntrack_helper"] = 1
    assert the(findings(host_checks.check_kernel_version)).level is Level.OK


def test_gre_needs_counters(fake_host: FakeHost, tmp_path: Path) -> None:
    l4proto = {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "gre"]}}
    with_gre = ruleset(INPUT, rule("input", {"match": l4proto}))
    assert findings(host_checks.check_gre, ruleset=ruleset(INPUT)) == []
    assert the(findings(host_checks.check_gre, ruleset=with_gre)).level is Level.WARNING
    assert the(findings(host_checks.check_gre, config=config_of(tmp_path, "replicate.protocols = ['gre']"))).remedy
    pptp = ruleset({"ct helper": {"name": "p", "type": "pptp"}})
    assert the(findings(host_checks.check_gre, ruleset=pptp)).level is Level.WARNING
    fake_host.sysctls["nf_conntrack_acct"] = 1
    assert the(findings(host_checks.check_gre, ruleset=with_gre)).level is Level.OK


def test_a_host_that_forwards_nothing(fake_host: FakeHost) -> None:
    assert findings(host_checks.check_forwarding) == []
    fake_host.forwards = False
    assert the(findings(host_checks.check_forwarding)).level is Level.WARNING


def test_a_clock_that_nobody_keeps(fake_host: FakeHost) -> None:
    assert told(findings(host_checks.check_clock)) == [("ok", "clock: synchronised")]
    fake_host.synchronised = False
    assert "chrony" in the(findings(host_checks.check_clock)).remedy
