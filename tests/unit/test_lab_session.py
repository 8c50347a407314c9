from typing import Any

import pytest
from click.testing import CliRunner

from ftfw.lab import lab_session
from ftfw.lab.failover_run import LabRun, Observer
from ftfw.lab.lab_command import lab
from ftfw.lab.verdicts import Row


@pytest.mark.parametrize(("flags", "wanted"), [([], [None, None]), (["--keep"], [True, False])])
def test_the_last_lab_is_kept_and_others_if_they_fail(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], wanted: list[bool | None]
) -> None:
    asked: list[bool | None] = []

    async def run_lab(*, keep: Any, **_: object) -> None:
        asked.append(None if keep is None else keep.failed_only)

    monkeypatch.setattr(lab_session, "run_lab", run_lab)
    CliRunner().invoke(lab, flags)
    assert asked == wanted


def test_no_lab_follows_one_that_is_kept_because_it_lost_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    async def run_lab(*, mode: str, observer: Observer, **_: object) -> None:
        modes.append(mode)
        observer.finished(
            LabRun(site="namespaces", daemon="ftfw", mode=mode, rows=[Row(name="udp", title="UDP", takeovers=2)])
        )
        observer.kept(["ip netns exec a bash"], "")

    monkeypatch.setattr(lab_session, "run_lab", run_lab)
    result = CliRunner().invoke(lab, ["--keep"])
    assert (modes, result.exit_code) == (["warm"], 1)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ([], [("ftfw", "warm"), ("ftfw", "hot")]),
        (["--mode", "hot"], [("ftfw", "hot")]),
        (["--daemon", "none"], [("none", "warm")]),
        (["--daemon", "conntrackd", "--mode", "hot"], [("conntrackd", "hot")]),
    ],
)
def test_only_ftfw_runs_in_both_modes_unless_one_is_chosen(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], wanted: list[tuple[str, str]]
) -> None:
    runs: list[tuple[str, str]] = []

    async def run_lab(*, daemon: Any, mode: str, **_: object) -> None:
        runs.append((daemon.name, mode))

    monkeypatch.setattr(lab_session, "run_lab", run_lab)
    CliRunner().invoke(lab, flags)
    assert runs == wanted
