"""Frames: a clear header, authenticated, and a sealed body.  Pure; what is random comes in as an argument.

header  magic 'FW', version, 0 · key id (4) · sender (8) · epoch (32) · mark (8) · counter (8)
mark    the first bytes of HMAC-SHA256(key, sender and epoch): nobody without the key makes a node derive keys
body    AES-256-GCM-SIV (RFC 8452) with the header as associated data, the counter as nonce, and a key of its own for
        each sender and epoch: HKDF-SHA256 of the key file, salted with the epoch

An epoch is 32 random bytes drawn at each start of a process.  GCM-SIV, because a virtual machine that is resumed from
a snapshot may use a counter twice.
"""

import hmac
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ftfw.security import security_limits as limits

VERSION: Final = 1
MAGIC: Final = b"FW"
SENDER_SIZE: Final = 8
EPOCH_SIZE: Final = 32
_START: Final = MAGIC + bytes((VERSION, 0))
_HEADER: Final = Struct(">4s8s32s8sQ")  # behind the start
HEADER_SIZE: Final = len(_START) + _HEADER.size
_IDENTITY: Final = slice(4, 56)  # key id, sender, epoch, mark
OVERHEAD: Final = HEADER_SIZE + 16  # and GCM-SIV's tag


class RefusedError(Exception):
    """A frame that is not taken; `reason` is what it is counted under, `version` what it says of itself."""

    def __init__(self, reason: str, version: int = VERSION) -> None:
        super().__init__(reason)
        self.reason = reason
        self.version = version


class Opened(NamedTuple):
    """An authentic frame."""

    sender: bytes
    epoch: bytes
    counter: int
    body: bytes


def sender_id(name: str) -> bytes:
    """A node's name in a header."""
    return sha256(b"ftfw node " + name.encode()).digest()[:SENDER_SIZE]


def key_id(key: bytes) -> bytes:
    """Which of several keys sealed a frame."""
    return sha256(b"ftfw key " + key).digest()[:4]


def _cipher(key: bytes, sender: bytes, epoch: bytes) -> AESGCMSIV:
    return AESGCMSIV(HKDF(algorithm=SHA256(), length=32, salt=epoch, info=b"ftfw frame 1" + sender).derive(key))


def _mark(key: bytes, sender: bytes, epoch: bytes) -> bytes:
    return hmac.digest(key, b"ftfw epoch" + sender + epoch, "sha256")[:8]


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


class Sealer:
    """Seals this node's frames in one epoch."""

    def __init__(self, key: bytes, *, name: str, epoch: bytes) -> None:
        self._sender = sender_id(name)
        self._epoch = epoch
        self._counter = 0
        self.rekey(key)

    def rekey(self, key: bytes) -> None:
        """Seal with this key from now on; the counter goes on."""
        self._key_id = key_id(key)
        self._mark = _mark(key, self._sender, self._epoch)
        self._cipher = _cipher(key, self._sender, self._epoch)

    def seal(self, body: bytes) -> bytes:
        """The frame that carries `body`."""
        self._counter += 1
        header = _START + _HEADER.pack(self._key_id, self._sender, self._epoch, self._mark, self._counter)
        return header + self._cipher.encrypt(_nonce(self._counter), body, header)


class Opener:
    """Opens frames that somebody with a key has sealed: size, header, seal, in this order.

    Whether a frame is fresh is not known here; see `conversation`.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers: OrderedDict[bytes, AESGCMSIV] = OrderedDict()
        self.rekey(keys)

    def rekey(self, keys: Sequence[bytes]) -> None:
        """Open what these keys have sealed, and nothing else."""
        self._keys = {key_id(key): key for key in keys}
        self._ciphers.clear()

    def open(self, frame: bytes) -> Opened:
        """What is in an authentic frame; RefusedError for anything else."""
        if len(frame) < OVERHEAD:
            raise RefusedError("short")
        if frame[:4] != _START:
            raise RefusedError("version", frame[2]) if frame[:2] == MAGIC else RefusedError("foreign")
        identity = frame[_IDENTITY]
        cipher = self._ciphers.get(identity) or self._admit(identity, frame)
        _, sender, epoch, _, counter = _HEADER.unpack_from(frame, 4)
        try:
            body = cipher.decrypt(_nonce(counter), frame[HEADER_SIZE:], frame[:HEADER_SIZE])
        except InvalidTag:
            raise RefusedError("forged") from None
        self._ciphers.move_to_end(identity)
        return Opened(sender, epoch, counter, body)

    def _admit(self, identity: bytes, frame: bytes) -> AESGCMSIV:
        identifier, sender, epoch, mark, _ = _HEADER.unpack_from(frame, 4)
        key = self._keys.get(identifier)
        if key is None:
            raise RefusedError("unknown_key")
        if not hmac.compare_digest(mark, _mark(key, sender, epoch)):
            raise RefusedError("forged")
        cipher = self._ciphers[identity] = _cipher(key, sender, epoch)
        if len(self._ciphers) > limits.EPOCHS_MAX:
            self._ciphers.popitem(last=False)
        return cipher
