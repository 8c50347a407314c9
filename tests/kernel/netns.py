"""How a thread of the tests gets into a network namespace."""

import ctypes
import os

CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def leave() -> None:
    """Put this thread into a new namespace."""
    _checked(_LIBC.unshare(CLONE_NEWNET))


def enter(descriptor: int) -> None:
    """Put this thread into the namespace that a file descriptor stands for."""
    _checked(_LIBC.setns(descriptor, CLONE_NEWNET))


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
