"""The developers' command, as far as it can be tried without installing anything."""

import shutil
import subprocess
from pathlib import Path

import pytest

DEV = Path(__file__).parents[2] / "dev"
BORROWED = ("bash", "env", "dirname", "readlink")


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of `dev` in a project of its own, with a PATH that has next to nothing."""
    made = tmp_path / "project"
    made.mkdir()
    shutil.copy(DEV, made / "dev")
    (made / ".ci").mkdir()
    shutil.copy(DEV.parent / ".ci/test-on", made / ".ci")
    for name in ("requirements.lock", "pyproject.toml"):
        (made / name).touch()
    (tmp_path / "bin").mkdir()
    for name in BORROWED:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    return made


def run(project: Path, *argv: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    path = str(project.parent / "bin")
    return subprocess.run(argv, cwd=cwd, env={"PATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("way", ["./dev", "project/dev", "link"])
def test_sudo_gets_the_script_however_it_was_called(project: Path, way: str) -> None:
    script(project.parent / "bin/id", "echo 1000")
    script(project.parent / "bin/sudo", 'echo "$@"')
    (project.parent / "link").symlink_to(project / "dev")
    cwd = project if way == "./dev" else project.parent
    done = run(project, str(cwd / way) if way == "link" else way, "demo", "--only", "a b", cwd=cwd)
    assert (done.stdout, done.stderr) == (f"-- {project}/dev demo --only a b\n", "")


def test_a_lint_without_shellcheck_fails_and_says_what_to_do(project: Path) -> None:
    for tool in ("ruff", "mypy"):
        script(project / ".venv/bin" / tool, "exit 0")
    stamp = project / ".venv/installed"
    stamp.touch()
    for name in ("requirements.lock", "pyproject.toml"):
        (project / name).unlink()  # nothing is newer than what is installed
    done = run(project, "./dev", "lint", cwd=project)
    assert done.returncode == 1
    assert done.stderr == "dev: shellcheck is not installed: `./dev setup` installs it, with all the rest\n"
    script(project.parent / "bin/shellcheck", "exit 0")
    assert run(project, "./dev", "lint", cwd=project).returncode == 0


@pytest.mark.parametrize("arguments", [[], ["stretch"], ["--keep"], ["--keep", "stretch"], ["tests/unit", "bookworm"]])
def test_a_release_that_there_is_not_is_refused_before_anything_is_made(project: Path, arguments: list[str]) -> None:
    script(project.parent / "bin/id", "echo 0")
    script(project.parent / "bin/dpkg-query", "echo installed")
    done = run(project, "./dev", "test-on", *arguments, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    found = next((each for each in arguments if each != "--keep"), "")
    assert done.stderr == (
        f'test-on: RELEASE: found "{found}", expected one of: bookworm trixie; '
        "usage: ./dev test-on [--keep] RELEASE [ARGUMENTS of ./dev test]\n"
    )
