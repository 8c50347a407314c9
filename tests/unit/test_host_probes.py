import ctypes
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftfw.cli.check import host_probes
from ftfw.cli.check.host_probes import daemon_user, runs


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


def test_the_probes_answer_on_this_host() -> None:
    assert host_probes.has_address("127.0.0.1")
    assert not host_probes.has_address("198.51.100.77")
    assert host_probes.listen_trouble("127.0.0.1", 0) == ""
    assert host_probes.listen_trouble("198.51.100.77", 9166) == "Cannot assign requested address"
    assert host_probes.listen_trouble("no..name", 9166)
    release = tuple(map(int, os.uname().release.split("-")[0].split("+")[0].split(".")[:2]))
    assert host_probes.kernel_version()[:2] == release


@pytest.mark.parametrize(("state", "synchronised"), [(0, True), (4, True), (5, False)])
def test_the_kernel_says_whether_the_clock_is_synchronised(
    monkeypatch: pytest.MonkeyPatch, state: int, synchronised: bool
) -> None:
    asked: list[bytes] = []

    def adjtimex(buffer: "ctypes.Array[ctypes.c_char]") -> int:
        asked.append(bytes(buffer))
        return state

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(adjtimex=adjtimex))
    assert host_probes.clock_is_synchronised() is synchronised
    assert set(asked[0]) == {0}  # nothing is set
