"""Puts frames into a stream of bytes, each after its length: four bytes in network order.  Pure."""

from struct import Struct
from typing import Final

from ftfw.security.frames import OVERHEAD

FRAME_MAX_BYTES: Final = 65535  # no `mtu` allows more
_LENGTH: Final = Struct(">I")


class FramingError(Exception):
    """Raised for a length that no frame has: the sender is no node."""


def framed(frame: bytes) -> bytes:
    """Return the frame with its length before it."""
    return _LENGTH.pack(len(frame)) + frame


class Splitter:
    """Cuts a stream into its frames, in whatever pieces it arrives.  Keeps at most one frame."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes.  Raises FramingError, after which the stream cannot be read on."""
        data = self._rest + data
        frames = []
        start, end = 0, len(data)
        while start + _LENGTH.size <= end:
            length = _LENGTH.unpack_from(data, start)[0]
            if not OVERHEAD <= length <= FRAME_MAX_BYTES:
                raise FramingError(f"a frame of {length} bytes")
            first, last = start + _LENGTH.size, start + _LENGTH.size + length
            if last > end:
                break
            frames.append(data[first:last])
            start = last
        self._rest = data[start:]
        return frames
