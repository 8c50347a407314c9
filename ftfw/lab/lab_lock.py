"""Locks a running lab, so that `--clean` does not remove it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ftfw.lab.lab_host import LabError

LOCK_FOLDER = Path("/run/lock")


@contextmanager
def lab_lock(lab: str) -> Iterator[None]:
    """Hold the lock of the lab of that name while the context lasts.

    Raises LabError if another process holds it. The kernel releases the lock when this process ends, however it ends.
    """
    path = LOCK_FOLDER / lab
    lock = _open_locked(path)
    if lock is None:
        raise LabError(f"{lab} is under way: wait until it has ended")
    try:
        yield
    finally:
        with suppress(OSError):  # the file may be one that root left behind, and this process not root's
            path.unlink()
        os.close(lock)


def _open_locked(path: Path) -> int | None:
    """Open and lock a file, creating it if necessary, and return its descriptor; None if it is already locked."""
    LOCK_FOLDER.mkdir(exist_ok=True)
    while True:
        # In two steps: O_CREAT is refused for another user's file in a sticky directory (fs.protected_regular).
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644))
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(lock).st_ino:
                    return lock
        except BlockingIOError:
            os.close(lock)
            return None
        os.close(lock)  # the previous holder has removed the file in the meantime
