import base64
import os
import pwd
import stat
from pathlib import Path

import pytest

from ftfw.security import key_file
from ftfw.security.key_file import KeyFileError


def test_a_generated_key_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "link.key"
    key_file.generate(file)
    assert len(key_file.read(file)) == 32
    assert base64.b64decode(file.read_text()) == key_file.read(file)
    assert file.read_text().count("\n") == 1


def test_the_mode_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        key_file.generate(tmp_path / "link.key")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "link.key").stat().st_mode) == 0o600


def test_keys_differ(tmp_path: Path) -> None:
    key_file.generate(tmp_path / "a")
    key_file.generate(tmp_path / "b")
    assert key_file.read(tmp_path / "a") != key_file.read(tmp_path / "b")


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "link.key"
    key_file.generate(file)
    before = file.read_bytes()
    with pytest.raises(KeyFileError, match=r"link\.key: exists and is not overwritten; name another file"):
        key_file.generate(file)
    assert file.read_bytes() == before


def test_not_even_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="exists"):
        key_file.generate(tmp_path / "link.key")
    assert not (tmp_path / "elsewhere").exists()


def test_generating_in_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be created: No such file or directory"):
        key_file.generate(tmp_path / "none" / "link.key")


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "link.key"
    with pytest.raises(KeyFileError, match=f"^{file}: no such file; make a key with `ftfw keygen {file}`"):
        key_file.read(file)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o610, 0o644, 0o666])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "link.key"
    key_file.generate(file)
    file.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o} gives other users access to the key; `chmod 600 {file}`"):
        key_file.read(file)


def test_a_read_only_file_is_fine(tmp_path: Path) -> None:
    file = tmp_path / "link.key"
    key_file.generate(file)
    file.chmod(0o400)
    assert len(key_file.read(file)) == 32


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_root_takes_a_file_of_the_user_that_the_daemon_runs_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "link.key"
    key_file.generate(file)
    nobody = pwd.getpwnam("nobody")
    os.chown(file, nobody.pw_uid, nobody.pw_gid)
    with pytest.raises(KeyFileError, match="belongs to user"):
        key_file.read(file)
    monkeypatch.setattr(key_file, "SERVICE_USER", "nobody")
    assert len(key_file.read(file)) == 32


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "link.key"
    key_file.generate(file)
    os.chown(file, 12345, 12345)
    with pytest.raises(KeyFileError, match=f"belongs to user 12345, who could change it; `chown root {file}`"):
        key_file.read(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"not base64!\n", base64.b64encode(bytes(31)), base64.b64encode(bytes(33)), b"A" * 5000],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "link.key"
    file.touch(mode=0o600)
    file.write_bytes(content)
    with pytest.raises(KeyFileError, match="damaged: found"):
        key_file.read(file)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="not a regular file"):
        key_file.read(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        key_file.read(tmp_path / "fifo")
