import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from ftfw.config.default_paths import DEFAULT_SOCKET
from ftfw.control.client import ControlError, SilentError, call, socket_of
from ftfw.control.socket_file import open_listener


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


def test_no_daemon(path: Path) -> None:
    with pytest.raises(ControlError, match="no such socket: ftfw is not running"):
        call(path, "status")
    open_listener(path).close()
    with pytest.raises(ControlError, match="no process listens: ftfw is not running; start it with"):
        call(path, "status")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"", "closed the connection before it was done"),
        (b'{"result": {"a"', "closed the connection before it was done"),
        (b"220 hello\n", "not an answer of ftfw"),
        (b"[]\n", "not an answer of ftfw"),
        (b"[" * 100_000 + b"\n", "not an answer of ftfw"),
        (b'{"result": 3}\n', "not an answer of ftfw"),
        (b"{}\n", "not an answer of ftfw"),
    ],
)
async def test_an_answer_that_is_none(path: Path, reply: bytes, message: str) -> None:
    async def serve_once(listener: trio.SocketListener) -> None:
        stream = await listener.accept()
        async with stream:
            await stream.receive_some()
            await stream.send_all(reply)

    listener = trio.SocketListener(trio.socket.from_stdlib_socket(open_listener(path)))
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_once, listener)
        with pytest.raises(ControlError, match=message):
            await trio.to_thread.run_sync(call, path, "status")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", str(DEFAULT_SOCKET)),
        ('control.socket = "/run/x.sock"', "/run/x.sock"),
        ('control.socket = "/run/x.sock"\nstandby.mode = "no such mode"', "/run/x.sock"),
        ("control = 3", str(DEFAULT_SOCKET)),
    ],
)
def test_a_socket_is_found_whatever_else_is_wrong(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "f.toml").write_text(text)
    assert socket_of(tmp_path / "f.toml") == (Path(expected), None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x", None),
        (b"a = " + b"[" * 5000, None),
        (b"control.socket = 3", None),
        (b"# caf\xe9\n[control]\nsocket = '/run/x.sock'\n", "/run/x.sock"),
        (b'control.socket = "/run/x.sock"  # there\noops\n', "/run/x.sock"),
        (b'oops\n [ control ]\n\nsocket="/run/x.sock"\n', "/run/x.sock"),
        (b'[control]\n#socket = "/run/x.sock"\noops\n', None),
        (b'[other]\nsocket = "/run/x.sock"\noops\n', None),
        (b'[[link]]\ncontrol.socket = "/run/x.sock"\noops\n', None),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_told_and_gone_over_line_by_line(
    tmp_path: Path, content: bytes, expected: str | None
) -> None:
    file = tmp_path / "f.toml"
    file.write_bytes(content)
    path, warning = socket_of(file)
    assert path == (Path(expected) if expected else DEFAULT_SOCKET)
    assert warning is not None
    assert warning.startswith(f"{file}: ")
    assert f"; trying {path}" in warning


def test_a_named_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    assert socket_of(file) == (DEFAULT_SOCKET, f"{file}: No such file or directory; trying {DEFAULT_SOCKET}")


def test_the_default_file_may_be_missing_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftfw.control.client.DEFAULT_CONFIG", tmp_path / "f.toml")
    assert socket_of(None) == (DEFAULT_SOCKET, None)
    (tmp_path / "f.toml").write_text("[control\n")
    path, warning = socket_of(None)
    assert path == DEFAULT_SOCKET
    assert warning is not None
    assert f"; trying {DEFAULT_SOCKET}" in warning


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_another_kind(path: Path, kind: int) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        with pytest.raises(ControlError, match="another program uses it as a socket of another kind; set control"):
            call(path, "status")


def test_a_daemon_that_does_not_accept_connections_hangs(path: Path) -> None:
    with open_listener(path) as listener:
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            with pytest.raises(SilentError, match="does not accept connections; it hangs: see its log, restart it"):
                call(path, "status", silence_max_s=0.05)


def test_a_daemon_that_says_nothing_hangs(path: Path) -> None:
    with open_listener(path), pytest.raises(SilentError, match="no answer for 0 s; the daemon hangs"):
        call(path, "status", silence_max_s=0.05)


def test_the_client_imports_nothing_heavy() -> None:
    """It is on the failover path."""
    heavy = {"trio", "pydantic", "rich", "asyncio"}
    code = f"import sys, ftfw.control.client; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
