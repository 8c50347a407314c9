"""Runs of the lab: each flow through two takeovers, with ftfw in both modes, with conntrackd, and without a daemon."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftfw.lab.failover_run import select_flows

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]

FLOWS = [flow.name for flow in select_flows("*")]
LAB_LIMIT_S = 300


class Labs:
    """Runs each lab once, however many workers ask for it, and keeps the result."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, daemon: str, mode: str) -> dict[str, Any]:
        result = self._folder / f"lab-{daemon}-{mode}.json"
        with (self._folder / f"lab-{daemon}-{mode}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                command = [sys.executable, "-m", "ftfw", "lab", "--json", "--daemon", daemon, "--mode", mode]
                done = subprocess.run(command, capture_output=True, text=True, timeout=LAB_LIMIT_S, check=False)
                result.write_text(json.dumps({"stdout": done.stdout, "stderr": done.stderr}))
        told = json.loads(result.read_text())
        try:
            run: dict[str, Any] = json.loads(told["stdout"])["runs"][0]
        except (ValueError, IndexError):
            pytest.fail(f"the lab did not run: {told['stderr'] or told['stdout']}")
        return run

    def row(self, daemon: str, mode: str, flow: str) -> dict[str, Any]:
        rows = self.run(daemon, mode)["rows"]
        return next(row for row in rows if row["name"] == flow)


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Labs:
    # Workers of pytest-xdist have folders of their own in one that they share.
    own = tmp_path_factory.getbasetemp()
    return Labs(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("mode", ["warm", "hot"])
def test_flow_survives_there_and_back(labs: Labs, mode: str, flow: str) -> None:
    row = labs.row("ftfw", mode, flow)
    assert row["survived"], row["reason"]
    assert len(row["outcomes"]) == 2


@pytest.mark.parametrize("mode", ["warm", "hot"])
def test_no_packet_is_answered_with_an_error(labs: Labs, mode: str) -> None:
    takeovers = labs.run("ftfw", mode)["takeovers"]
    assert [takeover["errors_answered"] for takeover in takeovers] == [0, 0]


@pytest.mark.parametrize("flow", FLOWS)
def test_flow_is_lost_without_a_daemon(labs: Labs, flow: str) -> None:
    row = labs.row("none", "warm", flow)
    assert not row["broken"], row["reason"]
    assert [outcome["verdict"] for outcome in row["outcomes"]] == ["lost"]


@pytest.mark.parametrize("flow", ["tcp-idle-v4-snat", "udp-v6", "icmp-echo-v4-snat", "ftp-pasv-pending-v4-snat"])
def test_the_lab_lets_flows_live_that_conntrackd_replicates(labs: Labs, flow: str) -> None:
    row = labs.row("conntrackd", "warm", flow)
    assert row["survived"], row["reason"]


@pytest.mark.parametrize("flow", ["ftp-port-new-v4-snat", "ftp-port-pending-v4-snat", "ftp-pasv-new-v4-dnat"])
def test_the_lab_shows_where_conntrackd_falls_short(labs: Labs, flow: str) -> None:
    assert not labs.row("conntrackd", "warm", flow)["survived"]
