"""Stands in for the host that the checks look at, and makes what they are given."""

from pathlib import Path
from typing import Any

import pytest

from ftfw.cli.check import config_checks, host_probes, keepalived_checks, link_checks
from ftfw.cli.check.finding import CheckFunction, CheckInput, Finding
from ftfw.cli.check.ruleset import Ruleset, parse
from ftfw.config.schema import Config, load
from ftfw.daemon import requirements
from ftfw.kernel import helpers
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

    def install(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> "FakeHost":
        """Put it in the real host's place; keepalived's configuration is in the directory."""
        monkeypatch.setattr(sysctl, "SYSCTLS", directory)
        monkeypatch.setattr(sysctl, "read", self.sysctl)
        monkeypatch.setattr(requirements, "conntrack_errno", lambda: self.errno)
        monkeypatch.setattr(helpers, "helper_works", lambda name: name in self.helpers)
        monkeypatch.setattr(link_checks, "interface", self.interface)
        monkeypatch.setattr(config_checks, "interface", self.interface)
        monkeypatch.setattr(host_probes, "has_address", lambda address: address in self.addresses)
        monkeypatch.setattr(host_probes, "kernel_version", lambda: self.version)
        monkeypatch.setattr(host_probes, "loaded_modules", lambda: self.modules)
        monkeypatch.setattr(host_probes, "has_nft", lambda: self.nft)
        monkeypatch.setattr(host_probes, "clock_is_synchronised", lambda: self.synchronised)
        monkeypatch.setattr(host_probes, "forwards", lambda: self.forwards)
        monkeypatch.setattr(host_probes, "runs", lambda program: program in self.running)
        monkeypatch.setattr(host_probes, "daemon_user", lambda _socket: self.daemon_user)
        monkeypatch.setattr(keepalived_checks, "CONFIGURATION", directory / "keepalived.conf")
        return self


def config_of(tmp_path: Path, text: str) -> Config:
    (tmp_path / "f.toml").write_text(text)
    return load(tmp_path / "f.toml")


def findings(check: CheckFunction, **context: Any) -> list[Finding]:
    return list(check(CheckInput(**{"config_path": Path("f.toml"), **context})))


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
