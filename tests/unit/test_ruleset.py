from pathlib import Path
from typing import Any

import pytest

from ftfw.cli.check import ruleset_checks
from ftfw.cli.check.finding import Level
from ftfw.cli.check.ruleset import RulesetError, read_ruleset
from tests.unit.checked_host import DROP, INPUT, chain, findings, rule, ruleset, state, the


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
        ("echo nonsense", "nft printed JSON of an unknown form"),
        ('echo \'{"nftables": [{"chain": {}}]}\'', "nft printed JSON of an unknown form"),
        ("echo '[]'", "nft printed JSON of an unknown form"),
    ],
)
def test_nft_fails(nft: Path, script: str | None, message: str) -> None:
    if script is not None:
        nft.write_text(f"#!/bin/sh\n{script}\n")
        nft.chmod(0o755)
    with pytest.raises(RulesetError, match=message):
        read_ruleset()
