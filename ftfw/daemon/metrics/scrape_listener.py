"""Answers Prometheus: serves /metrics over HTTP on the configured address.

A client that hangs, sends garbage, reads slowly or opens many connections costs the daemon a bounded amount of memory
and no time.
"""

import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import h11
import trio
from prometheus_client import CONTENT_TYPE_LATEST

from ftfw.config.value_types import Endpoint

log = logging.getLogger(__name__)

CLIENTS_MAX: Final = 8  # at once; further connections are closed without an answer
REQUEST_BYTES_MAX: Final = 8192
RETRY_S: Final = 1.0  # between two attempts to listen
DEADLINE_S: Final = 5.0  # from the connection to the last byte of the answer
READ_BYTES: Final = 4096
REMEDY: Final = "name an address of this host, and a port that no other program uses"
TEXT: Final = "text/plain; charset=utf-8"


class ScrapeListener:
    """Answers scrapes.  Logs failures and tries again; a failure never disturbs the daemon's other work."""

    def __init__(self, listen: Endpoint, exposition: Callable[[], bytes]) -> None:
        self._listen = listen
        self._exposition = exposition
        self._clients = trio.CapacityLimiter(CLIENTS_MAX)
        self._trouble: str | None = None
        self._failed: Counter[str] = Counter()

    def status(self) -> dict[str, Any]:
        """Return `metrics` of the status: why it does not listen, if so, and failed attempts to listen, by reason."""
        return {"trouble": self._trouble, "failed": dict(self._failed)}

    async def run(self, *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer scrapes until cancelled; started when clients can connect."""
        host, port = self._listen
        while True:
            try:
                listeners = await trio.open_tcp_listeners(port, host=host)
                break
            except (socket.gaierror, UnicodeError) as error:  # UnicodeError: a name that cannot be sent to a resolver
                self._failed["unresolved"] += 1
                self._report(f"{host} port {port}: {getattr(error, 'strerror', None) or error}")
            except OSError as error:
                self._failed[errno.errorcode.get(error.errno or 0, "other").lower()] += 1
                self._report(f"{host} port {port}: {error.strerror or error}")
            await trio.sleep(RETRY_S)
        if self._trouble is not None:
            log.info("metrics.listen: %s port %d: listening for Prometheus", host, port)
        self._trouble = None
        await trio.serve_listeners(self._attend, listeners, task_status=task_status)

    def _report(self, found: str) -> None:
        before, self._trouble = self._trouble, f"metrics.listen: {found}; {REMEDY}"
        if self._trouble != before:
            log.warning("%s; ftfw tries again every %g s", self._trouble, RETRY_S)

    async def _attend(self, stream: trio.SocketStream) -> None:
        """Answer one request of one client."""
        async with stream:
            try:
                self._clients.acquire_nowait()
            except trio.WouldBlock:
                return
            try:
                with trio.move_on_after(DEADLINE_S):
                    await _answer(stream, self._exposition)
            except trio.BrokenResourceError:
                pass  # the client disconnected
            except Exception:
                log.exception("metrics: answering a client failed")
            finally:
                self._clients.release()


async def _answer(stream: trio.SocketStream, exposition: Callable[[], bytes]) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
    is_head = False
    try:
        request = await _read(stream, connection)
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
    whole = connection.send(h11.Response(status_code=status, reason=status.phrase, headers=headers)) or b""
    if not is_head:
        whole += connection.send(h11.Data(data=body)) or b""
    await stream.send_all(whole)


async def _read(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
    """Return the request, or None if the client disconnected.  Raises RemoteProtocolError if it is not HTTP."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await stream.receive_some(READ_BYTES))


def _respond(request: h11.Request, exposition: Callable[[], bytes]) -> tuple[HTTPStatus, bytes, str]:
    if request.target.partition(b"?")[0] != b"/metrics":
        return HTTPStatus.NOT_FOUND, b"the metrics are at /metrics\n", TEXT
    if request.method not in {b"GET", b"HEAD"}:
        return HTTPStatus.METHOD_NOT_ALLOWED, b"metrics are read with GET\n", TEXT
    try:
        return HTTPStatus.OK, exposition(), CONTENT_TYPE_LATEST
    except Exception:
        log.exception("metrics: a scrape failed")
        return HTTPStatus.INTERNAL_SERVER_ERROR, b"the scrape failed; see the daemon's log\n", TEXT
