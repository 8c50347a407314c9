from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ftfw.cli import progress_view
from ftfw.cli.commands import main
from ftfw.cli.progress_view import progress_bar, request
from ftfw.control.client import ControlError


def backup(state: str, **counts: Any) -> dict[str, Any]:
    why = None if state == "complete" else f"it is {state}"
    return {
        "role": "backup",
        "flows": 7,
        "expectations": 1,
        "why_not_synced": why,
        "stream": {"state": state, "snapshots": 0, "compared": 0, **counts},
    }


class Daemon:
    """Gives one status after the other."""

    def __init__(self, *statuses: dict[str, Any]) -> None:
        self.statuses = iter(statuses)
        self.asked: list[str] = []
        self.told: list[dict[str, Any]] = []

    def ask(self, command: str, **_: Any) -> dict[str, Any]:
        self.asked.append(command)
        return next(self.statuses) if command == "status" else {}

    def request(self, command: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        return request(self.ask, command, self.told.append, sleep=lambda _: None)


def test_a_resync_is_waited_for_until_the_snapshot_is_in() -> None:
    last = backup("complete", snapshots=4)
    daemon = Daemon(
        backup("complete", snapshots=3),
        backup("complete", snapshots=3),  # the request has not been carried out yet
        backup("asking", snapshots=3),
        backup("filling", snapshots=3, incoming=5),
        last,
    )
    found = daemon.request("resync")
    assert found is not None
    assert found[1] is last
    assert daemon.asked[:3] == ["status", "resync", "status"]
    assert daemon.told == [
        {"done": None, "what": None},
        {"done": None, "what": "it is asking"},
        {"done": 5, "what": "it is filling"},
    ]


def test_a_scrub_is_waited_for_until_what_differs_is_repaired() -> None:
    last = backup("complete", compared=1)
    daemon = Daemon(backup("complete"), backup("comparing"), backup("repairing", compared=1), last)
    found = daemon.request("scrub")
    assert found is not None
    assert found[1] is last


def test_an_active_has_its_backups_do_it() -> None:
    daemon = Daemon({"role": "active"})
    assert daemon.request("resync") is None
    assert daemon.asked == ["status", "resync"]


def test_who_hears_no_active_does_not_wait_for_ever() -> None:
    lost = {"peers": [{"name": "fw1", "role": "active", "last_seen_s": 9.0}, {"name": "fw3", "role": "backup"}]}
    looks = progress_view.POLLS_ALONE_MAX
    alone = [backup("complete"), *[backup("asking") | lost] * (looks - 1)]
    daemon = Daemon(*alone, backup("asking") | lost)
    with pytest.raises(ControlError, match="found no active that could answer; the request stands"):
        daemon.request("resync")
    assert len(daemon.asked) == looks + 2


def test_an_active_that_is_heard_is_waited_for_as_long_as_it_takes() -> None:
    heard = {"peers": [{"name": "fw1", "role": "active", "last_seen_s": 0.1}]}
    lost = [backup("asking")] * (progress_view.POLLS_ALONE_MAX - 1)
    last = backup("complete", snapshots=1)
    filling = [backup("filling") | heard] * 3 * progress_view.POLLS_ALONE_MAX
    found = Daemon(backup("complete"), *lost, *filling, *lost, last).request("resync")
    assert found is not None
    assert found[1] is last


def test_a_backup_that_is_promoted_waits_no_longer() -> None:
    with pytest.raises(ControlError, match="was promoted before it was done"):
        Daemon(backup("asking"), {"role": "active", "stream": {}}).request("resync")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "f.toml").write_text(f'control.socket = "{tmp_path}/none"')
    return tmp_path / "f.toml"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout, result.stderr


def answering(monkeypatch: pytest.MonkeyPatch, daemon: Daemon) -> None:
    monkeypatch.setattr("ftfw.cli.commands.call", lambda _path, command, **_: daemon.ask(command))
    monkeypatch.setattr(progress_view, "POLL_S", 0.0)


def test_what_a_scrub_has_found_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"missing": 1, "stale": 0, "different": 2}
    after = {"missing": 4, "stale": 0, "different": 3}
    answering(monkeypatch, Daemon(backup("complete", repaired=before), backup("complete", compared=1, repaired=after)))
    assert run("scrub", "--wait", "--config", str(config)) == (
        0,
        "compared: 7 flows, 1 expectations; repaired: 3 missing, 0 stale, 1 different\n",
        "",
    )


def test_what_a_resync_has_brought_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, Daemon(backup("complete"), backup("complete", snapshots=1)))
    assert run("resync", "--wait", "--config", str(config))[:2] == (
        0,
        "the snapshot is complete: 7 flows, 1 expectations\n",
    )


def test_ctrl_c_leaves_the_request_standing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(_path: Path, command: str, **_: Any) -> dict[str, Any]:
        asked.append(command)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return backup("complete")

    monkeypatch.setattr("ftfw.cli.commands.call", ask)
    code, out, err = run("resync", "--wait", "--config", str(config))
    assert (code, out) == (1, "")
    assert "stopped waiting; the request still stands" in err
    assert asked == ["status", "resync", "status"]


def test_there_is_no_bar_without_a_terminal() -> None:
    with progress_bar("commit") as tell:
        assert tell is None


def test_a_bar_comes_after_a_second_and_says_how_far(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    now = 100.0
    monkeypatch.setattr("ftfw.cli.progress_view.time.monotonic", lambda: now)
    with progress_bar("commit") as tell:
        assert tell is not None
        now += 0.9
        tell({"done": 1000, "total": 9000})
        assert capsys.readouterr().err == ""
        now += 0.2
        tell({"done": None, "what": "asking for it"})
        tell({"done": 2000, "total": 9000})
    shown = capsys.readouterr().err
    assert "commit" in shown
    assert "2,000 entries" in shown
