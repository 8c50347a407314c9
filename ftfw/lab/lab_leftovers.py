"""Removes namespaces, work directories and lock files that killed labs left."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from ftfw.lab.lab_host import LabError, run_here
from ftfw.lab.lab_lock import LOCK_FOLDER, lab_lock
from ftfw.lab.namespaces import PREFIX, Network, namespaces


async def remove_leftovers() -> list[str]:
    """Remove the namespaces, work directories and lock files of killed labs; return the names of those labs.

    Raises LabError if this process is not root.
    """
    if os.geteuid():
        raise LabError("labs belong to root: run it as root (sudo ftfw lab --clean)")
    left = {name.rpartition("-")[0] for name in await namespaces() if name.startswith(PREFIX)}
    for folder in (Path(tempfile.gettempdir()), LOCK_FOLDER):
        left |= {path.name for path in folder.glob(f"{PREFIX}*")}
    removed = []
    for lab in sorted(left):
        with ExitStack() as lock:
            try:
                lock.enter_context(lab_lock(lab))
            except LabError:
                continue  # the lab is alive
            network = Network(Path(tempfile.gettempdir()) / lab)
            await network.remove()
            await run_here("rm", "-rf", str(network.workdir))
            removed.append(lab)
    return removed
