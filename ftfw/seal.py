"""Frames: a clear header, authenticated, and a sealed body.  Pure; what is random comes in as an argument.

header  magic 'FW', version, 0 · key id (4) · sender (8) · epoch (32) · counter (8)
body    AES-256-GCM-SIV (RFC 8452) with the header as associated data, the counter as nonce, and a key of its own for
        each sender and epoch: HKDF-SHA256 of the key file, salted with the epoch

An epoch is 32 random bytes drawn at each start of a process.  GCM-SIV, because a virtual machine that is resumed from
a snapshot may use a counter twice.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ftfw.window import ReplayWindow

VERSION: Final = 1
MAGIC: Final = b"FW"
EPOCH_SIZE: Final = 32
_HEADER: Final = Struct(">2sBx4s8s32sQ")
HEADER_SIZE: Final = _HEADER.size
_IDENTITY: Final = slice(4, 48)  # key id, sender, epoch
OVERHEAD: Final = HEADER_SIZE + 16  # and GCM-SIV's tag
EPOCHS_MAX: Final = 64  # epochs whose key and window are kept; the one unheard for longest goes first


class RefusedError(Exception):
    """A frame that is not taken; `reason` is what it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Opened(NamedTuple):
    """An authentic frame."""

    epoch: bytes
    counter: int
    body: bytes


def sender_id(name: str) -> bytes:
    """A node's name in a header."""
    return sha256(b"ftfw node " + name.encode()).digest()[:8]


def _key_id(key: bytes) -> bytes:
    return sha256(b"ftfw key " + key).digest()[:4]


def _cipher(key: bytes, sender: bytes, epoch: bytes) -> AESGCMSIV:
    return AESGCMSIV(HKDF(algorithm=SHA256(), length=32, salt=epoch, info=b"ftfw frame 1" + sender).derive(key))


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


class Sealer:
    """Seals this node's frames in one epoch."""

    def __init__(self, key: bytes, *, name: str, epoch: bytes) -> None:
        self._key_id = _key_id(key)
        self._sender = sender_id(name)
        self._epoch = epoch
        self._cipher = _cipher(key, self._sender, epoch)
        self._counter = 0

    def seal(self, body: bytes) -> bytes:
        """The frame that carries `body`."""
        self._counter += 1
        header = _HEADER.pack(MAGIC, VERSION, self._key_id, self._sender, self._epoch, self._counter)
        return header + self._cipher.encrypt(_nonce(self._counter), body, header)


class Opener:
    """Opens other nodes' frames: size, header, seal, replay, in this order; only what passes changes its state."""

    def __init__(self, keys: Sequence[bytes], *, name: str) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self._own = sender_id(name)
        self._epochs: OrderedDict[bytes, tuple[AESGCMSIV, ReplayWindow]] = OrderedDict()

    def open(self, frame: bytes) -> Opened:
        """The body of an authentic frame that was not seen before; RefusedError for anything else."""
        if len(frame) < OVERHEAD:
            raise RefusedError("short")
        magic, version, key_id, sender, epoch, counter = _HEADER.unpack_from(frame)
        if magic != MAGIC:
            raise RefusedError("foreign")
        if version != VERSION:
            raise RefusedError("version")
        if sender == self._own:
            raise RefusedError("own_name")
        if key_id not in self._keys:
            raise RefusedError("unknown_key")
        identity = frame[_IDENTITY]
        known = self._epochs.get(identity)
        cipher, window = known or (_cipher(self._keys[key_id], sender, epoch), ReplayWindow())
        try:
            body = cipher.decrypt(_nonce(counter), frame[HEADER_SIZE:], frame[:HEADER_SIZE])
        except InvalidTag:
            raise RefusedError("forged") from None
        if not window.is_fresh(counter):
            raise RefusedError("replayed")
        window.accept(counter)
        if known is None:
            self._epochs[identity] = (cipher, window)
            if len(self._epochs) > EPOCHS_MAX:
                self._epochs.popitem(last=False)
        else:
            self._epochs.move_to_end(identity)
        return Opened(epoch, counter, body)
