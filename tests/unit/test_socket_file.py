import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from ftfw.control.client import ControlError
from ftfw.control.socket_file import identity, open_listener, remove_own


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


def test_the_file_is_mode_0600_whatever_the_umask(path: Path) -> None:
    previous = os.umask(0)
    try:
        listener = open_listener(path)  # nothing after the bind changes the mode: see there
    finally:
        os.umask(previous)
    with listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stale_file_is_replaced(path: Path) -> None:
    open_listener(path).close()
    before = identity(path)
    with open_listener(path), socket.socket(socket.AF_UNIX) as client:
        assert before is not None
        client.connect(str(path))


def test_a_file_at_which_a_daemon_listens_is_an_error(path: Path) -> None:
    message = "another ftfw answers here; end it first, or set control"
    with open_listener(path), pytest.raises(ControlError, match=message):
        open_listener(path)


def test_a_daemon_whose_queue_is_full_listens(path: Path) -> None:
    with open_listener(path) as listener:
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            with pytest.raises(ControlError, match="another ftfw answers here"):
                open_listener(path)


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ControlError, match="exists and is not a socket; move it away"):
        open_listener(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_another_kind_is_left_alone_while_it_is_used(path: Path, kind: int) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        before = identity(path)
        with pytest.raises(ControlError, match="another program uses it as a socket of another kind; end that program"):
            open_listener(path)
        assert identity(path) == before
    open_listener(path).close()


@pytest.mark.parametrize("refusing", ["pathlib.Path.lstat", "pathlib.Path.unlink", "socket.socket.connect"])
def test_a_file_that_may_not_be_touched_is_an_error_that_says_so(
    path: Path, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    open_listener(path).close()
    monkeypatch.setattr(refusing, refuse)
    with pytest.raises(
        ControlError, match=r"control\.sock: cannot .*: Permission denied; run ftfw as .* or set control"
    ):
        open_listener(path)


def test_a_directory_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match=r"cannot create its directory: .*; set control"):
        open_listener(tmp_path / "file" / "control.sock")


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"cannot .*; .*set control"):
        open_listener(tmp_path / ("x" * 107))


def test_only_the_own_file_is_removed(path: Path) -> None:
    open_listener(path).close()
    own = identity(path)
    path.rename(path.with_name("kept"))  # else the next file may get the same inode
    with open_listener(path):
        remove_own(path, own)
        assert path.is_socket()
        remove_own(path, identity(path))
    assert not path.exists()
    remove_own(path, own)
    assert identity(path) is None
