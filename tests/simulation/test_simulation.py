"""Any seed ends well; and a protocol with something left out does not."""

import os
import subprocess
import sys
from typing import Any

import pytest

from ftfw.replication import backup
from ftfw.replication.state_tables import BACKUP_TRANSITIONS, next_state
from tests.simulation.cluster import Run

SEEDS = 2000
BLOCK = 40


@pytest.mark.parametrize("block", range(SEEDS // BLOCK))
def test_all_is_well_in_the_end(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        run = Run(seed)
        try:
            run.go()
        except Exception as error:
            error.add_note("\n".join(run.trace[-30:]))
            error.add_note(f"again, with a trace: ./dev simulate --seed {seed}")
            raise


def test_every_row_of_the_state_table_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = set(BACKUP_TRANSITIONS)

    def noted(role: str, table: Any, state: Any, event: Any) -> Any:
        missing.discard((state, event))
        return next_state(role, table, state, event)

    monkeypatch.setattr(backup, "next_state", noted)
    for seed in range(SEEDS):
        Run(seed).go()
        if not missing:
            return
    pytest.fail(f"not reached: {missing}")


def test_a_seed_is_the_same_run_again() -> None:
    """Whatever order sets have: a failure can be looked at again."""
    code = (
        "import hashlib, logging, sys; from tests.simulation.cluster import Run; logging.disable();"
        "runs = [Run(seed) for seed in range(6)]; [run.go() for run in runs];"
        "print(hashlib.sha256(b''.join(frame for run in runs for frame in run.history.sealed)).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
