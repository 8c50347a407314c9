"""The benchmark's end of the connection to the traffic generator."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bench.errors import BenchError
from bench.lab import GATEWAY_MAC, TRAFFIC

# A network card that gathers interrupts for 100 µs delivers packets so: a daemon on a core of its own then wakes for
# one to three new flows. Slices of milliseconds would give it batches that real traffic does not make.
SLICE_S = 0.0001


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Holds the generator's flows, seconds and CPU seconds; the latter include the forwarding of its packets."""

    flows: int
    seconds: float
    cpu_s: float


class Traffic:
    """Controls a generator that has built its packets and waits."""

    def __init__(self, process: subprocess.Popen[str], flows: int) -> None:
        self._process = process
        self._flows = flows

    def send(self) -> Sent:
        """Send all packets; returns after the last one. Raises BenchError if the generator fails."""
        output, _ = self._process.communicate("go\n")
        if self._process.returncode:
            raise BenchError(f"the traffic generator ended with {self._process.returncode}")
        report = json.loads(output)
        return Sent(flows=self._flows, seconds=report["seconds"], cpu_s=report["user_s"] + report["system_s"])


@contextlib.contextmanager
def traffic(*, rate: float, flows: int, seed: int) -> Iterator[Traffic]:
    """Run a generator in the traffic namespace while the context lasts.

    It is ready to send `flows` new flows at `rate` per second. Raises BenchError if it does not start.
    """
    words = ["ip", "netns", "exec", TRAFFIC, sys.executable, "-m", "bench.generator"]
    words += ["--interface", "out", "--gateway", GATEWAY_MAC, "--rate", str(rate), "--slice", str(SLICE_S)]
    words += ["--count", str(flows), "--seed", str(seed)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise BenchError("the traffic generator did not start: see its message above")
            yield Traffic(process, flows)
        finally:
            process.kill()
