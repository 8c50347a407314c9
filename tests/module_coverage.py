"""`./dev coverage`: how much of each module its own test file covers.

Each module of ftfw is measured under its own test files alone, tests/unit/test_<module>.py and the one of that name in
tests/kernel, so that a module is not called covered because the tests of others pass through it.
`[tool.ftfw.coverage]` in pyproject.toml lists the modules that are not covered whole, each with the least percentage of
its lines.  That list may only shrink, and its figures may only rise.
"""

import ast
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import coverage

ROOT = Path(__file__).parent.parent
WHOLE = 100
TIME_LIMIT_S = 600.0  # for one test file


def modules() -> list[Path]:
    """Return the modules of ftfw that have functions, relative to the checkout."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / "ftfw").rglob("*.py") if _has_functions(path))


def _has_functions(path: Path) -> bool:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return path.name != "__main__.py" and any(
        isinstance(each, functions) for each in ast.walk(ast.parse(path.read_text()))
    )


def measure(module: Path, folder: Path) -> int:
    """Return the percentage of the module's lines that its own tests run; 0 without such tests."""
    tests = sorted(ROOT.glob(f"tests/*/test_{module.stem}.py"))
    if not tests:
        return 0
    data = folder / f"{module.stem}.coverage"
    command = [sys.executable, "-m", "coverage", "run", f"--include={module}", f"--data-file={data}"]
    command += ["-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"{module}: its tests failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if not data.exists():
        return 0  # the tests do not import the module
    report = coverage.Coverage(data_file=str(data))
    report.load()
    _, statements, _, missing, _ = report.analysis2(str(ROOT / module))
    return WHOLE * (len(statements) - len(missing)) // len(statements) if statements else WHOLE


def complaints(measured: dict[str, int], exceptions: dict[str, int]) -> Iterator[str]:
    """Say what is covered less than it has to be, and which exceptions are no longer true."""
    for name, percent in measured.items():
        least = exceptions.get(name, WHOLE)
        if percent < least:
            yield f"{name}: {percent} % of its lines, but {least} % are asked for: test what is missing"
        elif percent > least or (name in exceptions and percent == WHOLE):
            remedy = "remove the line" if percent == WHOLE else f"write {percent}"
            yield f"{name}: {percent} % of its lines, and [tool.ftfw.coverage] says {least}: {remedy}"
    for name in exceptions.keys() - measured.keys():
        yield f"{name}: there is no such module: remove the line from [tool.ftfw.coverage]"


def main() -> None:
    """Measure every module, print the table, and exit with 1 if it is not as pyproject.toml says."""
    exceptions = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ftfw"]["coverage"]
    found = modules()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = dict(zip(map(str, found), pool.map(partial(measure, folder=Path(folder)), found), strict=True))
    for name, percent in measured.items():
        if percent < WHOLE:
            print(f'"{name}" = {percent}')
    wrong = list(complaints(measured, exceptions))
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
