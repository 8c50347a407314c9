# ruff: noqa: ASYNC240  (looking whether a file is there is no work)
import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ftfw.config.default_paths import DEFAULT_SOCKET
from ftfw.control import server
from ftfw.control.client import socket_of
from ftfw.control.server import ControlError, Progress, call, serve


async def answer(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """A handler for the tests: what the daemon does, as far as the socket is concerned."""
    match request["command"]:
        case "echo":
            return {"name": request["name"]}
        case "count":
            for done in range(request["to"]):
                await progress({"done": done})
            return {"done": request["to"]}
        case "refuse":
            raise ControlError("no such thing; try echo")
        case "break":
            raise KeyError("oops")
        case "list":
            return {
                "before": 1,
                "entries": ({"n": n} for n in range(request["n"])),
                "after": [1, 2],
                "none": [],
            }
        case "break off":
            return {"entries": (1 // (70 - n) for n in range(100))}
        case "slow":
            await trio.sleep(request["s"])
            return {}
    raise ControlError("unknown")


@asynccontextmanager
async def serving(path: Path, handler: server.Handler = answer) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(path, handler, task_status=task_status))
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


async def ask(path: Path, command: str, **arguments: Any) -> dict[str, Any]:
    return await trio.to_thread.run_sync(lambda: call(path, command, **arguments))


async def exchange(path: Path, request: bytes) -> dict[str, Any]:
    """Send bytes, and read the one line that comes back."""
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(request)
        received = bytearray()
        async for chunk in stream:
            received += chunk
    reply = json.loads(received)
    assert isinstance(reply, dict)
    return reply


async def test_request_and_result(path: Path) -> None:
    async with serving(path):
        assert await ask(path, "echo", name="fw1") == {"name": "fw1"}


async def test_progress_comes_before_the_result(path: Path) -> None:
    seen: list[dict[str, Any]] = []
    async with serving(path):
        result = await ask(path, "count", to=3, on_progress=seen.append)
    assert result == {"done": 3}
    assert seen == [{"done": 0}, {"done": 1}, {"done": 2}]


async def test_a_refusal_is_the_clients_error(path: Path) -> None:
    async with serving(path):
        with pytest.raises(ControlError, match=r"^no such thing; try echo$"):
            await ask(path, "refuse")


async def test_a_fault_in_the_handler_is_logged_and_survived(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(path):
        with pytest.raises(ControlError, match=r"^break failed inside the daemon \(KeyError\); see its log$"):
            await ask(path, "break")
        assert "control command break failed" in caplog.text
        assert await ask(path, "count", to=0) == {"done": 0}


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000])
async def test_iterators_become_lists(path: Path, n: int) -> None:
    async with serving(path):
        result = await ask(path, "list", n=n)
    assert result == {"before": 1, "entries": [{"n": i} for i in range(n)], "after": [1, 2], "none": []}


async def test_an_answer_that_breaks_off_is_an_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(path):
        with pytest.raises(ControlError, match="closed the connection before it was done"):
            await ask(path, "break off")
        assert "an answer broke off" in caplog.text
        assert await ask(path, "count", to=0) == {"done": 0}


@pytest.mark.parametrize(
    ("request_line", "message"),
    [
        (b"\n", "one line of JSON"),
        (b"\xff\x00\n", "one line of JSON"),
        (b"[" * 4000 + b"\n", "one line of JSON"),
        (b"[]\n", 'a JSON object with a "command"'),
        (b'{"command": 3}\n', 'a JSON object with a "command"'),
        (b"x" * 4096, "one line of at most 4096 bytes"),
    ],
)
async def test_garbage_gets_an_error_line(path: Path, request_line: bytes, message: str) -> None:
    async with serving(path):
        assert message in (await exchange(path, request_line))["error"]
        assert await ask(path, "count", to=0) == {"done": 0}


async def test_a_client_that_says_nothing_is_dropped(path: Path, autojump_clock: MockClock) -> None:
    async with serving(path):
        assert await exchange(path, b"") == {"error": "no request within 5 s"}
        assert autojump_clock.current_time() >= server.REQUEST_DEADLINE_S


async def test_a_client_that_goes_away_without_a_word(path: Path) -> None:
    async with serving(path):
        await (await trio.open_unix_socket(str(path))).aclose()
        assert await ask(path, "count", to=0) == {"done": 0}


async def test_a_command_is_carried_out_although_its_client_left(path: Path) -> None:
    started, may_end, ended = trio.Event(), trio.Event(), trio.Event()

    async def handler(_request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        started.set()
        await may_end.wait()
        for done in range(100):
            await progress({"done": done})
        ended.set()
        return {}

    async with serving(path, handler):
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(b'{"command": "promote"}\n')
        await started.wait()
        await stream.aclose()
        may_end.set()
        with trio.fail_after(5):
            await ended.wait()


async def test_a_client_that_does_not_read_delays_nothing(path: Path, autojump_clock: MockClock) -> None:
    """Its progress is left out, its command ends at once, and it is dropped in the end."""
    ended = trio.Event()

    async def handler(_request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        for _ in range(1000):
            await progress({"text": "x" * 10_000})
        ended.set()
        return {"text": "x" * 1_000_000}

    async with serving(path, handler), await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(b'{"command": "promote"}\n')
        before = autojump_clock.current_time()
        await ended.wait()
        assert autojump_clock.current_time() == before
        await trio.sleep(2 * server.WRITE_DEADLINE_S + 1)
        received = bytearray()
        async for chunk in stream:  # comes to its end: the daemon closed
            received += chunk
        assert b'"result"' not in received or not received.endswith(b"\n")


class Rendezvous:
    """A handler whose commands end when they are let go; it keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.let_go = trio.Event()

    async def __call__(self, request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        self.requests.append(request)
        await self.let_go.wait()
        return {}


async def clients(path: Path, command: str, number: int) -> list[trio.SocketStream]:
    """So many that have sent this command, one after the other, and wait for the answer."""
    streams = [await trio.open_unix_socket(str(path)) for _ in range(number)]
    for stream in streams:
        await stream.send_all(json.dumps({"command": command}).encode() + b"\n")
    return streams


async def test_clients_beyond_the_limit_are_told_so_but_for_those_that_want_a_role(path: Path) -> None:
    handler = Rendezvous()
    async with serving(path, handler):
        silent = [await trio.open_unix_socket(str(path)) for _ in range(2 * server.CLIENTS_MAX)]
        busy = await clients(path, "show", server.CLIENTS_MAX)
        await wait_all_tasks_blocked()
        refused = {"error": "16 clients are being served already; try again"}
        assert await exchange(path, b'{"command": "status"}\n') == refused
        in_a_hurry = await clients(path, "notify", 200)
        await wait_all_tasks_blocked()
        assert [each["command"] for each in handler.requests].count("notify") == 200
        handler.let_go.set()
        await wait_all_tasks_blocked()
        assert await exchange(path, b'{"command": "status"}\n') == {"result": {}}
        for stream in silent + busy + in_a_hurry:
            await stream.aclose()


async def test_requests_that_are_read_at_once_tell_in_which_order_they_came(path: Path) -> None:
    handler = Rendezvous()
    async with serving(path, handler):
        streams = await clients(path, "notify", 50)
        await wait_all_tasks_blocked()
        assert sorted(each["arrival"] for each in handler.requests) == list(range(50))
        for stream in streams:
            await stream.aclose()


async def test_connections_beyond_all_limits_wait_until_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)
    async with serving(path):
        streams = [await trio.open_unix_socket(str(path)) for _ in range(3)]
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            replies: list[dict[str, Any]] = []

            async def wait_for_room() -> None:
                replies.append(await exchange(path, b'{"command": "count", "to": 0}\n'))

            nursery.start_soon(wait_for_room)
            await wait_all_tasks_blocked(0.05)
            assert replies == []
            await streams.pop().aclose()
        assert replies == [{"result": {"done": 0}}]
        await streams[0].aclose()
        await streams[1].aclose()


async def test_the_socket_is_mode_0600_whatever_the_umask(path: Path) -> None:
    previous = os.umask(0)
    try:
        listener = server._listen(path)  # nothing after the bind changes the mode: see there
    finally:
        os.umask(previous)
    with listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_socket_is_removed_on_exit(path: Path) -> None:
    async with serving(path):
        assert path.is_socket()
    assert not path.exists()


async def test_a_successors_socket_is_not_removed(path: Path) -> None:
    async with serving(path):
        path.unlink()
        successor = server._listen(path)
    with successor:
        assert path.is_socket()


async def test_a_stale_socket_is_replaced(path: Path) -> None:
    server._listen(path).close()
    assert path.is_socket()
    async with serving(path):
        assert await ask(path, "count", to=0) == {"done": 0}


async def test_a_socket_that_answers_is_an_error(path: Path) -> None:
    async with serving(path):
        with pytest.raises(ControlError, match="another ftfw answers here; end it first"):
            await serve(path, answer)
        assert await ask(path, "count", to=0) == {"done": 0}


async def test_a_socket_whose_queue_is_full_counts_as_answering(path: Path) -> None:
    with server._listen(path) as listener:
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            with pytest.raises(ControlError, match="another ftfw answers here"):
                await serve(path, answer)


async def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ControlError, match="exists and is not a socket; move it away"):
        await serve(path, answer)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_a_socket_of_another_kind_is_left_alone_while_it_is_used(path: Path, kind: int) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        with pytest.raises(ControlError, match="another program's socket, of another kind; end that one, or set"):
            await serve(path, answer)
        with pytest.raises(ControlError, match="another program's socket"):
            await ask(path, "status")
    async with serving(path):
        assert await ask(path, "count", to=0) == {"done": 0}


@pytest.mark.parametrize("refusing", ["pathlib.Path.lstat", "pathlib.Path.unlink", "socket.socket.connect"])
async def test_a_path_that_may_not_be_looked_at_is_an_error_that_says_so(
    path: Path, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    server._listen(path).close()
    monkeypatch.setattr(refusing, refuse)
    with pytest.raises(
        ControlError, match=r"control\.sock: cannot .*: Permission denied; run ftfw as .* or set control"
    ):
        await serve(path, answer)


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match=r"cannot make its directory: .*; set control"):
        await serve(tmp_path / "file" / "control.sock", answer)


def test_no_daemon(path: Path) -> None:
    with pytest.raises(ControlError, match="no such socket: ftfw is not running"):
        call(path, "status")
    server._listen(path).close()
    with pytest.raises(ControlError, match="nobody answers: ftfw is not running; start it with"):
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

    listener = trio.SocketListener(trio.socket.from_stdlib_socket(server._listen(path)))
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_once, listener)
        with pytest.raises(ControlError, match=message):
            await ask(path, "status")


async def test_a_daemon_that_says_nothing(path: Path) -> None:
    async with serving(path):
        with pytest.raises(ControlError, match="the daemon hangs"):
            await ask(path, "slow", s=60, silence_max_s=0.05)


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


def test_the_client_imports_nothing_heavy() -> None:
    """It is on the failover path."""
    heavy = {"trio", "pydantic", "rich", "asyncio"}
    code = f"import sys, ftfw.control.client; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
