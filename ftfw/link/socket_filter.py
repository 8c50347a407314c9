"""What the kernel lets through to a link's socket, as a program of classic BPF.  Pure.

A frame of another version passes whatever its key, and one under this node's own name, too: the daemon refuses both,
and has to see them to say so.
"""

from collections.abc import Iterable
from typing import Final

from ftfw.security.frames import MAGIC, VERSION
from ftfw.system.recvmmsg import Instruction

_PAYLOAD: Final = 8  # a filter of a UDP socket sees the UDP header first
_LOAD_WORD: Final = 0x20
_LOAD_HALF: Final = 0x28
_LOAD_BYTE: Final = 0x30
_JUMP_IF_EQUAL: Final = 0x15
_DROP: Final = (0x06, 0, 0, 0)
_PASS: Final = (0x06, 0, 0, 0xFFFFFFFF)


def program(key_ids: Iterable[bytes]) -> list[Instruction]:
    """Let pass what begins as a frame does, under one of these keys; under any if none is given.

    A load beyond the datagram's end drops it.
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
