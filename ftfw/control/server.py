"""The control socket's server. `ftfw.control_client` tells the protocol; its names are offered here too.

A client that hangs, sends garbage, reads slowly or goes away costs the daemon a bounded amount of memory and
no time; its command, once read, is carried out to the end whoever listens.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import trio

from ftfw.control.client import ControlError, call

__all__ = ["ControlError", "Handler", "Progress", "call", "serve"]

log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[dict[str, Any], Progress], Awaitable[dict[str, Any]]]

REQUEST_LENGTH_MAX = 4096  # bytes; more is an error
REQUEST_DEADLINE_S = 5.0  # from the connection to the end of the request line
WRITE_DEADLINE_S = 5.0  # a client that takes nothing for so long is dropped
# However many come, what a failover wants is never turned away: `role_changer` bounds how many of them wait.
ROLE_COMMANDS = frozenset({"promote", "demote", "notify"})
CLIENTS_MAX = 16  # with other commands, at once; more are told so and closed
CONNECTIONS_MAX = 512  # at once, with a command or without one yet; more are not accepted until one of them ends
QUEUE_MAX = 512  # connections that the kernel holds until they are accepted; more are refused by it
PROGRESS_QUEUE_MAX = 64  # lines; what a slow client has no room for is left out
ENTRIES_PER_CHUNK = 64  # encoded between two checkpoints


async def serve(path: Path, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Answer commands at `path` with `handler` until cancelled; started once clients can connect.

    The socket file has mode 0600 from its first instant. A file that nobody answers on is replaced;
    ControlError is raised if somebody does, or if the file cannot be made. In a result the handler may put
    iterators for lists: they are read in small chunks. ControlError from the handler is the client's error
    line; any other exception is logged, and the client told so.

    A request is handed over as soon as it is read. `arrival` in it numbers the connections: of two requests that are
    read at the same time the one with the higher number is the later one.
    """
    listener = _listen(path)
    identity = _identity(path)
    try:
        with trio.socket.from_stdlib_socket(listener) as listening:
            async with trio.open_nursery() as nursery:
                task_status.started()
                await _Server(handler, nursery).accept_all(listening)
    finally:
        _remove_own(path, identity)


class _Server:
    """The clients of one socket."""

    def __init__(self, handler: Handler, nursery: trio.Nursery) -> None:
        self._handler = handler
        self._nursery = nursery
        self._connections = trio.Semaphore(CONNECTIONS_MAX)
        self._served = 0  # of those that CLIENTS_MAX is for

    async def accept_all(self, listening: trio.socket.SocketType) -> None:
        for arrival in count():
            await self._connections.acquire()
            stream = trio.SocketStream(await _accept(listening))
            self._nursery.start_soon(self._attend, stream, arrival)

    async def _attend(self, stream: trio.SocketStream, arrival: int) -> None:
        """One client: read the request, carry it out, write what comes of it."""
        try:
            async with stream:
                try:
                    request = await _read_request(stream)
                except ControlError as error:
                    await _write(stream, _line({"error": str(error)}))
                    return
                if request is not None:
                    await self._find_place(stream, {**request, "arrival": arrival})
        finally:
            self._connections.release()

    async def _find_place(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
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
                reply = await _carry_out(self._handler, request, report)
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
    """Return the request, or None if the client went away; ControlError if it is not one."""
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
    """The request in what a client has sent; ControlError if there is none."""
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


async def _carry_out(handler: Handler, request: dict[str, Any], report: Progress) -> dict[str, Any]:
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
    """Write the closing line piece by piece: there may be a million entries in it."""
    try:
        for piece in _pieces(reply):
            if not await _write(stream, piece):
                return
    except Exception:
        log.exception("control socket: an answer broke off")


def _pieces(reply: dict[str, Any]) -> Iterator[bytes]:
    """Encode `reply` as a line; lists and iterators directly in its result, a few items at a time."""
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
    """Whether the client took it in time."""
    with trio.move_on_after(WRITE_DEADLINE_S), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(data)
        return True
    return False


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _listen(path: Path) -> socket.socket:
    """Bind a listening socket to `path`, in place of a stale one; ControlError if somebody answers there."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ControlError(f"{path}: cannot make its directory: {error.strerror}; set control.socket") from None
    try:
        # Two daemons that start together must not take each other's fresh socket for a stale one.
        fcntl.flock(directory, fcntl.LOCK_EX)
        if _is_stale(path):
            path.unlink(missing_ok=True)
        return _bind(path)
    except OSError as error:
        raise ControlError(
            f"{path}: cannot tell who uses it, or remove it: {error.strerror}; run ftfw as the user that owns it and"
            " its directory, or set control.socket to another path"
        ) from None
    finally:
        os.close(directory)


def _is_stale(path: Path) -> bool:
    """Whether there is a socket file that nobody answers on; ControlError if somebody does, or it is no such file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path}: exists and is not a socket; move it away, or set control.socket to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except BlockingIOError:
            pass  # its queue of clients is full: somebody is there
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            raise ControlError(
                f"{path}: another program's socket, of another kind; end that one, or set control.socket to another"
                " path"
            ) from None
    raise ControlError(f"{path}: another ftfw answers here; end it first, or set control.socket to another path")


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of the socket's own inode, less the umask (net/unix/af_unix.c): thus
        # it is never open to others, and no other thread's files are touched, as they would be by umask.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen(QUEUE_MAX)
    except OSError as error:
        listener.close()
        raise ControlError(f"{path}: cannot make the control socket: {error.strerror}; set control.socket") from None
    return listener


def _remove_own(path: Path, identity: tuple[int, int] | None) -> None:
    """Remove the socket file, unless another daemon's has taken its place."""
    if _identity(path) == identity:
        path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
