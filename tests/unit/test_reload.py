import logging
from pathlib import Path

import pytest

from ftfw.config.schema import load
from ftfw.daemon.reload import KeyReload
from ftfw.security import key_file

LINK = '[[link]]\ntransport = "multicast"\ninterface = "sync"\ngroup = "225.0.0.50"\n'


@pytest.fixture
def directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """Return a directory with a configuration and two keys."""
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
    reload = KeyReload(path, load(path))
    assert reload.read_keys() == [key(directory, "a")]
    write(directory, "a", "b")
    assert reload.read_keys() == [key(directory, "a"), key(directory, "b")]
    write(directory, "b")
    assert reload.read_keys() == [key(directory, "b")]
    assert told(caplog) == ["INFO SIGHUP: 1 keys read", "INFO SIGHUP: 2 keys read", "INFO SIGHUP: 1 keys read"]


def test_what_else_has_changed_needs_a_restart(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = directory / "ftfw.toml"
    reload = KeyReload(path, load(path))
    write(directory, "a", more='standby.mode = "hot"\nkeepalived.instances = ["FW"]\n')
    path.write_text(path.read_text().replace('"sync"', '"other"'))
    assert reload.read_keys() == [key(directory, "a")]
    names = "link, standby.mode, keepalived.instances"
    assert told(caplog)[0] == f"WARNING SIGHUP: {path}: {names} changed since the start; restart ftfw to apply it"
    write(directory, "a")  # taken back
    reload.read_keys()
    assert told(caplog) == ["INFO SIGHUP: 1 keys read"]


@pytest.mark.parametrize("text", ["oops", "", 'standby.mode = "cold"'])
def test_a_file_that_is_wrong_is_told_and_the_last_named_keys_are_read(
    directory: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = directory / "ftfw.toml"
    reload = KeyReload(path, load(path))
    write(directory, "b")
    reload.read_keys()
    told(caplog)
    path.write_text(text)
    assert reload.read_keys() == [key(directory, "b")]
    first, second = told(caplog)
    kept = "the present configuration stays in use, and the next start will fail"
    assert first.startswith(f"WARNING SIGHUP: {kept}: {path}: ")
    assert second == "INFO SIGHUP: 1 keys read"


def test_keys_that_cannot_be_read_stay(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = directory / "ftfw.toml"
    reload = KeyReload(path, load(path))
    write(directory, "a", "none")
    assert reload.read_keys() is None
    assert told(caplog)[0].startswith(f"WARNING SIGHUP: the present keys stay in use: {directory}/none: no such file")
