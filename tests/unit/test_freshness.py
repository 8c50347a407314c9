import contextlib
from math import inf
from random import Random

import pytest

from ftfw.replication import messages
from ftfw.security.frames import RefusedError, sender_id
from ftfw.security.freshness import Freshness, FreshnessEvent, Heard, PeerResumed, SelfResumed
from ftfw.security.freshness_messages import challenge, response, rewound
from ftfw.security.security_limits import ANSWER_S, CHALLENGE_S, SENDERS_MAX
from tests.unit.snapshots import snapshot

KEY, OTHER = b"k" * 32, b"o" * 32
BODY = messages.heartbeat("fw1", "active", 1, 1)


def talker(name: str, *keys: bytes, links: int = 1, seed: int = 0) -> Freshness:
    return Freshness(keys or (KEY,), name=name, links=links, random=Random(f"{name} {seed}").randbytes)


def say(speaker: Freshness, *bodies: bytes) -> list[bytes]:
    """The frames of these bodies and of what else the speaker has to say."""
    return speaker.seal([*bodies, *speaker.bodies_to_send()])


def reason(listener: Freshness, frame: bytes, now: float = 0.0, link: int = 0) -> str:
    with pytest.raises(RefusedError) as caught:
        listener.receive(frame, link, now)
    return caught.value.reason


def hear_all(listener: Freshness, frames: list[bytes], now: float = 0.0) -> list[Heard]:
    """Return what a listener believes of these frames."""
    heard = []
    for frame in frames:
        with contextlib.suppress(RefusedError):
            heard.append(listener.receive(frame, 0, now))
    return [each for each in heard if each is not None]


def introduce(speaker: Freshness, listener: Freshness, now: float = 0.0) -> None:
    """Let `listener` believe what `speaker` says."""
    assert reason(listener, speaker.seal([BODY])[0], now) == "unproved"
    hear_all(speaker, say(listener), now)
    assert hear_all(listener, say(speaker), now) == []


def test_a_new_epoch_is_believed_after_it_has_answered_a_challenge() -> None:
    one, two = talker("fw1"), talker("fw2")
    introduce(one, two)
    heard = two.receive(one.seal([BODY])[0], 0, 0.0)
    assert heard is not None
    assert heard == Heard(one.epoch, BODY)


@pytest.mark.parametrize(("later", "believed"), [(3.0, True), (ANSWER_S, False)])
def test_an_answer_counts_however_often_was_asked_since_but_not_for_ever(later: float, believed: bool) -> None:
    one, two = talker("fw1"), talker("fw2")
    for tenth in range(int(later * 10)):
        assert reason(two, one.seal([BODY])[0], tenth / 10) == "unproved"
    asked = two.seal(two.bodies_to_send()[:1])  # the first one, which has been under way for so long
    hear_all(one, asked, later)
    hear_all(two, say(one), later)
    assert bool(hear_all(two, one.seal([BODY]), later)) is believed


def test_a_recording_of_an_earlier_epoch_is_worth_nothing_even_after_both_restarted() -> None:
    one, two = talker("fw1"), talker("fw2")
    recorded = one.seal([BODY])
    assert reason(two, recorded[0]) == "unproved"
    recorded += (asked := say(two))
    hear_all(one, asked)
    recorded += say(one)
    one, two = talker("fw1", seed=1), talker("fw2", seed=1)
    introduce(one, two, 100.0)
    proofs = two.counts["proofs"]
    assert hear_all(two, recorded, 200.0) == []
    assert two.counts["proofs"] == proofs
    [heard] = hear_all(two, one.seal([BODY]), 200.0)
    assert heard.epoch == one.epoch


def test_recordings_do_not_keep_the_live_epoch_from_being_believed() -> None:
    old, live, listener = talker("fw1"), talker("fw1", seed=1), talker("fw2")
    recording = old.seal([BODY] * 50)
    now = 0.0
    assert reason(listener, recording[0], now) == "unproved"
    challenge = say(listener)
    hear_all(listener, recording[1:], now)
    hear_all(live, challenge, now)
    hear_all(listener, say(live), now)
    assert len(hear_all(listener, live.seal([BODY]), now)) == 1


def test_challenges_are_seldom_and_no_larger_than_what_causes_them() -> None:
    speaker, listener = talker("fw1"), talker("fw2")
    frames = speaker.seal([BODY] * 100)
    for frame in frames:
        reason(listener, frame, 0.0)
    challenges = say(listener)
    assert len(challenges) == 1
    assert len(challenges[0]) <= len(frames[0])
    reason(listener, speaker.seal([BODY])[0], CHALLENGE_S)
    assert len(say(listener)) == 1
    other = talker("fw3")
    assert reason(listener, other.seal([b"x"])[0], 9.0) == "unproved"
    assert say(listener) == []  # it would be larger


def test_a_heartbeat_of_the_shortest_name_is_long_enough_to_be_challenged() -> None:
    listener = talker("fw2")
    reason(listener, talker("a").seal([messages.heartbeat("a", "active", 0, 0)])[0])
    assert len(say(listener)) == 1


def test_responses_are_seldom_too() -> None:
    speaker, listener = talker("fw1"), talker("fw2")
    challenges = [challenge(sender_id("fw2"), bytes((number,)) * 8) for number in range(50)]
    for frame in speaker.seal(challenges):
        assert listener.receive(frame, 0, 0.0) is None
    assert listener.counts["responses"] == 1


def test_only_who_is_asked_answers() -> None:
    speaker, listener = talker("fw1"), talker("fw2")
    listener.receive(speaker.seal([challenge(b"somebody", b"n" * 16)])[0], 0, 0.0)
    assert listener.counts["responses"] == 0


def test_a_response_to_nothing_or_to_another_challenge_proves_nothing() -> None:
    speaker, listener = talker("fw1"), talker("fw2")
    assert listener.receive(speaker.seal([response(b"")])[0], 0, 0.0) is None
    assert listener.receive(speaker.seal([response(b"n" * 16)])[0], 0, 0.0) is None
    assert reason(listener, speaker.seal([BODY])[0]) == "unproved"


def test_an_empty_response_proves_nothing_after_a_proof_either() -> None:
    """No challenge is under way then; a node that was started again has to answer one of its own."""
    before, listener = talker("fw1"), talker("fw2")
    introduce(before, listener)
    again = talker("fw1", seed=1)
    assert listener.receive(again.seal([response(b"")])[0], 0, 0.0) is None
    assert reason(listener, again.seal([BODY])[0]) == "unproved"
    assert listener.counts["proofs"] == 1


def test_a_frame_that_comes_again_is_a_replay_on_its_link_and_a_duplicate_on_another() -> None:
    one, two = talker("fw1"), talker("fw2", links=2)
    introduce(one, two)
    [frame] = one.seal([BODY])
    assert two.receive(frame, 0, 0.0) is not None
    assert reason(two, frame, link=1) == "duplicate"
    assert reason(two, frame, link=0) == "replayed"
    assert reason(two, frame, link=1) == "replayed"
    single = talker("fw3")
    introduce(one, single, 1.0)
    [frame] = one.seal([BODY])
    assert single.receive(frame, 0, 0.0) is not None
    assert reason(single, frame) == "replayed"


def test_a_frame_too_old_to_know_is_refused() -> None:
    one, two = talker("fw1"), talker("fw2")
    introduce(one, two)
    old, *_, last = one.seal([BODY] * 5000)
    assert two.receive(last, 0, 0.0) is not None
    assert reason(two, old) == "replayed"


def test_another_node_of_this_name_is_told_from_an_echo() -> None:
    one, twin = talker("fw1"), talker("fw1", seed=1)
    assert reason(one, one.seal([BODY])[0]) == "own_frame"
    assert reason(one, twin.seal([BODY])[0]) == "own_name"
    assert one.bodies_to_send() == []


def test_a_key_is_changed_in_the_middle_of_a_conversation() -> None:
    one, two = talker("fw1", KEY), talker("fw2", KEY)
    introduce(one, two)
    two.rekey([KEY, OTHER])
    one.rekey([OTHER, KEY])
    assert two.receive(one.seal([BODY])[0], 0, 0.0) is not None
    two.rekey([OTHER])
    assert two.receive(one.seal([BODY])[0], 0, 0.0) is not None
    one.rekey([KEY])
    assert reason(two, one.seal([BODY])[0]) == "unknown_key"


def test_a_bounded_number_of_senders_is_remembered_those_heard_last() -> None:
    speaker, listener = talker("fw1"), talker("fw2")
    introduce(speaker, listener)
    others = [talker(f"node{number}").seal([BODY])[0] for number in range(SENDERS_MAX)]
    hear_all(listener, others[1:])
    assert len(hear_all(listener, speaker.seal([BODY]))) == 1
    hear_all(listener, others)
    assert reason(listener, speaker.seal([BODY])[0]) == "unproved"


def test_frames_from_before_the_proof_are_not_believed_after_it() -> None:
    one, two = talker("fw1"), talker("fw2")
    before = one.seal([BODY] * 20)
    introduce(one, two)
    assert hear_all(two, before) == []
    assert len(hear_all(two, one.seal([BODY]))) == 1


# Virtual machines that are resumed from a snapshot of their memory


def heartbeats(speaker: Freshness, listener: Freshness, seconds: float, begun: float) -> float:
    """Let one speak every tenth of a second, and both answer, until the other one hears it; return when it does."""
    for tenth in range(int(seconds * 10)):
        now = begun + tenth / 10
        if hear_all(listener, speaker.seal([BODY]), now):
            return now - begun
        for _ in range(2):
            hear_all(speaker, say(listener), now)
            hear_all(listener, say(speaker), now)
    return inf


def events(node: Freshness) -> list[FreshnessEvent]:
    return list(iter(node.next_event, None))


@pytest.mark.parametrize("spoken", [15, 100, 20000])
def test_a_node_that_is_resumed_from_a_snapshot_is_heard_again_within_two_seconds(spoken: int) -> None:
    random = Random(1)
    one, two = Freshness([KEY], name="fw1", links=1, random=random.randbytes), talker("fw2")
    introduce(one, two)
    introduce(two, one)
    resumed = snapshot(one, random)
    recorded = one.seal([BODY] * spoken)
    assert len(hear_all(two, recorded, 1.0)) == spoken
    before = resumed.epoch
    assert heartbeats(resumed, two, 5.0, begun=2.0) < 2.0
    assert resumed.epoch != before
    assert events(resumed) == [SelfResumed()]
    assert events(two) == [PeerResumed(sender_id("fw1"))]
    assert two.counts["resumed"] == 1
    assert hear_all(two, recorded, 5.0) == []
    assert len(hear_all(two, resumed.seal([BODY]), 5.0)) == 1


def test_a_resumed_node_forgets_what_was_proved_to_it() -> None:
    random = Random(1)
    one, two = Freshness([KEY], name="fw1", links=1, random=random.randbytes), talker("fw2")
    introduce(one, two)
    introduce(two, one)
    resumed = snapshot(one, random)
    hear_all(two, one.seal([BODY] * 50), 1.0)
    recorded = two.seal([BODY] * 20)
    heartbeats(resumed, two, 5.0, begun=2.0)
    assert hear_all(resumed, recorded, 5.0) == []


def test_recordings_of_a_live_node_cause_a_challenge_and_nothing_else() -> None:
    one, two = talker("fw1"), talker("fw2")
    introduce(one, two)
    introduce(two, one)
    recorded = one.seal([BODY] * 30)
    hear_all(two, recorded, 1.0)
    for tenth in range(30):
        assert hear_all(two, recorded, 2.0 + tenth / 10) == []
        asked = say(two)
        assert len(asked) <= 1
        hear_all(one, asked, 2.0 + tenth / 10)
        recorded += say(one)  # the answers arrive with the recordings, again and again
    assert two.counts["challenges"] > 2
    assert [hear_all(two, recorded, 5.0 + later) for later in (0.0, 7.0)] == [[], []]
    assert (events(one), events(two), two.counts["resumed"]) == ([], [], 0)


def test_an_answer_that_is_late_on_its_way_is_no_sign_of_a_resumption() -> None:
    """It comes behind 5,000 later frames, so that its counter is no longer in the window."""
    one, two = talker("fw1"), talker("fw2")
    introduce(one, two)
    recorded = one.seal([BODY] * 20)
    hear_all(two, recorded * 2, 1.0)
    hear_all(one, say(two), 1.0)
    answer = say(one)
    assert len(answer) == 1
    hear_all(two, one.seal([BODY] * 5000), 1.1)
    assert reason(two, answer[0], 1.2) == "replayed"
    assert events(two) == []


def test_a_recorded_rewound_ends_no_other_epoch() -> None:
    one, two = talker("fw1"), talker("fw2")
    introduce(two, one)
    epoch = one.epoch
    assert one.receive(two.seal([rewound(bytes(32))])[0], 0, 0.0) is None
    assert (one.epoch, events(one)) == (epoch, [])
