import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftfw.cli.check import keepalived_checks
from ftfw.cli.check.finding import Finding, Level
from tests.unit.checked_host import FakeHost, config_of, findings, the, told


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    return FakeHost().install(monkeypatch, tmp_path)


def test_the_fifo(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    config = config_of(tmp_path, f'keepalived = {{fifo = "{path}", addresses = ["192.0.2.1"]}}\n')

    def found(fifo: str | None) -> list[tuple[str, str]]:
        status = {"keepalived": {"fifo": fifo}} if fifo else None
        return told(findings(keepalived_checks.check_keepalived, config=config, status=status))

    assert findings(keepalived_checks.check_keepalived) == []
    assert found(None) == [("ok", f"keepalived.fifo: {path}: not open yet: ftfw creates it when it starts")]
    assert found("open") == [("ok", f"keepalived.fifo: {path}: open")]
    assert found("f: cannot be made; do this") == [("problem", "keepalived.fifo: f: cannot be made")]
    path.touch()
    assert found(None) == [("problem", f"keepalived.fifo: {path} is not a FIFO")]
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
    assert told([found(writer=False)])[0][1].startswith("keepalived: it does not run: no process has ")
    fake_host.running.add("keepalived")
    deaf = found(writer=False)
    assert (deaf.level, deaf.found) == (
        Level.PROBLEM,
        f"it runs and has not opened {tmp_path}/fifo: ftfw learns of no failover",
    )
    assert "`systemctl reload keepalived`" in deaf.remedy


def test_a_role_that_disagrees_with_the_addresses_is_a_problem() -> None:
    status = {"keepalived": {"disagreement": "this node is active without 192.0.2.1", "dropped": {"no_state": 3}}}
    found = the(findings(keepalived_checks.check_keepalived, status=status))
    assert told([found]) == [("problem", "keepalived: this node is active without 192.0.2.1")]
    assert "ftfw demote" in found.remedy


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
    """Return a function that checks an ftfw.toml and a keepalived.conf that agree but for the given changes."""
    fake_host.daemon_user = "ftfw"

    def look(*, ours: tuple[Change, ...] = (), theirs: tuple[Change, ...] = ()) -> list[Finding]:
        texts = []
        for text, changes in ((OURS, ours), (THEIRS, theirs)):
            for old, new in changes:
                assert old in text
                text = text.replace(old, new)  # noqa: PLW2901
            texts.append(text)
        (tmp_path / "keepalived.conf").write_text(texts[1])
        return findings(keepalived_checks.check_keepalived_conf, config=config_of(tmp_path, texts[0]))

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
        (theirs(("fifo_write", "#")), "warning", "a reload does not notify", "`fifo_write_vrrp_states_on_reload`"),
        (WITHOUT_FIFO, "warning", "keepalived.fifo is not set", '`fifo = "/run/ftfw/k.fifo"`'),
        (WITHOUT_FIFO | theirs(NO_FIFO), "warning", "has no hook, and", "keepalived.fifo"),
        (theirs(("file /run", "file /var")), "warning", "does not track /run/ftfw/ready", "file /run/ftfw/ready"),
        (
            theirs(("r weight", "q weight")),
            "warning",
            "no instance and no sync group tracks it",
            "block of the instance or group that decides",
        ),
        (WITHOUT_TRACK_FILE, "warning", "track_file is not set", '`track_file = "/run/ftfw/ready"`'),
        (
            {"ours": (('"FW"', '"Fw"'),)},
            "problem",
            "no sync group Fw: this node is never",
            "the one that decides: FW, LAN, WAN, OTHER",
        ),
        (WITHOUT_INSTANCES, "warning", "has 3: one that", "a sync group of"),
        (theirs(("192.0.2.1/24", "192.0.2.1/24\n192.0.2.4")), "warning", "without 192.0.2.4", "add 192.0.2.4"),
        (theirs(("192.0.2.1/24", "")), "warning", "192.0.2.1: not a virtual address", "remove or correct it"),
        (
            {"ours": (("2001:db8::1", "2001:db8::2"),)} | theirs(("2001:db8::1/64", "")),
            "warning",
            "2001:db8::2: not",
            "remove or correct it",
        ),
        (
            theirs(("global_defs", "include conf.d/*\nglobal_defs")),
            "ok",
            "not followed: include conf.d/*",
            "compare its contents",
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
    assert findings(keepalived_checks.check_keepalived_conf, config=config_of(tmp_path, OURS)) == []


def test_a_keepalived_that_has_said_nothing(fake_host: FakeHost, tmp_path: Path) -> None:
    check, without = keepalived_checks.check_keepalived_conf, config_of(tmp_path, "")
    assert findings(check, config=without) == []
    fake_host.running.add("keepalived")
    assert "has not notified ftfw so far" in the(findings(check, config=without)).found
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
    assert findings(keepalived_checks.check_keepalived_conf, config=config) == []
    assert findings(keepalived_checks.check_gate_beside_keepalived, config=config) == []


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
    found = findings(keepalived_checks.check_gate_beside_keepalived, config=config_of(tmp_path, text), status=status)
    assert [finding.subject for finding in found] == ["takeover.gate_interfaces"] * count
