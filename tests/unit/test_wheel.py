"""The wheel: it holds what a firewall needs, and works without the source tree."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAB_OPTIONS = {"--clean", "--daemon", "--help", "--json", "--keep", "--mode", "--only"}
# Without the source tree on the path, where an editable installation has put it.
IMPORT_ALL = f"""
import pkgutil, sys
sys.path[:] = [place for place in sys.path if place != {str(ROOT)!r}]
import ftfw
for module in pkgutil.walk_packages(ftfw.__path__, "ftfw."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
print(ftfw.__file__)
print(*{{name.partition(".")[0] for name in sys.modules}} & {{"bench", "tests", "vagrant"}})
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the content of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("ftfw-*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "content")
    return folder / "content"


def run(unpacked: Path, *argv: str) -> str:
    """Run Python with the wheel's content before all else on its path."""
    environment = os.environ | {"PYTHONPATH": str(unpacked), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *argv], cwd=unpacked, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_has_no_file_for_virtual_machines_tests_or_benchmarks(unpacked: Path) -> None:
    files = [str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()]
    assert {file.split("/")[0].partition("-")[0] for file in files} == {"ftfw"}
    assert [file for file in files if re.search(r"vagrant|vm_lab|machine|ssh|test|bench", file)] == []


def test_it_has_every_file_of_the_package(unpacked: Path) -> None:
    sources = [path for path in (ROOT / "ftfw").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert [str(path) for path in sources if not (unpacked / path.relative_to(ROOT)).is_file()] == []


def test_every_module_can_be_imported_without_the_source_tree(unpacked: Path) -> None:
    assert run(unpacked, "-c", IMPORT_ALL) == f"{unpacked}/ftfw/__init__.py\n\n"


def test_the_lab_has_only_options_that_need_no_source_tree(unpacked: Path) -> None:
    told = run(unpacked, "-m", "ftfw", "lab", "--help")
    assert set(re.findall(r"^  (--[a-z-]+)", told, flags=re.MULTILINE)) == LAB_OPTIONS
    assert not re.search(r"vagrant|machine|image|site", told, flags=re.IGNORECASE)
