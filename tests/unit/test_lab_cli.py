from typing import Any

import pytest
from click.testing import CliRunner

from ftfw.lab import lab_command
from ftfw.lab.failover_run import Observer, Run
from ftfw.lab.judge import Row


@pytest.mark.parametrize(("flags", "wanted"), [([], [None, None]), (["--keep"], [True, False])])
def test_the_last_lab_is_kept_and_others_if_they_fail(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], wanted: list[bool | None]
) -> None:
    asked: list[bool | None] = []

    async def run_lab(*, keep: Any, **_: object) -> None:
        asked.append(None if keep is None else keep.failed_only)

    monkeypatch.setattr(lab_command, "run_lab", run_lab)
    CliRunner().invoke(lab_command.lab, flags)
    assert asked == wanted


def test_a_lab_that_stood_because_it_lost_a_flow_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    async def run_lab(*, mode: str, observer: Observer, **_: object) -> None:
        modes.append(mode)
        observer.finished(
            Run(site="namespaces", daemon="ftfw", mode=mode, rows=[Row(name="udp", title="UDP", takeovers=2)])
        )
        observer.kept(["ip netns exec a bash"], "")

    monkeypatch.setattr(lab_command, "run_lab", run_lab)
    result = CliRunner().invoke(lab_command.lab, ["--keep"])
    assert (modes, result.exit_code) == (["warm"], 1)


@pytest.mark.parametrize("site", ["machines", "mixed", "vagrant"])
def test_a_daemon_that_is_not_to_be_had_is_said_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    monkeypatch.setattr(lab_command, "run_lab", None)
    result = CliRunner().invoke(lab_command.lab, ["--site", site, "--daemon", "conntrackd"])
    assert result.exit_code == 2
    assert f"--daemon conntrackd is not to be had at --site {site}; there are ftfw, none" in result.output
