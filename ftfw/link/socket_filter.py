"""Builds the socket filter of a UDP link, a program of classic BPF.  Pure.

A frame of another protocol version passes under any key, and so does a frame under this node's own name: the daemon
refuses both, and has to receive them to report them.
"""

from collections.abc import Iterable
from typing import Final

from ftfw.security.frames import MAGIC, VERSION

_PAYLOAD: Final = 8  # the filter of a UDP socket sees the UDP header first
_LOAD_WORD: Final = 0x20
_LOAD_HALF: Final = 0x28
_LOAD_BYTE: Final = 0x30
_JUMP_IF_EQUAL: Final = 0x15
_DROP: Final = (0x06, 0, 0, 0)
_PASS: Final = (0x06, 0, 0, 0xFFFFFFFF)


def program(key_ids: Iterable[bytes]) -> list[tuple[int, int, int, int]]:
    """Return a program that passes frames under one of these keys, or under any key if none is given.

    The kernel drops a datagram when the program loads bytes beyond its end.
    """
    code = [
        (_LOAD_HALF, 0, 0, _PAYLOAD),
        (_JUMP_IF_EQUAL, 1, 0, int.from_bytes(MAGIC, "big")),
        _DROP,
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 2),
        (_JUMP_IF_EQUAL, 1, 0, VERSION),
        _PASS,
        (_LOAD_WORD, 0, 0, _PAYLOAD + 4),
    ]
    keys = [int.from_bytes(key_id, "big") for key_id in key_ids]
    for key in keys:
        code += [(_JUMP_IF_EQUAL, 0, 1, key), _PASS]
    return [*code, _DROP if keys else _PASS]
