import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from ftfw.security import frames
from ftfw.security.frames import HEADER_SIZE, OVERHEAD, Opener, RefusedError, Sealer
from ftfw.security.security_limits import EPOCHS_MAX

KEY, OTHER = b"k" * 32, b"o" * 32
EPOCH = b"e" * frames.EPOCH_SIZE


def sealer(*, key: bytes = KEY, name: str = "fw1", epoch: bytes = EPOCH) -> Sealer:
    return Sealer(key, name=name, epoch=epoch)


def opener(*keys: bytes) -> Opener:
    return Opener(keys or (KEY,))


def refused(receiver: Opener, frame: bytes) -> str:
    with pytest.raises(RefusedError) as caught:
        receiver.open(frame)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_what_is_sealed_is_opened_in_any_order(bodies: list[bytes]) -> None:
    sender, receiver = sealer(), opener()
    frames = [sender.seal(body) for body in bodies]
    for number, body in reversed(list(enumerate(bodies, 1))):
        opened = receiver.open(frames[number - 1])
        assert (opened.epoch, opened.counter, opened.body) == (EPOCH, number, body)
        assert len(frames[number - 1]) == len(body) + OVERHEAD


def test_every_single_bit_counts() -> None:
    receiver = opener()
    frame = sealer().seal(b"body")
    reasons = set()
    for bit in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        reasons.add(refused(receiver, bytes(damaged)))
    assert reasons == {"foreign", "version", "unknown_key", "forged"}
    assert receiver.open(frame).body == b"body"  # none of them left a trace


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(frame: bytes) -> None:
    assert refused(opener(), frame) in ("short", "foreign", "version", "unknown_key", "forged")


@pytest.mark.parametrize("length", [0, 1, HEADER_SIZE, OVERHEAD - 1])
def test_short(length: int) -> None:
    assert refused(opener(), sealer().seal(b"")[:length]) == "short"


def test_the_shortest_frame_is_an_empty_body() -> None:
    assert opener().open(sealer().seal(b"")).body == b""


def test_foreign_and_version() -> None:
    frame = sealer().seal(b"body")
    assert refused(opener(), b"WF" + frame[2:]) == "foreign"
    assert refused(opener(), frame[:2] + bytes((frames.VERSION + 1,)) + frame[3:]) == "version"


def test_unknown_key_and_forged() -> None:
    assert refused(opener(), sealer(key=OTHER).seal(b"body")) == "unknown_key"
    frame = sealer(key=OTHER).seal(b"body")
    claimed = frame[:4] + sealer().seal(b"")[4:8] + frame[8:]  # this key's id over the other key's seal
    assert refused(opener(), claimed) == "forged"


def test_a_forged_counter_is_not_taken() -> None:
    sender, receiver = sealer(), opener()
    frames = [sender.seal(b"one"), sender.seal(b"two")]
    forged = frames[0][: HEADER_SIZE - 8] + struct.pack(">Q", 1 << 60) + frames[0][HEADER_SIZE:]
    assert refused(receiver, forged) == "forged"
    assert [receiver.open(frame).body for frame in frames] == [b"one", b"two"]


def test_no_keys_are_derived_for_an_epoch_that_nobody_with_the_key_has_named(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, receiver = sealer().seal(b"body"), opener()
    monkeypatch.setattr(frames, "HKDF", None)  # deriving would fail
    for number in range(100):
        invented = frame[:16] + number.to_bytes(32, "big") + frame[48:]
        assert refused(receiver, invented) == "forged"


def test_another_epoch_another_sender_and_another_key_count_for_themselves() -> None:
    receiver = opener(KEY, OTHER)
    for sender in (sealer(), sealer(epoch=b"f" * 32), sealer(name="fw3"), sealer(key=OTHER)):
        assert receiver.open(sender.seal(b"body")).counter == 1


def test_one_body_never_looks_the_same_twice() -> None:
    sender = sealer()
    seen = {sender.seal(b"body")[HEADER_SIZE:] for _ in range(10)}
    seen.add(sealer(epoch=b"f" * 32).seal(b"body")[HEADER_SIZE:])
    seen.add(sealer(name="fw3").seal(b"body")[HEADER_SIZE:])
    assert len(seen) == 12
    assert not any(b"body" in each for each in seen)


def test_keys_rotate_without_a_gap() -> None:
    """One node after the other: both open both keys, then both seal with the new one, then the old one goes."""
    old, both, new = opener(KEY), opener(OTHER, KEY), opener(OTHER)
    sealed_old, sealed_new = sealer(), sealer(key=OTHER)
    assert both.open(sealed_old.seal(b"1")).body == b"1"
    assert both.open(sealed_new.seal(b"2")).body == b"2"
    assert new.open(sealed_new.seal(b"3")).body == b"3"
    assert refused(old, sealed_new.seal(b"4")) == "unknown_key"
    assert refused(new, sealed_old.seal(b"5")) == "unknown_key"


def test_a_sealer_changes_its_key_and_counts_on() -> None:
    both, sender = opener(KEY, OTHER), sealer()
    first = both.open(sender.seal(b"1"))
    sender.rekey(OTHER)
    second = both.open(sender.seal(b"2"))
    assert (first.epoch, first.counter, second.epoch, second.counter) == (EPOCH, 1, EPOCH, 2)
    both.rekey([KEY])
    assert refused(both, sender.seal(b"3")) == "unknown_key"


def test_derived_keys_are_kept_for_a_bounded_number_of_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[bytes] = []  # the epochs that a key was derived for

    def counted(*, salt: bytes, **how: Any) -> HKDF:
        derived.append(salt)
        return HKDF(salt=salt, **how)

    receiver = opener()
    sealed = [sealer(epoch=number.to_bytes(32, "big")).seal(b"") for number in range(EPOCHS_MAX + 1)]
    monkeypatch.setattr(frames, "HKDF", counted)
    for frame in [*sealed, *sealed[1:]]:
        receiver.open(frame)
    assert len(derived) == EPOCHS_MAX + 1
    receiver.open(sealed[0])
    assert len(derived) == EPOCHS_MAX + 2
