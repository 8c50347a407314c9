import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftfw.cli.check import check_runner, host_checks
from ftfw.cli.check.check_runner import CHECKS
from ftfw.cli.check.finding import CheckInput, Finding, Level
from ftfw.cli.commands import main
from ftfw.security.key_file import generate
from tests.unit.checked_host import (
    DROP,
    INPUT,
    LABEL,
    MULTICAST,
    FakeHost,
    config_of,
    findings,
    rule,
    ruleset,
    state,
)


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    return FakeHost().install(monkeypatch, tmp_path)


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that has no fault, on a host that has none."""
    generate(tmp_path / "key")
    file = tmp_path / "f.toml"
    file.write_text(f'security.key_files = ["{tmp_path}/key"]\ncontrol.socket = "{tmp_path}/none"\n{MULTICAST}')
    house = ruleset(INPUT, rule("input", state("invalid"), DROP), rule("input", LABEL))
    monkeypatch.setattr(check_runner, "read_ruleset", lambda: house)
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
    def check_clock(_context: CheckInput) -> Iterator[Finding]:
        yield Finding(level=Level.OK, subject="clock", found="so far")
        raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid start byte")

    checks = [check_clock if one is host_checks.check_clock else one for one in CHECKS]
    monkeypatch.setattr(check_runner, "CHECKS", checks)
    code, output = run("--json", "--config", str(complete))
    found = json.loads(output)
    (broken,) = (finding for finding in found if finding["level"] != "ok")
    assert (code, broken["level"], broken["subject"]) == (0, "warning", "check")
    assert broken["found"].startswith("check_clock failed: UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe9")
    assert "test_check_runner.py:" in broken["found"]
    assert "so far" in output
    assert found[-1]["subject"] == "peers"  # behind it


@pytest.mark.parametrize(
    ("accepts", "found"), [(True, "no answer for 0 s"), (False, "the daemon does not accept connections")]
)
def test_a_daemon_that_hangs_is_a_problem_and_not_waited_for(
    complete: Path, monkeypatch: pytest.MonkeyPatch, accepts: bool, found: str
) -> None:
    monkeypatch.setattr(check_runner, "ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as waiting:
        hung.bind(str(complete.parent / "none"))
        hung.listen(0)
        if not accepts:
            waiting.connect(str(complete.parent / "none"))  # and nobody else
        code, output = run("--json", "--config", str(complete))
    (daemon,) = (finding for finding in json.loads(output) if finding["level"] != "ok")
    assert (code, daemon["subject"], daemon["level"]) == (1, "daemon", "problem")
    assert found in daemon["found"]
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
    assert "problem  link[0]: no interface sync\n         → create it, or correct link[0].interface\n" in output


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
