import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.security.replay_window import ReplayWindow
from ftfw.security.security_limits import WINDOW_COUNTERS as SIZE

# Counter by counter, and whether it is fresh when it comes.
VECTORS = {
    "in order": [(0, True), (1, True), (2, True)],
    "twice": [(1, True), (1, False), (2, True), (1, False), (2, False)],
    "a gap that is filled later": [(1, True), (5, True), (3, True), (2, True), (3, False), (4, True), (4, False)],
    "the first one counts from anywhere": [(1 << 40, True), (1 << 40, False), ((1 << 40) - 1, True)],
    "the oldest that can be known": [(SIZE, True), (1, True), (1, False), (0, False)],
    "just fallen out": [(1, True), (SIZE, True), (SIZE + 1, True), (1, False), (2, True), (2, False)],
    "a leap clears the window": [(1, True), (2, True), (1 + 3 * SIZE, True), (2 * SIZE, False), (2 * SIZE + 2, True)],
    "a leap of exactly its size": [(1, True), (1 + SIZE, True), (1, False), (2, True), (1 + SIZE, False)],
    "of one less": [(1, True), (SIZE, True), (1, False), (2, True)],
    "the highest counter there is": [((1 << 64) - 1, True), ((1 << 64) - 1, False), ((1 << 64) - SIZE, True)],
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    window = ReplayWindow()
    for number, (counter, fresh) in enumerate(VECTORS[name]):
        assert window.is_fresh(counter) is fresh, f"number {number}: {counter}"
        if fresh:
            window.accept(counter)


@given(st.lists(st.integers(0, 3 * SIZE) | st.integers(0, 20), max_size=200))
def test_a_window_is_a_set_with_a_horizon(counters: list[int]) -> None:
    window, accepted = ReplayWindow(), set[int]()
    for counter in counters:
        fresh = counter not in accepted and counter > max(accepted, default=0) - SIZE
        assert window.is_fresh(counter) is fresh
        if fresh:
            window.accept(counter)
            accepted.add(counter)


def test_asking_changes_nothing() -> None:
    window = ReplayWindow()
    assert [window.is_fresh(7) for _ in range(3)] == [True] * 3


def test_a_window_behind_a_counter_accepts_higher_ones_only() -> None:
    window = ReplayWindow.behind(5)
    assert [counter for counter in range(9) if window.is_fresh(counter)] == [6, 7, 8]
