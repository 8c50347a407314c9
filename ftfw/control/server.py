"""Serves commands on the control socket; `ftfw.control.client` describes the protocol.

A client that hangs, sends garbage, reads slowly or disconnects costs the daemon a bounded amount of memory and no time.
A command that has been read is executed to its end, whether or not its client still waits.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import trio

from ftfw.control.client import ControlError
from ftfw.control.socket_file import identity, open_listener, remove_own

log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[dict[str, Any], Progress], Awaitable[dict[str, Any]]]

REQUEST_LENGTH_MAX = 4096  # bytes; a longer request is an error
REQUEST_DEADLINE_S = 5.0  # from the connection to the end of the request line
WRITE_DEADLINE_S = 5.0  # a client that reads nothing for so long is dropped
# Commands of a failover are never refused, however many come: `role_changer` bounds how many of them wait.
ROLE_COMMANDS = frozenset({"promote", "demote", "notify"})
CLIENTS_MAX = 16  # at once, with other commands; more get an error
CONNECTIONS_MAX = 512  # at once, whether or not their command has come; more are not accepted until one ends
PROGRESS_QUEUE_MAX = 64  # lines; those that a slow client leaves no room for are dropped
ENTRIES_PER_CHUNK = 64  # encoded between two checkpoints


async def serve(path: Path, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Answer commands at `path` with `handler` until cancelled; started once clients can connect.

    The handler gets a request as soon as it has been read.  The request's `arrival` numbers the connections: of two
    requests read at the same time, the one with the higher number came later.  The handler's result may have iterators
    in place of lists: they are read in small chunks.  ControlError from the handler becomes the client's error line;
    any other exception is logged, and the client gets an error that says so.

    Raises ControlError if another process listens at `path`, or if the file cannot be created.
    """
    listener = open_listener(path)
    own = identity(path)
    try:
        with trio.socket.from_stdlib_socket(listener) as listening:
            async with trio.open_nursery() as nursery:
                task_status.started()
                await _Server(handler, nursery).accept_all(listening)
    finally:
        remove_own(path, own)


class _Server:
    """Serves the clients of one socket."""

    def __init__(self, handler: Handler, nursery: trio.Nursery) -> None:
        self._handler = handler
        self._nursery = nursery
        self._connections = trio.Semaphore(CONNECTIONS_MAX)
        self._served = 0  # clients that count towards CLIENTS_MAX

    async def accept_all(self, listening: trio.socket.SocketType) -> None:
        for arrival in count():
            await self._connections.acquire()
            stream = trio.SocketStream(await _accept(listening))
            self._nursery.start_soon(self._attend, stream, arrival)

    async def _attend(self, stream: trio.SocketStream, arrival: int) -> None:
        """Read one client's request, execute it, and write the result."""
        try:
            async with stream:
                try:
                    request = await _read_request(stream)
                except ControlError as error:
                    await _write(stream, _line({"error": str(error)}))
                    return
                if request is not None:
                    await self._admit(stream, {**request, "arrival": arrival})
        finally:
            self._connections.release()

    async def _admit(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        if request["command"] in ROLE_COMMANDS:
            await self._answer(stream, request)
        elif self._served < CLIENTS_MAX:
            self._served += 1
            try:
                await self._answer(stream, request)
            finally:
                self._served -= 1
        else:
            await _write(stream, _line({"error": f"{CLIENTS_MAX} clients are being served already; try again"}))

    async def _answer(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        progress, lines = trio.open_memory_channel[dict[str, Any]](PROGRESS_QUEUE_MAX)

        async def report(what: dict[str, Any]) -> None:
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                progress.send_nowait({"progress": what})
            await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write_lines, stream, lines)
            with progress:
                reply = await _execute(self._handler, request, report)
        await _write_reply(stream, reply)


async def _accept(listening: trio.socket.SocketType) -> trio.socket.SocketType:
    while True:
        try:
            accepted, _ = await listening.accept()
        except OSError as error:
            if error.errno not in {
                errno.EMFILE,
                errno.ENFILE,
                errno.ENOBUFS,
                errno.ENOMEM,
                errno.ECONNABORTED,
            }:
                raise
            log.warning("control socket: cannot accept a client: %s", error.strerror)
            await trio.sleep(0.1)
        else:
            return accepted


async def _read_request(stream: trio.SocketStream) -> dict[str, Any] | None:
    """Return the request, or None if the client disconnected.  Raises ControlError if it is not a request."""
    received = bytearray()
    with trio.move_on_after(REQUEST_DEADLINE_S) as deadline, contextlib.suppress(trio.BrokenResourceError):
        while b"\n" not in received and len(received) < REQUEST_LENGTH_MAX:
            chunk = await stream.receive_some(REQUEST_LENGTH_MAX - len(received))
            if not chunk:
                return None
            received += chunk
    if deadline.cancelled_caught:
        raise ControlError(f"no request within {REQUEST_DEADLINE_S:.0f} s")
    return parse_request(bytes(received))


def parse_request(received: bytes) -> dict[str, Any]:
    """Return the request in the bytes that a client has sent.  Raises ControlError if there is none."""
    line, end, _ = received.partition(b"\n")
    if not end:
        raise ControlError(f"a request is one line of at most {REQUEST_LENGTH_MAX} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlError("a request is one line of JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise ControlError('a request is a JSON object with a "command"')
    return request


async def _execute(handler: Handler, request: dict[str, Any], report: Progress) -> dict[str, Any]:
    try:
        return {"result": await handler(request, report)}
    except ControlError as error:
        return {"error": str(error)}
    except Exception as error:
        log.exception("control command %s failed", request["command"])
        return {"error": f"{request['command']} failed inside the daemon ({type(error).__name__}); see its log"}


async def _write_lines(stream: trio.SocketStream, lines: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
    with lines:
        async for line in lines:
            if not await _write(stream, _line(line)):
                return


async def _write_reply(stream: trio.SocketStream, reply: dict[str, Any]) -> None:
    """Write the closing line piece by piece: it may have a million entries."""
    try:
        for piece in _pieces(reply):
            if not await _write(stream, piece):
                return
    except Exception:
        log.exception("control socket: an answer was not completed")


def _pieces(reply: dict[str, Any]) -> Iterator[bytes]:
    """Yield `reply` as a line; of lists and iterators directly in its result, a few items at a time."""
    if "result" not in reply:
        yield _line(reply)
        return
    yield b'{"result": {'
    for position, (key, value) in enumerate(reply["result"].items()):
        yield f"{', ' if position else ''}{json.dumps(key)}: ".encode()
        if isinstance(value, list | Iterator):
            yield from _list_pieces(iter(value))
        else:
            yield json.dumps(value).encode()
    yield b"}}\n"


def _list_pieces(items: Iterator[Any]) -> Iterator[bytes]:
    yield b"["
    separator = b""
    while chunk := list(islice(items, ENTRIES_PER_CHUNK)):
        yield separator + json.dumps(chunk)[1:-1].encode()
        separator = b", "
    yield b"]"


async def _write(stream: trio.SocketStream, data: bytes) -> bool:
    """Write to the client; return whether everything was sent in time."""
    with trio.move_on_after(WRITE_DEADLINE_S), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(data)
        return True
    return False


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
