"""Loads configurations from text."""

from pathlib import Path

import pytest

from ftfw.config.config_errors import ConfigError
from ftfw.config.schema import Config, load

LINK = '[[link]]\ntransport = "multicast"\ninterface = "sync"\ngroup = "225.0.0.50"\n'
UDP = '[[link]]\ntransport = "udp"\nbind = "203.0.113.1"\n'


def load_text(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "ftfw.toml"
    file.write_text(text)
    return load(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    """The lines of the error that `text` gives, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    lines = str(caught.value).splitlines()
    name = f"{tmp_path / 'ftfw.toml'}: "
    assert all(line.startswith(name) for line in lines)
    return [line.removeprefix(name) for line in lines]
