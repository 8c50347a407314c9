"""Creates the control socket's file, and removes it again."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Final

from ftfw.control.client import ControlError

QUEUE_MAX: Final = 512  # connections that the kernel holds until they are accepted; it refuses more

FileIdentity = tuple[int, int]
"""A file's device and inode."""


def open_listener(path: Path) -> socket.socket:
    """Return a socket that listens at `path`, in a file of mode 0600; a file at which no process listens is replaced.

    Raises ControlError if another process listens there, or if the file cannot be created.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ControlError(f"{path}: cannot create its directory: {error.strerror}; set control.socket") from None
    try:
        # Of two daemons that start together, neither may regard the other's new socket as stale.
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


def identity(path: Path) -> FileIdentity | None:
    """Return which file is at `path`; None if there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def remove_own(path: Path, own: FileIdentity | None) -> None:
    """Remove the file at `path`, unless another daemon has replaced it."""
    if identity(path) == own:
        path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    """Return whether a socket file is there at which no process listens.

    Raises ControlError if a process listens there, or if the file is not a stream socket; OSError if it cannot be seen.
    """
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
            pass  # the queue of connections is full: a process listens
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            raise ControlError(
                f"{path}: another program uses it as a socket of another kind; end that program, or set control.socket"
                " to another path"
            ) from None
    raise ControlError(f"{path}: another ftfw answers here; end it first, or set control.socket to another path")


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of the socket's own inode, less the umask (net/unix/af_unix.c).  So the file
        # is never open to others, and files of other threads keep their modes, which a changed umask would alter.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen(QUEUE_MAX)
    except OSError as error:
        listener.close()
        raise ControlError(f"{path}: cannot create the control socket: {error.strerror}; set control.socket") from None
    return listener
