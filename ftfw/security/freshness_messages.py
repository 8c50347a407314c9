"""Packs and unpacks CHALLENGE, RESPONSE and REWOUND, the bodies that prove that an epoch is live.  Pure.

All bodies of the protocol are msgpack arrays whose first element is the kind, out of one space of numbers.  These
kinds belong to this package, all others to `ftfw.replication.messages`.
"""

from typing import Final, NamedTuple

import msgpack

from ftfw.security.frames import SENDER_SIZE, RefusedError
from ftfw.security.security_limits import NONCE_BYTES

CHALLENGE: Final = 9
RESPONSE: Final = 10
REWOUND: Final = 17
_KINDS: Final = (bytes((CHALLENGE,)), bytes((RESPONSE,)), bytes((REWOUND,)))


class Challenge(NamedTuple):
    """Asks the sender with the id `target` to seal `nonce` again, in its present epoch."""

    target: bytes
    nonce: bytes


class Response(NamedTuple):
    """Proves that the epoch in which it is sealed is live: it repeats the `nonce` of a recent challenge."""

    nonce: bytes


class Rewound(NamedTuple):
    """Informs the sender of `epoch` that its counters have gone back, so that it must begin another epoch.

    A node sends it after a fresh nonce was answered in that epoch under a counter of the past.  The statement stays
    true, so that a recording of it does no harm.
    """

    epoch: bytes


Proof = Challenge | Response | Rewound


def challenge(target: bytes, nonce: bytes) -> bytes:
    """Pack a challenge to the sender with the id `target`."""
    packed: bytes = msgpack.packb([CHALLENGE, target, nonce])
    return packed


def response(nonce: bytes) -> bytes:
    """Pack the response to a challenge."""
    packed: bytes = msgpack.packb([RESPONSE, nonce])
    return packed


def rewound(epoch: bytes) -> bytes:
    """Pack the statement that the counters of `epoch` have gone back."""
    packed: bytes = msgpack.packb([REWOUND, epoch])
    return packed


CHALLENGE_BYTES: Final = len(challenge(bytes(SENDER_SIZE), bytes(NONCE_BYTES)))


def unpack_proof(body: bytes) -> Proof | None:
    """Return the proof in an authentic body; None if the body is of another kind.

    Raises RefusedError with the reason `malformed` if it is of one of these kinds, but not valid.
    """
    if body[1:2] not in _KINDS:
        return None
    try:
        fields = msgpack.unpackb(body)
    except Exception as error:  # msgpack raises many types of exceptions
        raise RefusedError("malformed") from error
    match fields:
        case [9, bytes(target), bytes(nonce)]:
            return Challenge(target, nonce)
        case [10, bytes(nonce)]:
            return Response(nonce)
        case [17, bytes(epoch)]:
            return Rewound(epoch)
    raise RefusedError("malformed")
