import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.latency import Sample, delay, weighted_quantile


def samples(*rows: tuple[float, int, int]) -> list[Sample]:
    return [Sample(at_s=at, leading=leading, following=following) for at, leading, following in rows]


def test_a_delay_runs_from_the_last_look_without_to_the_first_look_with() -> None:
    seen = samples((0.0, 0, 0), (1.0, 1, 0), (2.0, 1, 0), (3.0, 1, 1))
    assert delay(seen, 0.99) == 3.0


def test_entries_that_came_at_different_times_and_are_held_at_once() -> None:
    seen = samples((0.0, 0, 0), (1.0, 5, 0), (2.0, 10, 0), (3.0, 10, 10))
    assert delay(seen, 0.5) == 2.0
    assert delay(seen, 0.51) == 3.0


def test_entries_that_were_there_before_and_entries_never_held_do_not_count() -> None:
    seen = samples((0.0, 7, 7), (1.0, 9, 7), (2.0, 9, 8))
    assert delay(seen, 1.0) == 2.0
    assert delay(samples((0.0, 0, 0), (1.0, 5, 0)), 0.99) == 0.0


def test_quantiles_weigh_entries_not_samples() -> None:
    assert weighted_quantile([(5.0, 1), (1.0, 99)], 0.99) == 1.0
    assert weighted_quantile([(5.0, 2), (1.0, 98)], 0.99) == 5.0
    assert weighted_quantile([], 0.99) == 0.0


@given(lag=st.integers(0, 20), steps=st.lists(st.integers(0, 50), min_size=30, max_size=100))
def test_a_constant_lag_is_found_up_to_one_interval(lag: int, steps: list[int]) -> None:
    leading = [0]
    for step in steps:
        leading.append(leading[-1] + step)
    seen = samples(
        *((float(at), count, leading[max(0, at - lag)]) for at, count in enumerate(leading)),
    )
    held = seen[-1].following > 0
    assert delay(seen, 1.0) == pytest.approx(lag + 1 if held else 0)
