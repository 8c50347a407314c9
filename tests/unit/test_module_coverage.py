"""The rule of `./dev coverage`: modules are covered whole by their own tests, with exceptions that can only shrink."""

from pathlib import Path

import pytest

from tests.module_coverage import complaints, measure, modules


@pytest.mark.parametrize(
    ("percent", "exceptions", "said"),
    [
        (100, {}, []),
        (90, {"a.py": 90}, []),
        (99, {}, ["a.py: 99 % of its lines, but 100 % are asked for: test what is missing"]),
        (89, {"a.py": 90}, ["a.py: 89 % of its lines, but 90 % are asked for: test what is missing"]),
        (91, {"a.py": 90}, ["a.py: 91 % of its lines, and [tool.ftfw.coverage] says 90: write 91"]),
        (100, {"a.py": 90}, ["a.py: 100 % of its lines, and [tool.ftfw.coverage] says 90: remove the line"]),
        (100, {"a.py": 100}, ["a.py: 100 % of its lines, and [tool.ftfw.coverage] says 100: remove the line"]),
        (100, {"b.py": 5}, ["b.py: there is no such module: remove the line from [tool.ftfw.coverage]"]),
    ],
)
def test_complaints(percent: int, exceptions: dict[str, int], said: list[str]) -> None:
    assert list(complaints({"a.py": percent}, exceptions)) == said


def test_a_module_is_measured_by_its_own_tests_alone(tmp_path: Path) -> None:
    assert measure(Path("ftfw/security/replay_window.py"), tmp_path) == 100
    assert measure(Path("ftfw/link/udp.py"), tmp_path) == 0  # tested by test_links alone


def test_modules_without_functions_are_left_out() -> None:
    found = modules()
    assert Path("ftfw/security/replay_window.py") in found
    assert Path("ftfw/replication/limits.py") not in found
