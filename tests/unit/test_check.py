import errno
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ftfw.cli.check import check_runner as check_package
from ftfw.cli.check import host_checks, host_probes, keepalived_checks, link_checks, peer_checks, ruleset_checks
from ftfw.cli.check.check_runner import CHECKS
from ftfw.cli.check.finding import Check, Context, Finding, Level
from ftfw.cli.check.finding_report import print_findings
from ftfw.cli.check.host_probes import daemon_user, runs
from ftfw.cli.check.ruleset import Ruleset, RulesetError, parse, read_ruleset
from ftfw.cli.commands import main
from ftfw.config.schema import Config, load
from ftfw.daemon import requirements
from ftfw.daemon.requirements import RequirementError, ensure_events_mode, require
from ftfw.kernel import helpers
from ftfw.security.key_file import generate
from ftfw.system import sysctl
from ftfw.system.interfaces import Interface

MULTICAST = '[[link]]\ntransport = "multicast"\ninterface = "sync"\ngroup = "225.0.0.50"\n'
HEALTHY_SYSCTLS = {
    "nf_conntrack_events": 1,
    "nf_conntrack_max": 1000,
    "nf_conntrack_count": 10,
    "nf_conntrack_buckets": 1000,
    "nf_conntrack_tcp_loose": 0,
    "nf_conntrack_tcp_be_liberal": 0,
    "nf_conntrack_acct": 0,
}


class FakeHost:
    """Stands in for the kernel; healthy until a test says otherwise."""

    def __init__(self) -> None:
        self.sysctls = dict(HEALTHY_SYSCTLS)
        self.errno = 0
        self.helpers = set(helpers.HELPERS)
        self.interfaces = {"sync": Interface(index=2, up=True, running=True, multicast=True, mtu=1500)}
        self.addresses = {"203.0.113.1"}
        self.version = (6, 1, 0)
        self.modules: frozenset[str] = frozenset()
        self.nft = True
        self.synchronised = self.forwards = True
        self.running: set[str] = set()
        self.daemon_user = "root"

    def sysctl(self, name: str) -> int | None:
        return self.sysctls.get(name)

    def interface(self, name: str) -> Interface | None:
        return self.interfaces.get(name)


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    fake = FakeHost()
    monkeypatch.setattr(sysctl, "SYSCTLS", tmp_path)
    monkeypatch.setattr(sysctl, "read", fake.sysctl)
    monkeypatch.setattr(requirements, "conntrack_errno", lambda: fake.errno)
    monkeypatch.setattr(helpers, "helper_works", lambda name: name in fake.helpers)
    monkeypatch.setattr(link_checks, "interface", fake.interface)
    monkeypatch.setattr(host_probes, "has_address", lambda address: address in fake.addresses)
    monkeypatch.setattr(host_probes, "kernel_version", lambda: fake.version)
    monkeypatch.setattr(host_probes, "loaded_modules", lambda: fake.modules)
    monkeypatch.setattr(host_probes, "has_nft", lambda: fake.nft)
    monkeypatch.setattr(host_probes, "clock_is_synchronised", lambda: fake.synchronised)
    monkeypatch.setattr(host_probes, "forwards", lambda: fake.forwards)
    monkeypatch.setattr(host_probes, "runs", lambda program: program in fake.running)
    monkeypatch.setattr(host_probes, "daemon_user", lambda _socket: fake.daemon_user)
    monkeypatch.setattr(keepalived_checks, "CONFIGURATION", tmp_path / "keepalived.conf")
    return fake


def config_of(tmp_path: Path, text: str) -> Config:
    (tmp_path / "f.toml").write_text(text)
    return load(tmp_path / "f.toml")


def findings(check: Check, **context: Any) -> list[Finding]:
    return list(check(Context(**{"config_path": Path("f.toml"), **context})))


def told(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level.value, f"{finding.subject}: {finding.found}") for finding in found]


def the(found: list[Finding]) -> Finding:
    (one,) = found
    return one


def ruleset(*things: dict[str, Any]) -> Ruleset:
    return parse({"nftables": [{"metainfo": {}}, *things]})


def chain(name: str, **more: Any) -> dict[str, Any]:
    return {"chain": {"family": "inet", "table": "t", "name": name, **more}}


def rule(chain_name: str, *expressions: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "t", "chain": chain_name, "expr": list(expressions)}}


def state(right: Any, op: str = "in") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"ct": {"key": "state"}}, "right": right}}


INPUT = chain("input", type="filter", hook="input", prio=0, policy="accept")
DROP = {"drop": None}
LABEL = {"match": {"op": "in", "left": {"ct": {"key": "label"}}, "right": 3}}


# The configuration and the keys


def test_a_good_configuration(tmp_path: Path) -> None:
    config = config_of(tmp_path, f'node.name = "fw1"\nsecurity.key_files = ["/k"]\n{MULTICAST}')
    assert told(findings(link_checks.check_config, config=config)) == [("ok", "configuration: f.toml: node fw1")]


def test_what_the_daemon_would_miss(tmp_path: Path) -> None:
    found = findings(link_checks.check_config, config=config_of(tmp_path, ""))
    assert told(found) == [
        ("problem", "configuration: f.toml: link: missing"),
        ("problem", "configuration: f.toml: security.key_files: missing"),
    ]


def test_a_wrong_configuration_has_a_finding_per_problem() -> None:
    why = "f.toml: standby.mode: found 3; expected warm\nf.toml: x: unknown key; did you mean y?"
    first, second = findings(link_checks.check_config, why_no_config=why)
    assert (first.level, first.found, first.remedy) == (
        Level.PROBLEM,
        "f.toml: standby.mode: found 3",
        "expected warm",
    )
    assert second.remedy == "did you mean y?"


def test_keys(tmp_path: Path) -> None:
    generate(tmp_path / "good")
    generate(tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    files = ", ".join(f'"{tmp_path / name}"' for name in ("good", "open", "none"))
    good, too_open, missing = findings(
        link_checks.check_keys, config=config_of(tmp_path, f"security.key_files = [{files}]")
    )
    assert good.level is Level.OK
    assert (too_open.level, too_open.remedy) == (Level.PROBLEM, f"`chmod 600 {tmp_path / 'open'}`")
    assert missing.found == f"{tmp_path / 'none'}: no such file"
    assert f"`ftfw keygen {tmp_path / 'none'}`" in missing.remedy


def test_a_key_that_root_can_read_and_the_daemon_cannot(
    fake_host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(tmp_path / "key")
    config = config_of(tmp_path, f'security.key_files = ["{tmp_path}/key"]')
    monkeypatch.setattr(host_probes, "owner", lambda _file: "root")
    assert the(findings(link_checks.check_keys, config=config)).level is Level.OK
    fake_host.daemon_user = "ftfw"
    found = the(findings(link_checks.check_keys, config=config))
    assert told([found]) == [("problem", f"key file: {tmp_path}/key: only root may read it, and ftfw runs as ftfw")]
    assert found.remedy == f"`chown ftfw: {tmp_path}/key`"
    monkeypatch.setattr(host_probes, "owner", lambda _file: "ftfw")
    assert the(findings(link_checks.check_keys, config=config)).level is Level.OK


# The host


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


# The ruleset


def test_an_unreadable_ruleset() -> None:
    assert told(findings(ruleset_checks.check_readable, why_no_ruleset="nft is not installed")) == [
        ("warning", "ruleset: not checked: nft is not installed")
    ]
    for one in (ruleset_checks.check_tracking, ruleset_checks.check_labels, ruleset_checks.check_invalid):
        assert findings(one) == []


@pytest.mark.parametrize(
    ("things", "level"),
    [
        ([], Level.WARNING),
        ([INPUT, rule("input", {"accept": None})], Level.WARNING),
        ([INPUT, rule("input", state("established"), {"accept": None})], Level.OK),
        ([chain("n", type="nat", hook="postrouting", prio=100)], Level.OK),
        ([INPUT, rule("input", {"xt": None})], Level.OK),
    ],
)
def test_tracking(things: list[dict[str, Any]], level: Level) -> None:
    assert the(findings(ruleset_checks.check_tracking, ruleset=ruleset(*things))).level is level


def test_tables_of_iptables_legacy_are_not_taken_for_none(fake_host: FakeHost) -> None:
    bare: dict[str, Any] = {"nftables": []}
    for check in (ruleset_checks.check_tracking, ruleset_checks.check_labels, ruleset_checks.check_invalid):
        assert the(findings(check, ruleset=parse(bare))).level is Level.WARNING
        opaque = the(findings(check, ruleset=parse(bare, frozenset({"filter"}))))
        assert (opaque.level, opaque.found.split(":")[0]) == (Level.OK, "cannot be told")
        assert opaque.remedy
    translating = parse(bare, frozenset({"nat"}))
    assert the(findings(ruleset_checks.check_tracking, ruleset=translating)).found == "asks connection tracking"
    fake_host.modules = frozenset({"nf_conntrack_ftp"})
    assert "nf_nat_ftp" in the(findings(host_checks.check_nat_helpers, ruleset=translating)).found


@pytest.mark.parametrize(
    ("expression", "level"),
    [
        (state("established"), Level.WARNING),
        (LABEL, Level.OK),
        ({"mangle": {"key": {"ct": {"key": "label"}}, "value": 4}}, Level.OK),
        ({"xt": {"type": "match", "name": "connlabel"}}, Level.OK),
        ({"xt": None}, Level.OK),
    ],
)
def test_labels(expression: dict[str, Any], level: Level) -> None:
    found = the(findings(ruleset_checks.check_labels, ruleset=ruleset(INPUT, rule("input", expression))))
    assert found.level is level
    assert ("iptables" in found.found) == (expression == {"xt": None})


def vmap(*pairs: list[Any]) -> dict[str, Any]:
    return {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": list(pairs)}}}


@pytest.mark.parametrize(
    "things",
    [
        [rule("input", state("invalid"), DROP)],
        [rule("input", state(["invalid", "new"]), DROP)],
        [rule("input", state({"set": ["invalid", "untracked"]}, "=="), {"counter": {}}, {"log": None}, DROP)],
        [rule("input", state(["established", "related"], "!="), DROP)],
        [rule("input", vmap(["established", {"accept": None}], ["invalid", DROP]))],
        [
            rule("input", {"jump": {"target": "a"}}),
            rule("a", {"goto": {"target": "b"}}),
            rule("b", state("invalid"), DROP),
        ],
        [
            rule("input", {"jump": {"target": "a"}}),
            rule("a", {"jump": {"target": "input"}}),
            rule("a", state("invalid"), DROP),
        ],
    ],
)
def test_invalid_packets_are_dropped(things: list[dict[str, Any]]) -> None:
    assert ruleset(INPUT, chain("a"), chain("b"), *things).drops_invalid("input")
    assert the(findings(ruleset_checks.check_invalid, ruleset=ruleset(INPUT, *things))).level is Level.OK


@pytest.mark.parametrize(
    "things",
    [
        [],
        [rule("input", state("invalid"), {"accept": None})],
        [rule("input", state("established"), DROP)],
        [rule("input", state("invalid", "!="), DROP)],
        [rule("input", vmap(["invalid", {"accept": None}]))],
        [rule("unreached", state("invalid"), DROP)],
        [chain("forward", type="filter", hook="forward", prio=0), rule("forward", state("invalid"), DROP)],
        [rule("input", {"vmap": {"key": {"ct": {"key": "state"}}, "data": "@named"}})],
    ],
)
def test_invalid_packets_get_through(things: list[dict[str, Any]]) -> None:
    found = the(findings(ruleset_checks.check_invalid, ruleset=ruleset(INPUT, *things)))
    assert (found.level, found.subject) == (Level.WARNING, "invalid packets")


def test_a_policy_of_drop_drops_them_too() -> None:
    assert ruleset(chain("input", type="filter", hook="input", prio=0, policy="drop")).drops_invalid("input")


def test_rules_of_iptables_are_not_judged() -> None:
    found = the(findings(ruleset_checks.check_invalid, ruleset=ruleset(INPUT, rule("input", {"xt": None}, DROP))))
    assert (found.level, found.remedy) == (
        Level.OK,
        "see that INPUT drops `-m conntrack --ctstate INVALID`",
    )


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin" / "nft"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "nft is not installed"),
        ("echo 'Operation not permitted' >&2; exit 1", "nft failed: Operation not permitted"),
        ("echo nonsense", "nft's JSON is not what was expected"),
        ('echo \'{"nftables": [{"chain": {}}]}\'', "nft's JSON is not what was expected"),
        ("echo '[]'", "nft's JSON is not what was expected"),
    ],
)
def test_nft_fails(nft: Path, script: str | None, message: str) -> None:
    if script is not None:
        nft.write_text(f"#!/bin/sh\n{script}\n")
        nft.chmod(0o755)
    with pytest.raises(RulesetError, match=message):
        read_ruleset()


# Links, peers, and the running daemon


@pytest.mark.parametrize(
    ("interface", "message"),
    [
        (None, "no interface sync"),
        (Interface(index=2, up=False, running=False, multicast=True, mtu=1500), "sync is down"),
        (Interface(index=2, up=True, running=False, multicast=True, mtu=1500), "sync has no carrier"),
        (Interface(index=2, up=True, running=True, multicast=False, mtu=1500), "sync does not do multicast"),
        (
            Interface(index=2, up=True, running=True, multicast=True, mtu=1280),
            "link[0].mtu is 1400, but sync takes 1280",
        ),
    ],
)
def test_a_link_that_cannot_work(
    fake_host: FakeHost, tmp_path: Path, interface: Interface | None, message: str
) -> None:
    if interface is None:
        fake_host.interfaces.clear()
    else:
        fake_host.interfaces["sync"] = interface
    config = config_of(tmp_path, f"{MULTICAST}mtu = 1400\n")
    assert told(findings(link_checks.check_links, config=config)) == [("problem", f"link[0]: {message}")]


def test_links_that_work(fake_host: FakeHost, tmp_path: Path) -> None:
    udp = '[[link]]\ntransport = "udp"\nbind = "203.0.113.1"\npeers = ["203.0.113.2"]\n'
    config = config_of(tmp_path, MULTICAST + udp)
    assert told(findings(link_checks.check_links, config=config)) == [
        ("ok", "link[0]: multicast over sync: up"),
        ("ok", "link[1]: udp over any interface: up"),
    ]
    tcp = udp.replace("udp", "tcp") + 'interface = "sync"\nmtu = 16000\n'  # of frames: TCP cuts its packets itself
    assert the(findings(link_checks.check_links, config=config_of(tmp_path, tcp))).level is Level.OK
    fake_host.addresses.clear()
    assert told(findings(link_checks.check_links, config=config))[1] == (
        "problem",
        "link[1]: 203.0.113.1 is no address of this host",
    )


def test_gate_interfaces(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'takeover.gate_interfaces = ["sync", "lan"]')
    assert told(findings(link_checks.check_gate, config=config)) == [
        ("problem", "takeover.gate_interfaces: no interface lan")
    ]


def test_a_gate_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = MULTICAST + '[takeover]\ngate_interfaces = ["sync"]\n'
    config = config_of(tmp_path, gated)
    assert findings(link_checks.check_gate, config=config) == []
    monkeypatch.setattr("ftfw.system.libnftables.LIBRARY", "libnone.so.1")
    found = the(findings(link_checks.check_gate, config=config))
    assert (found.level, found.found) == (Level.PROBLEM, "libnone.so.1 is not installed, and the gate needs it")
    with pytest.raises(RequirementError, match="apt install nftables"):
        require(config)
    require(config_of(tmp_path, MULTICAST))


def test_the_fifo(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    config = config_of(tmp_path, f'keepalived = {{fifo = "{path}", addresses = ["192.0.2.1"]}}\n')

    def found(fifo: str | None) -> list[tuple[str, str]]:
        status = {"keepalived": {"fifo": fifo}} if fifo else None
        return told(findings(keepalived_checks.check_keepalived, config=config, status=status))

    assert findings(keepalived_checks.check_keepalived) == []
    assert found(None) == [("ok", f"keepalived.fifo: {path}: not open yet: ftfw makes it when it starts")]
    assert found("open") == [("ok", f"keepalived.fifo: {path}: open")]
    assert found("f: cannot be made; do this") == [("problem", "keepalived.fifo: f: cannot be made")]
    path.touch()
    assert found(None) == [("problem", f"keepalived.fifo: {path} is no FIFO")]
    without = config_of(tmp_path, 'keepalived.fifo = "/run/ftfw/fifo"\n')
    assert ("warning", "keepalived.addresses: none") in told(
        findings(keepalived_checks.check_keepalived, config=without)
    )


def test_a_fifo_that_keepalived_has_not_opened(fake_host: FakeHost, tmp_path: Path) -> None:
    config = config_of(tmp_path, f'keepalived = {{fifo = "{tmp_path}/fifo", addresses = ["192.0.2.1"]}}\n')

    def found(writer: bool) -> Finding:
        status = {"keepalived": {"fifo": "open", "fifo_writer": writer}}
        return findings(keepalived_checks.check_keepalived, config=config, status=status)[-1]

    assert found(writer=True).level is Level.OK
    assert told([found(writer=False)])[0][1].startswith("keepalived: it does not run: nobody has ")
    fake_host.running.add("keepalived")
    deaf = found(writer=False)
    assert (deaf.level, deaf.found) == (
        Level.PROBLEM,
        f"it runs and has not opened {tmp_path}/fifo: ftfw hears of no failover",
    )
    assert "`systemctl reload keepalived`" in deaf.remedy


def test_a_role_that_disagrees_with_the_addresses_is_a_problem() -> None:
    status = {"keepalived": {"disagreement": "this node is active without 192.0.2.1", "dropped": {"no_state": 3}}}
    found = the(findings(keepalived_checks.check_keepalived, status=status))
    assert told([found]) == [("problem", "keepalived: this node is active without 192.0.2.1")]
    assert "ftfw demote" in found.remedy


def test_a_place_for_prometheus(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = config_of(tmp_path, f'metrics.listen = "127.0.0.1:{port}"\n')
        found = the(findings(link_checks.check_metrics, config=config))
        assert told([found]) == [("warning", f"metrics.listen: 127.0.0.1 port {port}: Address already in use")]
        # By the daemon itself: what it says counts.
        assert (
            the(findings(link_checks.check_metrics, config=config, status={"metrics": {"trouble": None}})).level
            is Level.OK
        )
    assert the(findings(link_checks.check_metrics, config=config)).level is Level.OK
    status = {
        "metrics": {"trouble": "metrics.listen: fw port 1: no name; name an address", "failed": {"unresolved": 9}}
    }
    found = the(findings(link_checks.check_metrics, config=config, status=status))
    assert (found.level, found.found, found.remedy) == (Level.WARNING, "fw port 1: no name", "name an address")
    assert findings(link_checks.check_metrics, config=config_of(tmp_path, "")) == []
    elsewhere = config_of(tmp_path, 'metrics.listen = "198.51.100.77:9166"\n')
    assert the(findings(link_checks.check_metrics, config=elsewhere)).found.endswith("Cannot assign requested address")


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
    assert "port 3780 is let in" in found[1].remedy


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
    return told(findings(peer_checks.check_hosts, config=config, status=status))


def test_a_peer_whose_host_is_alike() -> None:
    assert compared() == [("ok", "peer fw2: its host is like this one; kernel 6.1.0")]
    assert compared(helpers=["ftp", "sip", "irc"], mode="hot", kernel="6.1.1")[0][0] == "ok"
    assert findings(peer_checks.check_hosts, status={"facts": OWN, "peers": [{"name": "fw2", "facts": None}]}) == []
    assert findings(peer_checks.check_hosts, status={"peers": [{"name": "fw2", "facts": OWN}]}) == []
    assert findings(peer_checks.check_hosts) == []


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
        assert "something on the way has a smaller MTU" in found[1].found
        assert "ping -M do" in found[1].remedy


def test_links_over_which_nobody_is_heard(tmp_path: Path) -> None:
    config = config_of(tmp_path, MULTICAST + MULTICAST.replace("sync", "spare"))

    def found(*links_status: dict[str, Any]) -> list[Finding]:
        return findings(link_checks.check_traffic, config=config, status={"links": list(links_status)})

    assert findings(link_checks.check_traffic) == []
    assert found({"sent": 900, "received": 1}, {"sent": 9, "received": 0}) == []
    alone = the(found({"name": "sync", "sent": 900, "received": 0}))
    assert told([alone]) == [("warning", "link[0]: sync: 900 frames sent, and none received")]
    assert "let port 3780 in" in alone.remedy
    assert "needs a querier" in alone.remedy
    second = the(found({"sent": 900, "received": 800}, {"name": "spare", "sent": 900, "received": 0}))
    assert (second.level, second.subject) == (Level.PROBLEM, "link[1]")
    strange = the(found({"name": "sync", "sent": 900, "received": 0, "dropped": {"kernel": 7}}))
    assert (strange.level, strange.remedy) == (Level.PROBLEM, "compare security.key_files on both nodes")
    assert "7 datagrams came that are under no key of this node" in strange.found


def test_a_host_that_forwards_nothing(fake_host: FakeHost) -> None:
    assert findings(host_checks.check_forwarding) == []
    fake_host.forwards = False
    assert the(findings(host_checks.check_forwarding)).level is Level.WARNING


def test_a_clock_that_nobody_keeps(fake_host: FakeHost) -> None:
    assert told(findings(host_checks.check_clock)) == [("ok", "clock: synchronised")]
    fake_host.synchronised = False
    assert "chrony" in the(findings(host_checks.check_clock)).remedy


OURS = """
[keepalived]
fifo = "/run/ftfw/k.fifo"
instances = ["FW"]
addresses = ["192.0.2.1", "2001:db8::1"]
track_file = "/run/ftfw/ready"
"""
THEIRS = """
global_defs {
    vrrp_notify_fifo "/run/ftfw/k.fifo" ftfw
    fifo_write_vrrp_states_on_reload
}
track_file r {
    file /run/ftfw/ready
}
vrrp_sync_group FW {
    group {
        LAN
        WAN
    }
    track_file {
        r weight -60
    }
}
vrrp_instance LAN {
    virtual_ipaddress {
        192.0.2.1/24
    }
    virtual_ipaddress_excluded {
        2001:db8::1/64
    }
}
vrrp_instance WAN {
}
vrrp_instance OTHER {
    virtual_ipaddress {
        203.0.113.77
    }
}
"""
HOOK = ("vrrp_instance WAN {", "vrrp_instance WAN {\n notify_master /etc/keepalived/notify")
NO_FIFO = ('    vrrp_notify_fifo "/run/ftfw/k.fifo" ftfw', "")

Change = tuple[str, str]


@pytest.fixture
def together(fake_host: FakeHost, tmp_path: Path) -> Callable[..., list[Finding]]:
    """What is found of ftfw.toml and keepalived.conf that go together, each with one change or more."""
    fake_host.daemon_user = "ftfw"

    def look(*, ours: tuple[Change, ...] = (), theirs: tuple[Change, ...] = ()) -> list[Finding]:
        texts = []
        for text, changes in ((OURS, ours), (THEIRS, theirs)):
            for old, new in changes:
                assert old in text
                text = text.replace(old, new)  # noqa: PLW2901
            texts.append(text)
        (tmp_path / "keepalived.conf").write_text(texts[1])
        return findings(keepalived_checks.check_its_configuration, config=config_of(tmp_path, texts[0]))

    return look


WITHOUT_FIFO = {"ours": (('fifo = "/run/ftfw/k.fifo"', ""),)}
WITHOUT_TRACK_FILE = {"ours": (('track_file = "/run/ftfw/ready"', ""),)}
WITHOUT_INSTANCES = {"ours": (('instances = ["FW"]', ""), ('"2001', '"203.0.113.77", "2001'))}


def theirs(*changes: Change) -> dict[str, tuple[Change, ...]]:
    return {"theirs": changes}


@pytest.mark.parametrize(
    ("changes", "level", "found", "remedy"),
    [
        (theirs(NO_FIFO), "problem", "does not name /run/ftfw/k.fifo, the FIFO that ftfw reads", "in global_defs"),
        (theirs(('vrrp_notify_fifo "/run', "#")), "problem", "does not name /run/ftfw/k.fifo", "in global_defs"),
        (theirs(("k.fifo", "k2.fifo")), "problem", "the FIFO that ftfw reads, but /run/ftfw/k2.fifo", "in global_defs"),
        (
            theirs(("vrrp_notify_fifo", "notify_fifo")),
            "warning",
            "as notify_fifo",
            "`vrrp_notify_fifo /run/ftfw/k.fifo`",
        ),
        (theirs((" ftfw\n", "\n")), "warning", "for root, and ftfw runs as ftfw", "_fifo /run/ftfw/k.fifo ftfw` in"),
        (theirs((" ftfw\n", " bin\n")), "warning", "for bin, and ftfw runs as ftfw", "_fifo /run/ftfw/k.fifo ftfw` in"),
        (theirs(("fifo_write", "#")), "warning", "a reload tells", "`fifo_write_vrrp_states_on_reload`"),
        (WITHOUT_FIFO, "warning", "keepalived.fifo is not set", '`fifo = "/run/ftfw/k.fifo"`'),
        (WITHOUT_FIFO | theirs(NO_FIFO), "warning", "has no hook, and", "keepalived.fifo"),
        (theirs(("file /run", "file /var")), "warning", "does not track /run/ftfw/ready", "file /run/ftfw/ready"),
        (
            theirs(("r weight", "q weight")),
            "warning",
            "no instance and no sync group tracks it",
            "block of what decides",
        ),
        (WITHOUT_TRACK_FILE, "warning", "track_file is not set", '`track_file = "/run/ftfw/ready"`'),
        (
            {"ours": (('"FW"', '"Fw"'),)},
            "problem",
            "no sync group Fw: this node is never",
            "there: FW, LAN, WAN, OTHER",
        ),
        (WITHOUT_INSTANCES, "warning", "has 3: one that", "a sync group of"),
        (theirs(("192.0.2.1/24", "192.0.2.1/24\n192.0.2.4")), "warning", "without 192.0.2.4", "add 192.0.2.4"),
        (theirs(("192.0.2.1/24", "")), "warning", "192.0.2.1: not among the virtual addresses", "take it out, or mend"),
        (
            {"ours": (("2001:db8::1", "2001:db8::2"),)} | theirs(("2001:db8::1/64", "")),
            "warning",
            "2001:db8::2: not",
            "mend",
        ),
        (
            theirs(("global_defs", "include conf.d/*\nglobal_defs")),
            "ok",
            "not followed: include conf.d/*",
            "see yourself",
        ),
    ],
)
def test_one_thing_that_does_not_go_together_with_keepalived_s_configuration(
    together: Callable[..., list[Finding]], changes: dict[str, tuple[Change, ...]], level: str, found: str, remedy: str
) -> None:
    only = the(together(**changes))
    assert only.level == level
    assert found in only.found
    assert remedy in only.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {},
        WITHOUT_FIFO | theirs(NO_FIFO, HOOK),
        {"ours": (('["FW"]', '["LAN", "WAN"]'),)},
        {"ours": (("addresses =", "#"),)},  # `check_keepalived` tells of it
        WITHOUT_TRACK_FILE | theirs(("/run/ftfw/ready", "/run/other")),
    ],
)
def test_what_goes_together_with_keepalived_s_configuration(
    together: Callable[..., list[Finding]], changes: dict[str, tuple[Change, ...]]
) -> None:
    assert together(**changes) == []


def test_a_process_is_found_whatever_others_are_called(tmp_path: Path) -> None:
    assert runs(Path("/proc/self/comm").read_text().strip())
    other = os.fsencode(tmp_path) + b"/caf\xe9"
    sleep = shutil.which("sleep")
    assert sleep
    Path(os.fsdecode(other)).symlink_to(sleep)
    with subprocess.Popen([other, "60"]) as strange:
        try:
            assert not runs("no-such-program")
        finally:
            strange.kill()


def test_whom_a_daemon_runs_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "socket").touch()
    assert daemon_user(tmp_path / "socket") == pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(host_probes, "SERVICE_USER", "nobody")
    assert daemon_user(tmp_path / "none") == "nobody"
    monkeypatch.setattr(host_probes, "SERVICE_USER", "nobody-at-all")
    assert daemon_user(tmp_path / "none") == "root"


def test_a_daemon_that_is_root_reads_any_fifo(fake_host: FakeHost, together: Callable[..., list[Finding]]) -> None:
    fake_host.daemon_user = "root"
    assert together(**theirs((" ftfw\n", "\n"))) == []


def test_what_another_file_may_say_is_not_said_to_be_missing(together: Callable[..., list[Finding]]) -> None:
    assert the(together(**theirs((THEIRS, "includer more.conf\n")))).level is Level.OK
    wrong = "include a.conf\nglobal_defs {\n vrrp_notify_fifo /run/x\n}\n"
    assert [finding.level.value for finding in together(**theirs((THEIRS, wrong)))] == ["ok", "problem"]


def test_keepalived_s_configuration_may_be_in_any_encoding(
    together: Callable[..., list[Finding]], tmp_path: Path
) -> None:
    assert together() == []
    file = tmp_path / "keepalived.conf"
    file.write_bytes("# die Adresse für alle\n".encode("latin-1") + file.read_bytes())
    assert findings(keepalived_checks.check_its_configuration, config=config_of(tmp_path, OURS)) == []


def test_a_keepalived_that_has_said_nothing(fake_host: FakeHost, tmp_path: Path) -> None:
    check, without = keepalived_checks.check_its_configuration, config_of(tmp_path, "")
    assert findings(check, config=without) == []
    fake_host.running.add("keepalived")
    assert "told ftfw nothing" in the(findings(check, config=without)).found
    assert findings(check, config=without, status={"keepalived": {"instances": {"INSTANCE A": "MASTER"}}}) == []
    assert findings(check, config=config_of(tmp_path, OURS)) == []
    assert findings(check) == []


def test_the_files_in_conf_go_together(tmp_path: Path, fake_host: FakeHost) -> None:
    fake_host.daemon_user = "ftfw"
    conf = Path(__file__).parents[2] / "conf"
    (tmp_path / "keepalived.conf").write_text((conf / "keepalived/keepalived.conf").read_text())
    text = re.sub(
        r"^#(?=\w+ = )", "", (conf / "ftfw.toml").read_text().partition("[keepalived]")[2], flags=re.MULTILINE
    )
    config = config_of(tmp_path, f"[keepalived]{text}")
    assert config.keepalived.fifo
    assert findings(keepalived_checks.check_its_configuration, config=config) == []
    assert findings(keepalived_checks.check_gate_beside_it, config=config) == []


@pytest.mark.parametrize(
    ("text", "status", "count"),
    [
        (OURS, None, 1),
        (f'takeover.gate_interfaces = ["lan"]\n{OURS}', None, 0),
        (f'standby.mode = "hot"\n{OURS}', None, 0),
        ("", None, 0),
        ("", {"keepalived": {"instances": {"GROUP FW": "MASTER"}}}, 1),
    ],
)
def test_a_warm_node_beside_keepalived_has_a_gate(
    tmp_path: Path, text: str, status: dict[str, Any] | None, count: int
) -> None:
    found = findings(keepalived_checks.check_gate_beside_it, config=config_of(tmp_path, text), status=status)
    assert [finding.subject for finding in found] == ["takeover.gate_interfaces"] * count


def test_what_the_daemon_complains_about() -> None:
    assert findings(link_checks.check_daemon) == []
    assert findings(link_checks.check_daemon, status={"role": "active", "synced": None, "link": {}}) == []
    status = {
        "role": "backup",
        "synced": False,
        "conflict": True,
        "link": {"dropped": {"forged": 3, "replayed": 0, "duplicate": 900}},
        "links": [{"name": "udp 203.0.113.1", "up": False}, {"name": "tcp 203.0.113.1", "up": True}],
        "kernel": {"overruns": 2},
    }
    assert [finding.subject for finding in findings(link_checks.check_daemon, status=status)] == [
        "roles",
        "udp 203.0.113.1",
        "sync",
        "links",
        "events",
    ]
    assert "frames were dropped: 3 forged" in told(findings(link_checks.check_daemon, status=status))[3][1]
    status = {
        "role": "active",
        "link": {"dropped": {"duplicate": 7}},
        "kernel": {"dropped": {"malformed": 1}, "inject_failed": {"table_full": 2, "busy": 1}},
        "last_commit": {"otherwise": {"master_missing": 4}},
    }
    assert [line for _, line in told(findings(link_checks.check_daemon, status=status))] == [
        "events: messages were dropped: 1 malformed",
        "injection: the kernel refused entries: 2 table_full, 1 busy",
        "injection: the last commit put entries in otherwise than asked for: 4 master_missing",
    ]
    assert findings(link_checks.check_daemon, status={"role": "active", "last_commit": None}) == []


# What the daemon asks for


def test_requirements(fake_host: FakeHost, tmp_path: Path) -> None:
    config = config_of(tmp_path, MULTICAST)  # an interface that does not exist is a link's trouble
    require(config)
    fake_host.errno = errno.EPERM
    with pytest.raises(RequirementError, match=r"^CAP_NET_ADMIN is missing; run ftfw as root, or with Ambient"):
        require(config)
    fake_host.errno = errno.EPROTONOSUPPORT
    with pytest.raises(RequirementError, match=r"does not answer over netlink \(.*\); `modprobe"):
        require(config)


@pytest.mark.parametrize("old", [0, 1, 2])
def test_events_mode_is_set(fake_host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: int) -> None:
    fake_host.sysctls["nf_conntrack_events"] = old
    monkeypatch.setattr(requirements, "EVENTS", tmp_path / "nf_conntrack_events")
    assert ensure_events_mode() == old
    assert (tmp_path / "nf_conntrack_events").exists() == (old != 1)


def test_events_mode_that_cannot_be_set(fake_host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_host.sysctls["nf_conntrack_events"] = 2
    monkeypatch.setattr(requirements, "EVENTS", tmp_path / "none" / "nf_conntrack_events")
    with pytest.raises(RequirementError, match=r"nf_conntrack_events is 2 and cannot be set to 1 \(.*\); do it"):
        ensure_events_mode()
    del fake_host.sysctls["nf_conntrack_events"]
    with pytest.raises(RequirementError, match="makes no conntrack events"):
        ensure_events_mode()


# The command


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that has no fault, on a host that has none."""
    generate(tmp_path / "key")
    file = tmp_path / "f.toml"
    file.write_text(f'security.key_files = ["{tmp_path}/key"]\ncontrol.socket = "{tmp_path}/none"\n{MULTICAST}')
    house = ruleset(INPUT, rule("input", state("invalid"), DROP), rule("input", LABEL))
    monkeypatch.setattr(check_package, "read_ruleset", lambda: house)
    return file


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["check", *arguments])
    return result.exit_code, result.stdout


def test_all_is_well(complete: Path) -> None:
    code, output = run("--json", "--config", str(complete))
    found = json.loads(output)
    assert code == 0
    assert {finding["level"] for finding in found} == {"ok"}
    assert all(set(finding) == {"level", "subject", "found", "remedy"} for finding in found)


def test_a_check_that_breaks_off_is_a_finding_and_the_others_go_on(
    complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_clock(_context: Context) -> Iterator[Finding]:
        yield Finding(level=Level.OK, subject="clock", found="so far")
        raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid start byte")

    checks = [check_clock if one is host_checks.check_clock else one for one in CHECKS]
    monkeypatch.setattr(check_package, "CHECKS", checks)
    code, output = run("--json", "--config", str(complete))
    found = json.loads(output)
    (broken,) = (finding for finding in found if finding["level"] != "ok")
    assert (code, broken["level"], broken["subject"]) == (0, "warning", "check")
    assert broken["found"].startswith("check_clock broke off: UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe9")
    assert "test_check.py:" in broken["found"]
    assert "so far" in output
    assert found[-1]["subject"] == "peers"  # behind it


@pytest.mark.parametrize("takes_connections", [True, False])
def test_a_daemon_that_hangs_is_a_problem_and_not_waited_for(
    complete: Path, monkeypatch: pytest.MonkeyPatch, takes_connections: bool
) -> None:
    monkeypatch.setattr(check_package, "ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as waiting:
        hung.bind(str(complete.parent / "none"))
        hung.listen(0)
        if not takes_connections:
            waiting.connect(str(complete.parent / "none"))  # and nobody else
        code, output = run("--json", "--config", str(complete))
    (daemon,) = (finding for finding in json.loads(output) if finding["level"] != "ok")
    assert (code, daemon["subject"], daemon["level"]) == (1, "daemon", "problem")
    assert "no answer" in daemon["found"] or "does not take connections" in daemon["found"]
    assert daemon["remedy"]


def test_a_warning_is_no_failure(complete: Path, fake_host: FakeHost) -> None:
    fake_host.sysctls["nf_conntrack_tcp_loose"] = 1
    code, output = run("--config", str(complete))
    assert code == 0
    assert output.endswith(" ok, 1 warning, 0 problem\n")


def test_a_problem_is_exit_code_1(complete: Path, fake_host: FakeHost) -> None:
    fake_host.interfaces.clear()
    code, output = run("--config", str(complete))
    assert code == 1
    assert "problem  link[0]: no interface sync\n         → create it, or mend link[0].interface\n" in output


def test_a_wrong_configuration_is_exit_code_2_and_the_host_is_checked_all_the_same(complete: Path) -> None:
    complete.write_text("standby.mode = 3")
    code, output = run("--config", str(complete))
    assert code == 2
    assert 'standby.mode: found 3\n         → expected "warm" or "hot"\n' in output
    assert "nf_conntrack: answers over netlink" in output


def test_every_problem_and_warning_comes_with_a_remedy(fake_host: FakeHost, tmp_path: Path) -> None:
    fake_host.sysctls |= {"nf_conntrack_tcp_loose": 1, "nf_conntrack_events": 2, "nf_conntrack_count": 1000}
    fake_host.interfaces.clear()
    fake_host.helpers.clear()
    fake_host.version = (4, 19, 0)
    config = config_of(tmp_path, f"security.key_files = ['/none']\n{MULTICAST}")
    for one in CHECKS:
        for finding in findings(one, config=config, ruleset=ruleset(), status={"peers": [], "conflict": True}):
            assert finding.remedy or finding.level is Level.OK, finding


def test_the_report_does_not_take_words_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding(level=Level.OK, subject="link[0]", found="[red]x :smile:")])
    assert capsys.readouterr().out == "ok       link[0]: [red]x :smile:\n1 ok, 0 warning, 0 problem\n"
