"""The control socket's protocol, seen from a command: one request line, progress lines, one closing line.

Nothing heavy is imported here: `ftfw notify` and `ftfw promote` are on the failover path.
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
SILENCE_MAX_S = 60.0  # a daemon that has nothing to say for so long is taken for dead


class ControlError(Exception):
    """A command could not be carried out; the message says why, and what to do about it."""


class SilentError(ControlError):
    """There is a daemon, and it says nothing."""


def call(
    path: Path,
    command: str,
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    silence_max_s: float = SILENCE_MAX_S,
    **arguments: Any,
) -> dict[str, Any]:
    """Have the daemon behind the socket at `path` carry out `command`, and return its result.

    `on_progress` sees what the daemon reports on the way. Raises ControlError if there is no daemon, if it
    refuses, or if it goes away or silent before the end.
    """
    with _connected(path, silence_max_s) as connection:
        try:
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break  # cut off within a line
                    kind, content = _parse(path, line)
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


def _parse(path: Path, line: bytes) -> tuple[str, dict[str, Any]]:
    """Return a line's kind, "progress" or "result", and its content; ControlError for anything else."""
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
    raise ControlError(f"{path}: this is not an answer of ftfw; does the socket belong to another program?")


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
            return f"{path}: nobody answers: ftfw is not running; start it with `ftfw --role active|backup`"
        case PermissionError():
            return f"{path}: permission denied; run this as root, or as the user that ftfw runs as"
        case BlockingIOError() | TimeoutError():
            return f"{path}: the daemon does not take connections; it hangs: see its log, restart it"
    if error.errno == errno.EPROTOTYPE:
        return f"{path}: another program's socket, of another kind; set control.socket to another path"
    return f"{path}: {error.strerror or error}"


def socket_of(config: Path | None) -> tuple[Path, str | None]:
    """Return the control socket that the file at `config` (None: the default file) names, and any warning.

    Nothing but that one key is looked at, and a file that is no TOML is gone over line by line: no slip, made while the
    daemon runs, shall keep a takeover from it. Where no socket is to be found it is the default one. Without `config`,
    the file may be missing.
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
    """Return the control socket that a line of a file names which is no TOML."""
    section = ""
    for line in text.splitlines():
        if header := re.match(r"\s*\[+\s*([^\]\s]*)", line):
            section = f"{header[1]}."
        elif (key := re.match(r"\s*([\w.]+)\s*=\s*([\"'])([^\"'\\\0]+)\2", line)) and section + key[
            1
        ] == "control.socket":
            return Path(key[3])
    return DEFAULT_SOCKET
