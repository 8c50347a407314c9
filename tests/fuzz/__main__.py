"""`./dev fuzz`: what reads bytes, under a coverage-guided fuzzer (atheris), one target after the other."""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import CONTROLS, TARGETS

INPUT_S = 10  # one input that takes longer is a defect,
MEMORY_MB = 1024  # and so is a process that takes more


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one target: `covered` counts edges, as libFuzzer does; `found` is the input of a defect."""

    runs: int
    covered: int
    corpus: int
    found: Path | None


def main() -> int:
    """0 if no target failed, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to try each target (1)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="try this one only; may be repeated")
    parser.add_argument("--input", type=Path, help="give the target the bytes in this file, and nothing else")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="what was found is kept here (.fuzz)")
    chosen = parser.parse_args()
    names = chosen.target or list(TARGETS)
    if chosen.input is not None:
        for name in names:
            TARGETS[name](chosen.input.read_bytes())
        return 0
    failed = False
    print(f"{'target':<10} {'runs':>10} {'edges':>7} {'corpus':>7}")
    for name in names:
        result = fuzz(name, chosen.corpus / name, f"-max_total_time={max(1, round(60 * chosen.minutes))}")
        print(f"{name:<10} {result.runs:>10,} {result.covered:>7,} {result.corpus:>7,}", flush=True)
        if result.found is not None:
            failed = True
            print(f"  failed; again, without the fuzzer: ./dev fuzz --target {name} --input {result.found}")
    return int(failed)


def fuzz(name: str, corpus: Path, *arguments: str) -> Result:
    """Try a target from its seeds and from what `corpus` has of earlier runs; `arguments` are libFuzzer's."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate((TARGETS | CONTROLS)[name].seeds()):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    found = corpus.with_name(f"{name}.failed")
    found.unlink(missing_ok=True)
    limits = (f"-timeout={INPUT_S}", f"-rss_limit_mb={MEMORY_MB}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.engine", name, found, *limits, *arguments, corpus],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    told = re.findall(r"#(\d+)\s+(?:DONE|pulse|NEW|REDUCE|INITED)\s+cov: (\d+) .*? corp: (\d+)", done.stderr)
    if done.returncode or not told:
        progress = re.compile(r"^#\d+\s.*\n", re.MULTILINE)
        print(done.stdout[-4000:], progress.sub("", done.stderr)[-4000:], sep="\n", file=sys.stderr)
        if not found.exists():
            raise RuntimeError(f"the fuzzer failed at {name}, and not because of an input")
    runs, covered, size = map(int, told[-1]) if told else (0, 0, 0)
    return Result(runs=runs, covered=covered, corpus=size, found=found if found.exists() else None)


if __name__ == "__main__":
    sys.exit(main())
