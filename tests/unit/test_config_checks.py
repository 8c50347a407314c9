import socket
from pathlib import Path

import pytest

from ftfw.cli.check import config_checks, host_probes
from ftfw.cli.check.finding import Level
from ftfw.daemon.requirements import RequirementError, require
from ftfw.security.key_file import generate
from tests.unit.checked_host import MULTICAST, FakeHost, config_of, findings, the, told


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    return FakeHost().install(monkeypatch, tmp_path)


def test_a_good_configuration(tmp_path: Path) -> None:
    config = config_of(tmp_path, f'node.name = "fw1"\nsecurity.key_files = ["/k"]\n{MULTICAST}')
    assert told(findings(config_checks.check_config, config=config)) == [("ok", "configuration: f.toml: node fw1")]


def test_what_the_daemon_would_miss(tmp_path: Path) -> None:
    found = findings(config_checks.check_config, config=config_of(tmp_path, ""))
    assert told(found) == [
        ("problem", "configuration: f.toml: link: missing"),
        ("problem", "configuration: f.toml: security.key_files: missing"),
    ]


def test_a_wrong_configuration_has_a_finding_per_problem() -> None:
    why = "f.toml: standby.mode: found 3; expected warm\nf.toml: x: unknown key; did you mean y?"
    first, second = findings(config_checks.check_config, why_no_config=why)
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
        config_checks.check_keys, config=config_of(tmp_path, f"security.key_files = [{files}]")
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
    assert the(findings(config_checks.check_keys, config=config)).level is Level.OK
    fake_host.daemon_user = "ftfw"
    found = the(findings(config_checks.check_keys, config=config))
    assert told([found]) == [("problem", f"key file: {tmp_path}/key: only root may read it, and ftfw runs as ftfw")]
    assert found.remedy == f"`chown ftfw: {tmp_path}/key`"
    monkeypatch.setattr(host_probes, "owner", lambda _file: "ftfw")
    assert the(findings(config_checks.check_keys, config=config)).level is Level.OK


def test_gate_interfaces(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'takeover.gate_interfaces = ["sync", "lan"]')
    assert told(findings(config_checks.check_gate, config=config)) == [
        ("problem", "takeover.gate_interfaces: no interface lan")
    ]


def test_a_gate_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = MULTICAST + '[takeover]\ngate_interfaces = ["sync"]\n'
    config = config_of(tmp_path, gated)
    assert findings(config_checks.check_gate, config=config) == []
    monkeypatch.setattr("ftfw.system.libnftables.LIBRARY", "libnone.so.1")
    found = the(findings(config_checks.check_gate, config=config))
    assert (found.level, found.found) == (Level.PROBLEM, "libnone.so.1 is not installed, and the gate needs it")
    with pytest.raises(RequirementError, match="apt install nftables"):
        require(config)
    require(config_of(tmp_path, MULTICAST))


def test_a_place_for_prometheus(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = config_of(tmp_path, f'metrics.listen = "127.0.0.1:{port}"\n')
        found = the(findings(config_checks.check_metrics, config=config))
        assert told([found]) == [("warning", f"metrics.listen: 127.0.0.1 port {port}: Address already in use")]
        # By the daemon itself: what it says counts.
        assert (
            the(findings(config_checks.check_metrics, config=config, status={"metrics": {"trouble": None}})).level
            is Level.OK
        )
    assert the(findings(config_checks.check_metrics, config=config)).level is Level.OK
    status = {
        "metrics": {"trouble": "metrics.listen: fw port 1: no name; name an address", "failed": {"unresolved": 9}}
    }
    found = the(findings(config_checks.check_metrics, config=config, status=status))
    assert (found.level, found.found, found.remedy) == (Level.WARNING, "fw port 1: no name", "name an address")
    assert findings(config_checks.check_metrics, config=config_of(tmp_path, "")) == []
    elsewhere = config_of(tmp_path, 'metrics.listen = "198.51.100.77:9166"\n')
    assert the(findings(config_checks.check_metrics, config=elsewhere)).found.endswith(
        "Cannot assign requested address"
    )
