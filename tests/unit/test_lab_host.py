from pathlib import Path

import pytest

from ftfw.lab.lab_host import LabError, run_here


async def test_a_command_gets_its_input_and_directory_and_returns_its_output(tmp_path: Path) -> None:
    assert await run_here("sh", "-c", "cat; pwd", stdin="given\n", cwd=str(tmp_path)) == f"given\n{tmp_path}\n"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo out; echo no such thing >&2; exit 2", "no such thing"),
        ("echo only out; exit 2", "only out"),
        ("exit 3", "exit code 3"),
    ],
)
async def test_a_failure_is_told_with_the_best_complaint_there_is(script: str, complaint: str) -> None:
    with pytest.raises(LabError) as failed:
        await run_here("sh", "-c", script)
    assert str(failed.value) == f"sh -c {script} failed: {complaint}"


async def test_a_program_that_is_not_installed_is_named_with_the_remedy() -> None:
    with pytest.raises(LabError, match=r"^ftfw-nothing is not installed; .* \./dev setup installs"):
        await run_here("ftfw-nothing")
