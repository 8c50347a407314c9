import subprocess
import sys
from pathlib import Path

import pytest

from ftfw.lab import lab_lock
from ftfw.lab.lab_host import LabError

HOLDER = """
import pathlib, sys
from ftfw.lab import lab_lock
lab_lock.LOCK_FOLDER = pathlib.Path(sys.argv[1])
with lab_lock.lab_lock("lab"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lab_lock, "LOCK_FOLDER", tmp_path)
    return tmp_path


def hold(lab: str) -> None:
    with lab_lock.lab_lock(lab):
        pass


def test_a_lock_is_refused_while_it_is_held_and_leaves_no_file(folder: Path) -> None:
    with lab_lock.lab_lock("lab"):
        hold("another")
        with pytest.raises(LabError, match=r"^lab is under way: wait until it has ended$"):
            hold("lab")
    hold("lab")
    assert list(folder.iterdir()) == []


def test_a_lock_is_free_once_its_process_was_killed(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LabError, match="is under way"):
            hold("lab")
        holder.kill()
        holder.wait()
        assert [path.name for path in folder.iterdir()] == ["lab"]
        hold("lab")
    assert list(folder.iterdir()) == []
