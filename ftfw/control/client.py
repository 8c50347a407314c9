"""Sends commands to the daemon through its control socket.

The protocol is lines of JSON: the client sends one request, the server sends progress and one closing line, which is a
result or an error.  This module imports nothing heavy: `ftfw notify` and `ftfw promote` are on the failover path.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftfw.config.default_paths import DEFAULT_CONFIG, DEFAULT_SOCKET

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_TIMEOUT_S = 5.0
SILENCE_MAX_S = 60.0  # a daemon that sends nothing for so long is regarded as dead


class ControlError(Exception):
    """Raised if a command could not be executed; the message has the reason and the remedy."""


class SilentError(ControlError):
    """Raised if a daemon listens, but does not answer."""


def call(
    path: Path,
    command: str,
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    silence_max_s: float = SILENCE_MAX_S,
    **arguments: Any,
) -> dict[str, Any]:
    """Have the daemon that listens at `path` execute `command`, and return its result.

    `on_progress` gets the daemon's progress reports.  Raises ControlError if no daemon listens, if it refuses, or
    if it disconnects before the end; SilentError if it sends nothing for `silence_max_s` seconds.
    """
    with _connected(path, silence_max_s) as connection:
        try:
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break  # cut off within a line
                    kind, content = parse_reply(path, line)
                    if kind == "result":
                        return content
                    if on_progress is not None:
                        on_progress(content)
        except TimeoutError:
            message = f"{path}: no answer for {silence_max_s:.0f} s; the daemon hangs: see its log, restart it"
            raise SilentError(message) from None
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror}; see the daemon's log") from None
    raise ControlError(f"{path}: the daemon closed the connection before it was done; see its log")


def parse_reply(path: Path, line: bytes) -> tuple[str, dict[str, Any]]:
    """Return the kind of a server's line, "progress" or "result", and its content.

    Raises ControlError for an error line, and for anything that is not a line of this protocol.
    """
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if isinstance(reply, dict):
        if "error" in reply:
            raise ControlError(str(reply["error"]))
        for kind in ("progress", "result"):
            if isinstance(reply.get(kind), dict):
                return kind, reply[kind]
    raise ControlError(f"{path}: found something that is not an answer of ftfw; set control.socket to ftfw's socket")


def _connected(path: Path, silence_max_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(min(CONNECT_TIMEOUT_S, silence_max_s))
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        kind = SilentError if isinstance(error, BlockingIOError | TimeoutError) else ControlError
        raise kind(_why_not_connected(path, error)) from None
    connection.settimeout(silence_max_s)
    return connection


def _why_not_connected(path: Path, error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return f"{path}: no such socket: ftfw is not running, or its control.socket is another path"
        case ConnectionRefusedError():
            return f"{path}: no process listens: ftfw is not running; start it with `ftfw --role active|backup`"
        case PermissionError():
            return f"{path}: permission denied; run this as root, or as the user that ftfw runs as"
        case BlockingIOError() | TimeoutError():
            return f"{path}: the daemon does not accept connections; it hangs: see its log, restart it"
    if error.errno == errno.EPROTOTYPE:
        return f"{path}: another program uses it as a socket of another kind; set control.socket to another path"
    return f"{path}: {error.strerror or error}"


def socket_of(config: Path | None) -> tuple[Path, str | None]:
    """Return the control socket that the file at `config` (None: the default file) names, and a warning or None.

    No mistake in the file, made while the daemon runs, may prevent a takeover: only this key is read, and a file that
    is not TOML is searched line by line.  Without a valid key the default socket is returned.  Without `config`, the
    file may be missing.
    """
    file = config or DEFAULT_CONFIG
    try:
        content = file.read_bytes()
    except OSError as error:
        expected = config is None and isinstance(error, FileNotFoundError)
        return DEFAULT_SOCKET, None if expected else f"{file}: {error.strerror}; trying {DEFAULT_SOCKET}"
    try:
        control = tomllib.loads(content.decode()).get("control")
    except (ValueError, RecursionError) as error:
        path = _socket_by_line(content.decode(errors="replace"))
        return path, f"{file}: {error}; trying {path}, and the next start of ftfw will fail"
    found = control.get("socket", str(DEFAULT_SOCKET)) if isinstance(control, dict) else str(DEFAULT_SOCKET)
    if not isinstance(found, str):
        problem = f"{file}: control.socket: found {found!r}; expected an absolute path"
        return DEFAULT_SOCKET, f"{problem}; trying {DEFAULT_SOCKET}"
    return Path(found), None


def _socket_by_line(text: str) -> Path:
    """Return the control socket that a line of a file that is not TOML names, or the default one."""
    section = ""
    for line in text.splitlines():
        if header := re.match(r"\s*\[+\s*([^\]\s]*)", line):
            section = f"{header[1]}."
        elif (key := re.match(r"\s*([\w.]+)\s*=\s*([\"'])([^\"'\\\0]+)\2", line)) and section + key[
            1
        ] == "control.socket":
            return Path(key[3])
    return DEFAULT_SOCKET
