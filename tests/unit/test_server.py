# ruff: noqa: ASYNC240  (looking whether a file is there is no work)
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ftfw.control import server
from ftfw.control.client import ControlError, call
from ftfw.control.server import Progress, serve
from ftfw.control.socket_file import open_listener


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
        assert "an answer was not completed" in caplog.text
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


async def test_the_socket_is_removed_on_exit(path: Path) -> None:
    async with serving(path):
        assert path.is_socket()
    assert not path.exists()


async def test_a_successors_socket_is_not_removed(path: Path) -> None:
    async with serving(path):
        path.unlink()
        successor = open_listener(path)
    with successor:
        assert path.is_socket()


async def test_a_stale_socket_is_replaced(path: Path) -> None:
    open_listener(path).close()
    assert path.is_socket()
    async with serving(path):
        assert await ask(path, "count", to=0) == {"done": 0}


async def test_a_socket_that_answers_is_an_error(path: Path) -> None:
    async with serving(path):
        with pytest.raises(ControlError, match="another ftfw answers here; end it first"):
            await serve(path, answer)
        assert await ask(path, "count", to=0) == {"done": 0}


async def test_a_daemon_that_says_nothing(path: Path) -> None:
    async with serving(path):
        with pytest.raises(ControlError, match="the daemon hangs"):
            await ask(path, "slow", s=60, silence_max_s=0.05)
