"""Where Prometheus asks: HTTP on the configured address, and nothing there but /metrics.

A client that hangs, sends garbage, reads slowly or brings friends costs the daemon a bounded amount of memory and no
time.
"""

import logging
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Final

import h11
import trio
from prometheus_client import CONTENT_TYPE_LATEST

from ftfw.config_values import Endpoint

log = logging.getLogger(__name__)

CLIENTS_MAX: Final = 8  # at once; more are closed unheard
REQUEST_BYTES_MAX: Final = 8192
DEADLINE_S: Final = 5.0  # from the connection to the last byte of the answer
READ_BYTES: Final = 4096
TEXT: Final = "text/plain; charset=utf-8"


class ListenError(Exception):
    """Nobody can listen there; the message says why, and what to do about it."""


async def serve(
    listen: Endpoint,
    exposition: Callable[[], bytes],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until cancelled; started when clients can connect.  Raises ListenError."""
    try:
        listeners = await trio.open_tcp_listeners(listen.port, host=listen.host)
    except (OSError, socket.gaierror) as error:
        raise ListenError(
            f"metrics.listen: {listen.host} port {listen.port}: {error.strerror};"
            " name an address of this host, and a port that nobody else has"
        ) from None
    clients = trio.CapacityLimiter(CLIENTS_MAX)
    await trio.serve_listeners(partial(_attend, clients, exposition), listeners, task_status=task_status)


async def _attend(clients: trio.CapacityLimiter, exposition: Callable[[], bytes], stream: trio.SocketStream) -> None:
    """One client, one request."""
    async with stream:
        try:
            clients.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            with trio.move_on_after(DEADLINE_S):
                await _answer(stream, exposition)
        except trio.BrokenResourceError:
            pass  # it went away
        finally:
            clients.release()


async def _answer(stream: trio.SocketStream, exposition: Callable[[], bytes]) -> None:
    conversation = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
    is_head = False
    try:
        request = await _read(stream, conversation)
    except h11.RemoteProtocolError as error:
        status, body, kind = HTTPStatus(error.error_status_hint), b"not HTTP\n", TEXT
    else:
        if request is None:
            return
        is_head = request.method == b"HEAD"
        status, body, kind = _respond(request, exposition)
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    whole = conversation.send(h11.Response(status_code=status, reason=status.phrase, headers=headers)) or b""
    if not is_head:
        whole += conversation.send(h11.Data(data=body)) or b""
    await stream.send_all(whole)


async def _read(stream: trio.SocketStream, conversation: h11.Connection) -> h11.Request | None:
    """The request; None if the client went away.  Raises RemoteProtocolError."""
    while True:
        event = conversation.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        conversation.receive_data(await stream.receive_some(READ_BYTES))


def _respond(request: h11.Request, exposition: Callable[[], bytes]) -> tuple[HTTPStatus, bytes, str]:
    if request.target.partition(b"?")[0] != b"/metrics":
        return HTTPStatus.NOT_FOUND, b"the metrics are at /metrics\n", TEXT
    if request.method not in {b"GET", b"HEAD"}:
        return HTTPStatus.METHOD_NOT_ALLOWED, b"metrics are read with GET\n", TEXT
    try:
        return HTTPStatus.OK, exposition(), CONTENT_TYPE_LATEST
    except Exception:
        log.exception("metrics: a scrape failed")
        return HTTPStatus.INTERNAL_SERVER_ERROR, b"it failed; see the daemon's log\n", TEXT
