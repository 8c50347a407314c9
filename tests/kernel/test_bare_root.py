"""`./dev test-on` leaves nothing behind, however it ends. Here mmdebstrap is a program that makes no root directory."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vagrant.vm_lab import control_groups

pytestmark = pytest.mark.kernel

TEST_ON = Path(__file__).parents[2] / ".ci/test-on"
WORKING = "echo begun >&2\nexec sleep 600"
STUBBORN = "trap '' INT\necho begun >&2\nsleep 600"


@contextmanager
def running(folder: Path, mmdebstrap: str) -> Iterator["subprocess.Popen[str]"]:
    """The script with another mmdebstrap and a directory of its own for what it makes."""
    for name in ("bin", "work"):
        (folder / name).mkdir()
    program = folder / "bin/mmdebstrap"
    program.write_text(f"#!/bin/sh\n{mmdebstrap}\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(folder / "work")}
    with subprocess.Popen([TEST_ON, "bookworm"], env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stderr is not None
    while (said := process.stderr.readline()) != f"{line}\n":
        assert said, f"it has ended without saying {line}"


@pytest.mark.parametrize(
    ("mmdebstrap", "endings"),
    [
        (WORKING, [signal.SIGINT]),
        (WORKING, [signal.SIGTERM]),
        (WORKING, [signal.SIGHUP]),
        (STUBBORN, [signal.SIGINT, signal.SIGINT]),
    ],
)
def test_a_signal_ends_it_and_nothing_stays(tmp_path: Path, mmdebstrap: str, endings: list[signal.Signals]) -> None:
    with running(tmp_path, mmdebstrap) as process:
        wait_for(process, "begun")
        (made,) = (tmp_path / "work").iterdir()
        assert control_groups.named(made.name)
        for number, ending in enumerate(endings):
            if number:
                wait_for(process, "· interrupted: ending within 10 seconds (Ctrl-C once more: at once)")
            process.send_signal(ending)
        assert process.wait(timeout=10) == 130
    nothing_stays(tmp_path, made.name)


def test_a_release_that_cannot_be_made_is_told_and_nothing_stays(tmp_path: Path) -> None:
    with running(tmp_path, f"echo {tmp_path}/work/* >{tmp_path}/made; exit 25") as process:
        assert process.stderr is not None
        *_, told = process.stderr.read().splitlines()
        assert process.wait(timeout=10) == 1
    assert told.startswith("test-on: mmdebstrap cannot make bookworm (its message is above) from ")
    assert told.endswith(": this machine's apt sources must name a mirror of Debian that has bookworm")
    nothing_stays(tmp_path, Path((tmp_path / "made").read_text().strip()).name)


def nothing_stays(folder: Path, name: str) -> None:
    assert list((folder / "work").iterdir()) == []
    assert control_groups.named(name) == []
    processes = subprocess.run(["pgrep", "--full", name], capture_output=True, text=True, check=False)
    assert processes.stdout == ""
