"""Seals and opens frames: a clear, authenticated header and an encrypted body.  Pure; the caller gives random bytes.

header  magic 'FW', version, 0 · key id (4) · sender (8) · epoch (32) · epoch tag (8) · counter (8)
epoch tag  the first 8 bytes of HMAC-SHA256(key, sender and epoch): without the key nobody makes a node derive keys
body    AES-256-GCM-SIV (RFC 8452) with the header as associated data, the counter as nonce, and a key of its own for
        each sender and epoch: HKDF-SHA256 of the key file, salted with the epoch

An epoch is 32 random bytes.  A node draws a new one when its process starts, when it begins or ends to be active, and
when a peer tells it that its counters have gone back.  The cipher is GCM-SIV, because a virtual machine that is resumed
from a snapshot may use a counter twice.
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
_HEADER: Final = Struct(">4s8s32s8sQ")  # after the start
HEADER_SIZE: Final = len(_START) + _HEADER.size
_IDENTITY: Final = slice(4, 56)  # key id, sender, epoch, epoch tag
OVERHEAD: Final = HEADER_SIZE + 16  # and GCM-SIV's tag


class RefusedError(Exception):
    """Raised if a frame is refused; it is counted under `reason`.  `version` is the protocol version in its header."""

    def __init__(self, reason: str, version: int = VERSION) -> None:
        super().__init__(reason)
        self.reason = reason
        self.version = version


class Opened(NamedTuple):
    """Holds the contents of an authentic frame."""

    sender: bytes
    epoch: bytes
    counter: int
    body: bytes


def sender_id(name: str) -> bytes:
    """Return the 8 bytes that identify a node in a header: a hash of its name."""
    return sha256(b"ftfw node " + name.encode()).digest()[:SENDER_SIZE]


def key_id(key: bytes) -> bytes:
    """Return the 4 bytes that identify in a header the key that sealed the frame: a hash of the key."""
    return sha256(b"ftfw key " + key).digest()[:4]


def _cipher(key: bytes, sender: bytes, epoch: bytes) -> AESGCMSIV:
    return AESGCMSIV(HKDF(algorithm=SHA256(), length=32, salt=epoch, info=b"ftfw frame 1" + sender).derive(key))


def _epoch_tag(key: bytes, sender: bytes, epoch: bytes) -> bytes:
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
        """Seal with this key (32 bytes) from now on; the counter is not reset."""
        self._key_id = key_id(key)
        self._epoch_tag = _epoch_tag(key, self._sender, self._epoch)
        self._cipher = _cipher(key, self._sender, self._epoch)

    def seal(self, body: bytes) -> bytes:
        """Return the frame that carries `body`."""
        self._counter += 1
        header = _START + _HEADER.pack(self._key_id, self._sender, self._epoch, self._epoch_tag, self._counter)
        return header + self._cipher.encrypt(_nonce(self._counter), body, header)


class Opener:
    """Opens frames that were sealed with a known key.  Checks size, header, epoch tag and seal, in this order.

    It does not check whether a frame is fresh: `freshness` does.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers: OrderedDict[bytes, AESGCMSIV] = OrderedDict()
        self.rekey(keys)

    def rekey(self, keys: Sequence[bytes]) -> None:
        """Open frames that these keys have sealed, and no others."""
        self._keys = {key_id(key): key for key in keys}
        self._ciphers.clear()

    def open(self, frame: bytes) -> Opened:
        """Return the contents of a frame.  Raises RefusedError if the frame is too short, foreign or not authentic."""
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
        identifier, sender, epoch, tag, _ = _HEADER.unpack_from(frame, 4)
        key = self._keys.get(identifier)
        if key is None:
            raise RefusedError("unknown_key")
        if not hmac.compare_digest(tag, _epoch_tag(key, sender, epoch)):
            raise RefusedError("forged")
        cipher = self._ciphers[identity] = _cipher(key, sender, epoch)
        if len(self._ciphers) > limits.EPOCHS_MAX:
            self._ciphers.popitem(last=False)
        return cipher
