import pytest

from ftfw.lab.verdicts import UNTRIED, Outcome, Row, Verdict, longest_silence, lost


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ([], None),
        ([1.0, 9.9], None),
        ([9.0, 10.5], 0.5),  # counted from the cut, not from the last word before it
        ([10.1, 11.0, 11.2], 0.9),  # a straggler right after the cut does not end the pause
        ([10.4, 10.5, 10.6], 0.4),
    ],
)
def test_the_pause_is_the_longest_silence_after_the_cut(heard: list[float], expected: float | None) -> None:
    assert longest_silence(heard, cut=10.0) == (expected if expected is None else pytest.approx(expected))


SURVIVED = Outcome(verdict=Verdict.SURVIVED, pause_s=0.1)
LOST = Outcome(verdict=Verdict.LOST, reason="nothing heard")


def row(*outcomes: Outcome, broken: str = "") -> Row:
    return Row(name="flow", title="a flow", takeovers=2, outcomes=list(outcomes), broken=broken)


def test_a_row_survives_only_when_it_comes_through_every_takeover() -> None:
    assert row(SURVIVED, SURVIVED).survived
    assert not row(SURVIVED).survived
    assert not row(SURVIVED, LOST).survived
    assert not row(SURVIVED, SURVIVED, broken="cannot connect").survived


def test_a_row_is_settled_when_nothing_more_will_be_learned() -> None:
    assert not row().settled
    assert not row(SURVIVED).settled
    assert row(SURVIVED, SURVIVED).settled
    assert row(LOST).settled
    assert row(broken="cannot connect").settled


def test_a_lost_row_is_not_tried_again() -> None:
    assert row(SURVIVED).living
    assert not row(LOST).living
    assert row(LOST).outcome(1) is UNTRIED


def test_the_reason_tells_which_takeover_and_why() -> None:
    assert row(SURVIVED, LOST).reason == "takeover 2: nothing heard"
    assert row(broken="never worked: cannot connect").reason == "never worked: cannot connect"
    assert row(SURVIVED, broken="before takeover 2: nothing heard").reason == "before takeover 2: nothing heard"
    assert row(SURVIVED, SURVIVED).reason == ""


def test_lost_rows_are_all_that_did_not_come_through() -> None:
    good, bad, late = row(SURVIVED, SURVIVED), row(LOST), row(SURVIVED)
    assert lost([good, bad, late]) == [bad, late]
