import logging
from pathlib import Path

import pytest

from ftfw.config.schema import load
from ftfw.daemon.reload import Files
from ftfw.security import key_file

LINK = '[[link]]\ntransport = "multicast"\ninterface = "sync"\ngroup = "225.0.0.50"\n'


@pytest.fixture
def directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """A configuration and two keys."""
    caplog.set_level(logging.INFO)
    for name in ("a", "b"):
        key_file.generate(tmp_path / name)
    write(tmp_path, "a")
    return tmp_path


def write(directory: Path, *keys: str, more: str = "") -> Path:
    named = ", ".join(f'"{directory / key}"' for key in keys)
    path = directory / "ftfw.toml"
    path.write_text(f'{more}\nnode.name = "fw1"\nsecurity.key_files = [{named}]\n{LINK}')
    return path


def key(directory: Path, name: str) -> bytes:
    return key_file.read(directory / name)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    caplog.clear()
    return lines


def test_keys_are_read_as_the_file_names_them_now(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = directory / "ftfw.toml"
    files = Files(path, load(path))
    assert files.read_again() == [key(directory, "a")]
    write(directory, "a", "b")
    assert files.read_again() == [key(directory, "a"), key(directory, "b")]
    write(directory, "b")
    assert files.read_again() == [key(directory, "b")]
    assert told(caplog) == ["INFO SIGHUP: 1 keys read", "INFO SIGHUP: 2 keys read", "INFO SIGHUP: 1 keys read"]


def test_what_else_has_changed_needs_a_restart(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = directory / "ftfw.toml"
    files = Files(path, load(path))
    write(directory, "a", more='standby.mode = "hot"\nkeepalived.instances = ["FW"]\n')
    path.write_text(path.read_text().replace('"sync"', '"other"'))
    assert files.read_again() == [key(directory, "a")]
    names = "link, standby.mode, keepalived.instances"
    assert told(caplog)[0] == f"WARNING SIGHUP: {path}: {names} changed since the start: restart ftfw to use that"
    write(directory, "a")  # taken back
    files.read_again()
    assert told(caplog) == ["INFO SIGHUP: 1 keys read"]


@pytest.mark.parametrize("text", ["oops", "", 'standby.mode = "cold"'])
def test_a_file_that_is_wrong_is_told_and_the_last_named_keys_are_read(
    directory: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = directory / "ftfw.toml"
    files = Files(path, load(path))
    write(directory, "b")
    files.read_again()
    told(caplog)
    path.write_text(text)
    assert files.read_again() == [key(directory, "b")]
    first, second = told(caplog)
    assert first.startswith(f"WARNING SIGHUP: the configuration stays as it is, and the next start will fail: {path}: ")
    assert second == "INFO SIGHUP: 1 keys read"


def test_keys_that_cannot_be_read_stay(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = directory / "ftfw.toml"
    files = Files(path, load(path))
    write(directory, "a", "none")
    assert files.read_again() is None
    assert told(caplog)[0].startswith(f"WARNING SIGHUP: the keys stay as they are: {directory}/none: no such file")
