"""`./dev simulate`: one seed with its trace, or seed after seed for some minutes."""

import argparse
import logging
import sys
import time

from tests.simulation.cluster import Run


def main() -> int:
    """0 if all ended well; 1 with the trace of the first run that did not."""
    parser = argparse.ArgumentParser(prog="./dev simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one and print what happened")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to go on (1)")
    parser.add_argument("--first", type=int, default=1_000_000, help="the seed to begin with (1000000)")
    chosen = parser.parse_args()
    logging.disable(logging.ERROR)
    if chosen.seed is not None:
        return go(Run(chosen.seed), trace=True)
    end, seed = time.monotonic() + 60 * chosen.minutes, chosen.first
    while time.monotonic() < end:
        if go(Run(seed), trace=False):
            return 1
        seed += 1
    print(f"{seed - chosen.first} runs from seed {chosen.first} on ended well")
    return 0


def go(run: Run, *, trace: bool) -> int:
    """Run it; print its trace if asked to, or if it ends badly."""
    try:
        run.go()
    except Exception as error:
        print("\n".join(run.trace), f"seed {run.seed}: {type(error).__name__}: {error}", sep="\n")
        return 1
    if trace:
        print("\n".join(run.trace))
    return 0


sys.exit(main())
