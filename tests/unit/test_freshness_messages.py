"""The bodies that prove an epoch, packed and unpacked."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.replication import messages
from ftfw.security.frames import RefusedError
from ftfw.security.freshness_messages import (
    CHALLENGE,
    CHALLENGE_BYTES,
    RESPONSE,
    REWOUND,
    Challenge,
    Response,
    Rewound,
    challenge,
    response,
    rewound,
    unpack_proof,
)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_what_is_packed_is_unpacked(one: bytes, other: bytes) -> None:
    assert unpack_proof(challenge(one, other)) == Challenge(one, other)
    assert unpack_proof(response(one)) == Response(one)
    assert unpack_proof(rewound(one)) == Rewound(one)


def test_the_length_of_a_challenge_is_that_of_any() -> None:
    assert len(challenge(b"\xff" * 8, b"\xff" * 8)) == CHALLENGE_BYTES


def test_bodies_of_the_replication_are_no_proofs() -> None:
    assert unpack_proof(messages.stream(messages.LOST, 1, messages.STORED, b"")) is None
    assert unpack_proof(b"") is None


@pytest.mark.parametrize(
    "fields", [[CHALLENGE], [CHALLENGE, b"a"], [CHALLENGE, b"a", 1], [RESPONSE], [RESPONSE, "a"], [REWOUND, None]]
)
def test_damaged_proofs_are_refused(fields: list[object]) -> None:
    with pytest.raises(RefusedError) as caught:
        unpack_proof(msgpack.packb(fields))
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("packed", [challenge(b"abcd", b"nonce"), response(b"nonce"), rewound(b"epoch")])
def test_a_proof_that_is_cut_is_refused(packed: bytes) -> None:
    for end in range(2, len(packed)):
        with pytest.raises(RefusedError, match="malformed"):
            unpack_proof(packed[:end])
