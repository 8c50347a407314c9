"""The benchmark: ftfw and conntrackd side by side in one run (`./dev bench`); see docs/benchmark.md."""
