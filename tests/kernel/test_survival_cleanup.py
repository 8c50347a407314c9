"""Whatever ends the lab, nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]

LAB = [sys.executable, "-m", "ftfw", "lab", "--daemon", "none", "--only", "*-v4"]


def traces(folder: Path) -> list[str]:
    """Return the work directories and processes of labs that were started with that TMPDIR."""
    found = [str(path) for path in folder.glob("ftfw-lab-*")]
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={folder}".encode() in process.read_bytes():
                found.append(process.parent.name)
        except OSError:
            continue  # it has just ended
    return found


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
@pytest.mark.parametrize("when", ["opening", "takeover"])
def test_a_signal_ends_the_lab_and_nothing_stays(tmp_path: Path, when: str, ending: signal.Signals, code: int) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(LAB, env=environment, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        while when not in lab.stdout.readline():
            assert lab.poll() is None
        time.sleep(0.3)
        (workdir,) = tmp_path.glob("ftfw-lab-*")
        assert f"{workdir.name}-fw1" in namespaces()
        lab.send_signal(ending)
        lab.stdout.read()
        assert lab.wait(timeout=20) == code
    deadline = time.monotonic() + 5
    while (left := traces(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)  # the kernel takes a moment to reap what was killed
    assert left == []
    assert workdir.name not in namespaces()


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        (["--only", "nonsense"], {}, "no flow is called 'nonsense'"),
        ([], {"PATH": "/nowhere"}, "ip is not installed; ./dev setup installs"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: list[str], environment: dict[str, str], complaint: str) -> None:
    command = [sys.executable, "-m", "ftfw", "lab", "--daemon", "none", *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_root_it_says_so() -> None:
    command = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-m", "ftfw", "lab"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: the lab makes network namespaces: run it as root (sudo ftfw lab)\n"
