"""The targets without the fuzzer, the same each time; and the fuzzer, shortly."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftfw.kernel.attributes import split
from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import TARGETS, Target

RUNS = 1000
EXAMPLES = 150


@st.composite
def inputs(draw: st.DrawFn, target: Target) -> bytes:
    """Any bytes, or a seed of which some stretches are replaced, left out or said twice."""
    data = draw(st.sampled_from([b"", *target.seeds()]))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 9)))
        data = data[:start] + draw(st.binary(max_size=9) | st.just(data[start:end] * 2)) + data[end:]
    return data + draw(st.binary(max_size=40))


@pytest.mark.parametrize("name", TARGETS)
def test_only_errors_of_its_own_come_out_of_any_bytes(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES, derandomize=True, database=None)
    @given(inputs(target))
    def holds(data: bytes) -> None:
        target(data)

    for seed in target.seeds():
        target(seed)
    holds()


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_lead_into_the_target(name: str) -> None:
    """At least one of them raises nothing: what is tried is more than the first check."""
    raised = []
    for seed in TARGETS[name].seeds():
        try:
            TARGETS[name].consume(seed)
        except TARGETS[name].allowed as error:
            raised.append(error)
    assert len(raised) < len(list(TARGETS[name].seeds()))


@pytest.mark.parametrize("name", ["body", "hear", "store"])
def test_the_fuzzer_runs_and_finds_nothing(name: str, tmp_path: Path) -> None:
    result = fuzz(name, tmp_path / name, f"-runs={RUNS}", "-seed=1")
    assert result.runs >= RUNS
    assert result.covered > 50
    assert result.found is None


def test_the_fuzzer_finds_what_a_target_does_not_allow(tmp_path: Path) -> None:
    result = fuzz("control", tmp_path / "control", "-runs=1000000", "-seed=1")
    assert result.found is not None
    assert 7 in split(result.found.read_bytes())
