"""Writes and reads link keys: 32 random bytes, as one line of base64 in a file that only its owner may read."""

from __future__ import annotations

import base64
import os
import pwd
import secrets
import stat
from pathlib import Path

KEY_LENGTH = 32  # bytes
FILE_LENGTH_MAX = 1024  # bytes; a key's line has 45
SERVICE_USER = "ftfw"  # conf/systemd/ftfw.sysusers


class KeyFileError(Exception):
    """Raised if a key file cannot be used or made; the message has its path, what was found, and the remedy."""


def generate(path: Path) -> None:
    """Write a new key to `path`, mode 0600.  Raises KeyFileError if the file exists, or cannot be written."""
    line = base64.b64encode(secrets.token_bytes(KEY_LENGTH)) + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path}: exists and is not overwritten; name another file, or move it away") from None
    except OSError as error:
        raise KeyFileError(
            f"{path}: cannot be created: {error.strerror}; name a file in a directory you may write"
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from None


def read(path: Path) -> bytes:
    """Return the key in the file at `path`, 32 bytes.  Raises KeyFileError if that fails or others have access."""
    try:
        # Without O_NONBLOCK a FIFO by that name would keep the daemon from starting.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyFileError(
            f"{path}: no such file; make a key with `ftfw keygen {path}` and copy it to the other nodes"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}; run ftfw as the file's owner or root") from None
    try:
        _check_status(path, os.fstat(descriptor))
        content = os.read(descriptor, FILE_LENGTH_MAX)
    finally:
        os.close(descriptor)
    try:
        key = base64.b64decode(content.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_LENGTH:
        raise KeyFileError(
            f"{path}: damaged: found {len(content)} bytes that are not a key; copy it again from another"
            " node, or make a new one with `ftfw keygen FILE`"
        )
    return key


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path}: not a regular file; make a key with `ftfw keygen FILE`")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyFileError(f"{path}: mode {mode:04o} gives other users access to the key; `chmod 600 {path}`")
    if status.st_uid not in {0, os.geteuid(), *_service_uid()}:
        raise KeyFileError(f"{path}: belongs to user {status.st_uid}, who could change it; `chown root {path}`")


def _service_uid() -> tuple[int, ...]:
    """Return the user id of the daemon under systemd, if there is such a user: root checks files that belong to it."""
    try:
        return (pwd.getpwnam(SERVICE_USER).pw_uid,)
    except KeyError:
        return ()
