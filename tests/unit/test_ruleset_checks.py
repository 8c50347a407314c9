from pathlib import Path
from typing import Any

import pytest

from ftfw.cli.check import host_checks, ruleset_checks
from ftfw.cli.check.finding import Level
from ftfw.cli.check.ruleset import parse
from tests.unit.checked_host import DROP, INPUT, LABEL, FakeHost, chain, findings, rule, ruleset, state, the, told


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    return FakeHost().install(monkeypatch, tmp_path)


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
        assert (opaque.level, opaque.found.split(":")[0]) == (Level.OK, "not known")
        assert opaque.remedy
    translating = parse(bare, frozenset({"nat"}))
    assert the(findings(ruleset_checks.check_tracking, ruleset=translating)).found == "uses connection tracking"
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


def test_rules_of_iptables_are_not_judged() -> None:
    found = the(findings(ruleset_checks.check_invalid, ruleset=ruleset(INPUT, rule("input", {"xt": None}, DROP))))
    assert (found.level, found.remedy) == (
        Level.OK,
        "check that INPUT drops `-m conntrack --ctstate INVALID`",
    )
