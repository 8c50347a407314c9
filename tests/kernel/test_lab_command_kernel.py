"""`ftfw lab` as a process: however it ends, it leaves nothing."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.kernel.pair import run, until

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


@contextmanager
def kept(folder: Path, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a lab that is kept; end it if the test fails."""
    command = [sys.executable, "-m", "ftfw", "lab", "--keep", *arguments]
    more = {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **environment}
    with subprocess.Popen(
        command, env=os.environ | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as lab:
        try:
            yield lab
        finally:
            lab.terminate()


def a_flow_is_open(lab: str) -> bool:
    return int(run("ip", "netns", "exec", f"{lab}-fw1", "conntrack", "-C").stdout) > 0


def the_active_is_cut_off(lab: str) -> bool:
    return " DOWN " in run("ip", "-n", f"{lab}-switch", "-brief", "link", "show", "fw1-lan").stdout


IN_PROGRESS = {"opening": a_flow_is_open, "takeover": the_active_is_cut_off}


def name_in(told: IO[str]) -> str:
    """Return the lab's name from the first command that leads into it."""
    found = re.fullmatch(r"  ip netns exec (ftfw-lab-\w+)-client bash\n", told.readline())
    assert found is not None
    return found[1]


def nothing_stays(folder: Path, workdir: str) -> None:
    until(lambda: not traces(folder), "work directories and processes are gone")
    assert workdir not in namespaces()


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
@pytest.mark.parametrize("when", ["opening", "takeover"])
def test_a_signal_ends_the_lab_and_nothing_stays(tmp_path: Path, when: str, ending: signal.Signals, code: int) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(LAB, env=environment, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        while when not in lab.stdout.readline():
            assert lab.poll() is None
        (workdir,) = tmp_path.glob("ftfw-lab-*")
        until(lambda: IN_PROGRESS[when](workdir.name), f"{when} is in progress")
        lab.send_signal(ending)
        lab.stdout.read()
        assert lab.wait(timeout=20) == code
    nothing_stays(tmp_path, workdir.name)


@pytest.mark.parametrize("as_data", [False, True])
def test_a_lab_that_is_kept_has_told_its_result_and_stands_until_the_signal(tmp_path: Path, as_data: bool) -> None:
    with kept(tmp_path, "--mode", "warm", "--only", "udp-v4", *(["--json"] if as_data else [])) as lab:
        assert lab.stdout is not None
        assert lab.stderr is not None
        result = ""
        while "survived both" not in result and result != "}\n":
            result = lab.stdout.readline()
            assert result, lab.stderr.read()
        told = lab.stderr if as_data else lab.stdout
        assert told.readline() == "The lab stands until Ctrl-C. Look around with:\n"
        workdir = name_in(told)
        assert f"{workdir}-fw1" in namespaces()
        lab.send_signal(signal.SIGINT)
        assert lab.wait(timeout=20) == 0
        assert "survived both" not in lab.stdout.read()
    nothing_stays(tmp_path, workdir)


def test_a_lab_whose_run_breaks_off_is_kept_too_and_says_why(tmp_path: Path) -> None:
    """Here nft fails, after the hosts are built, in the first of two modes."""
    (tmp_path / "bin").mkdir()
    nft = tmp_path / "bin/nft"
    nft.write_text("#!/bin/sh\necho no such table >&2\nexit 1\n")
    nft.chmod(0o755)
    with kept(tmp_path, "--only", "udp-v4", PATH=f"{nft.parent}:{os.environ['PATH']}") as lab:
        assert lab.stdout is not None
        assert lab.stderr is not None
        while "The run failed" not in (line := lab.stdout.readline()):
            assert line, lab.stderr.read()
        assert line.endswith(" nft -f - failed: no such table\n")
        assert lab.stdout.readline().startswith("The lab stands until Ctrl-C")
        workdir = name_in(lab.stdout)
        assert f"{workdir}-fw1" in namespaces()
        lab.send_signal(signal.SIGTERM)
        assert lab.wait(timeout=20) == 1
        assert lab.stderr.read() == line.replace("The run failed", "Error")
    nothing_stays(tmp_path, workdir)


def test_what_a_killed_lab_has_left_is_cleaned_up_and_one_that_lives_is_let_be(tmp_path: Path) -> None:
    def clean(*within: str) -> str:
        command = [*within, sys.executable, "-m", "ftfw", "lab", "--clean"]
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    with kept(tmp_path, "--mode", "warm", "--only", "udp-v4") as lab:
        assert lab.stdout is not None
        while not lab.stdout.readline().startswith("The lab stands until Ctrl-C"):
            assert lab.poll() is None
        workdir = name_in(lab.stdout)
        for within in ((), ("unshare", "--net")):
            assert f"removed {workdir}\n" not in clean(*within)
        assert f"{workdir}-fw1" in namespaces()
        lab.kill()
        lab.wait()
        assert f"removed {workdir}\n" in clean()
    nothing_stays(tmp_path, workdir)


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        (["--only", "nonsense"], {}, "no flow is called 'nonsense'"),
        ([], {"PATH": "/nowhere"}, "ip is not installed; the lab needs it"),
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
