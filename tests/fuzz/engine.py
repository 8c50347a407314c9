"""One target under atheris, in a process of its own: libFuzzer ends it.

The arguments: the target's name, the file for an input that fails, and libFuzzer's own.
"""

import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ftfw", "tomllib"]):
    from tests.fuzz.targets import CONTROLS, TARGETS

_, name, found, *arguments = sys.argv
target = (TARGETS | CONTROLS)[name]


def attempt(data: bytes) -> None:
    """Give the target these bytes; keep them if they are what it does not stand."""
    try:
        target(data)
    except Exception:
        Path(found).write_bytes(data)  # libFuzzer's own way out sometimes ends before it has done so
        raise


logging.disable(logging.CRITICAL)
atheris.Setup([name, f"-exact_artifact_path={found}", *arguments], attempt)
atheris.Fuzz()
