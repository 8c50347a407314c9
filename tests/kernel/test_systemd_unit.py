"""Runs the unit of conf/ under a real systemd, installed as docs/systemd.md describes, with all its restrictions."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.booted import ROOT, Machine, booted, usual
from tests.kernel.pair import Node, pair, until

pytestmark = pytest.mark.kernel

UNIT = "conf/systemd/ftfw.service"
CAP_NET_ADMIN = 12
# A system call that the unit does not let through ends the daemon here, where it would be told EPERM otherwise.
MORE = """
[keepalived]
fifo = "/run/ftfw/keepalived.fifo"
instances = ["FW"]
track_file = "/run/ftfw/ready"
[takeover]
gate_interfaces = ["lan"]
"""
STRICT = "[Service]\nSystemCallErrorNumber=kill\n"


@pytest.fixture(params=["warm"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Node, Machine]]:
    """Yield a plain active daemon, and its backup under the unit, in sync."""
    with pair(tmp_path, mode=request.param) as (active, backup), booted(backup) as machine:
        machine.run("ip", "link", "add", "lan", "up", "type", "bridge")
        machine.write("/etc/systemd/system/ftfw.service.d/strict.conf", STRICT)
        machine.install("systemd.md", usual(backup, MORE))
        (tmp_path / "link.key").write_text(machine.path("/etc/ftfw/link.key").read_text())
        active.start("active")
        until(lambda: machine.property("StatusText") == "backup, in sync", "in sync")
        yield active, machine


def process(machine: Machine) -> dict[str, str]:
    """Return /proc/PID/status of the daemon."""
    text = machine.path(f"/proc/{machine.property('MainPID')}/status").read_text()
    return dict(re.findall(r"^(\w+):\s+(.*)$", text, flags=re.MULTILINE))


def test_the_unit_is_valid_and_exposes_less_than_it_may() -> None:
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=19", ROOT / UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout
    told = re.search(r"gives ([\d.]+) ", (ROOT / "docs/systemd.md").read_text())
    assert told is not None
    assert f"Overall exposure level for ftfw.service: {told[1]} OK" in rated.stdout


def test_the_daemon_runs_with_one_capability_and_under_all_restrictions(installed: tuple[Node, Machine]) -> None:
    _, machine = installed
    verified = machine.run("systemd-analyze", "verify", "--man=no", "/etc/systemd/system/ftfw.service")
    assert verified.stderr == ""
    status = process(machine)
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {f"{1 << CAP_NET_ADMIN:016x}"}
    uid = machine.run("id", "-u", "ftfw").stdout.strip()
    assert status["Uid"].split() == [uid] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    pid = machine.property("MainPID")
    assert machine.run("ps", "-o", "nice=", "-p", pid).stdout.strip() == "-10"
    # What the kernel has of it is not looked at: a container that lacks CAP_SYS_RESOURCE goes without.
    assert machine.property("OOMScoreAdjust") == "-900"
    # Set by the unit, as conf/sysctl.conf has it; the daemon may not.
    assert machine.run("sysctl", "-n", "net.netfilter.nf_conntrack_tcp_loose").stdout == "0\n"
    assert ", 0 problem" in machine.run("ftfw", "check").stdout
    machine.run("chown", "root:", "/etc/ftfw/link.key")  # as a copy that was not given away
    told = machine.run("ftfw", "check", check=False).stdout
    assert "problem  key file: /etc/ftfw/link.key: only root may read it, and ftfw runs as ftfw\n" in told
    assert "→ `chown ftfw: /etc/ftfw/link.key`\n" in told


def keepalived_says(machine: Machine, state: str) -> None:
    machine.run("sh", "-c", f"""echo 'GROUP "FW" {state} 100' > /run/ftfw/keepalived.fifo""")


@pytest.mark.parametrize("installed", ["warm", "hot"], indirect=True)
def test_a_restricted_backup_takes_over_by_the_fifo_and_gives_back(installed: tuple[Node, Machine]) -> None:
    active, machine = installed
    for number in range(5):
        active.insert(number)
    until(lambda: len(machine.run("ftfw", "show", "flows").stdout.splitlines()) == 5, "five flows")
    if machine.status()["mode"] == "warm":
        until(lambda: machine.status()["gate"]["shut"], "the gate is shut")
    assert machine.status()["gate"]["failed"] == {}
    active.kill()
    keepalived_says(machine, "MASTER")
    until(lambda: machine.status()["role"] == "active", "it takes over")
    assert machine.status()["last_commit"]["failed"] == {}
    assert len(machine.run("ftfw", "show", "flows").stdout.splitlines()) == 5  # its kernel's now
    active.start("backup")
    until(lambda: machine.property("StatusText") == "active, in sync", "the peer is in sync")
    assert len(active.flows()) == 5
    keepalived_says(machine, "BACKUP")
    until(lambda: machine.status()["role"] == "backup", "it gives back")
    machine.run("systemctl", "stop", "ftfw")
    assert machine.property("Result") == "success"
    assert machine.property("NRestarts") == "0"
    assert machine.path("/run/ftfw/ready").read_text() == "1\n"


@pytest.mark.parametrize("fifo_by", ["tmpfiles", "keepalived"])
def test_a_keepalived_that_starts_before_ftfw_is_heard(installed: tuple[Node, Machine], fifo_by: str) -> None:
    active, machine = installed
    machine.run("systemctl", "stop", "ftfw")
    active.kill()
    machine.run("rm", "-r", "/run/ftfw")
    machine.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/ftfw.conf")  # as at boot
    made = machine.run(
        "stat", "--format=%n %U:%G %A", "/run/ftfw", "/run/ftfw/keepalived.fifo", "/run/ftfw/ready"
    ).stdout
    assert made.splitlines() == [
        "/run/ftfw ftfw:ftfw drwxr-xr-x",
        "/run/ftfw/keepalived.fifo ftfw:ftfw prw-------",
        "/run/ftfw/ready ftfw:ftfw -rw-r--r--",
    ]
    if fifo_by == "keepalived":
        machine.run("rm", "/run/ftfw/keepalived.fifo")
    machine.run("ip", "link", "add", "wan", "up", "type", "bridge")
    for network, interface in (("192.0.2", "lan"), ("198.51.100", "wan")):
        machine.run("ip", "address", "add", f"{network}.2/24", "dev", interface)
    machine.write("/etc/keepalived/keepalived.conf", (ROOT / "conf/keepalived/keepalived.conf").read_text())
    machine.run("systemctl", "restart", "keepalived")
    until(lambda: "198.51.100.1/24" in machine.run("ip", "-brief", "address").stdout, "MASTER")
    assert machine.run("stat", "--format=%U %A", "/run/ftfw/keepalived.fifo").stdout == "ftfw prw-------\n"
    machine.run("systemctl", "start", "ftfw")
    until(lambda: machine.status()["role"] == "active", "it heard of it")
    until(lambda: machine.status()["keepalived"]["fifo_writer"], "keepalived has the FIFO open")
    assert machine.status()["keepalived"]["instances"] == {"GROUP FW": "MASTER"}
    until(lambda: machine.path("/run/ftfw/ready").read_text() == "0\n", "it is ready")


def test_a_reload_reads_the_keys_and_warnings_stand_out_in_the_journal(installed: tuple[Node, Machine]) -> None:
    _, machine = installed
    machine.run("systemctl", "reload", "ftfw")
    until(lambda: "SIGHUP: 1 keys read" in machine.log(), "the keys were read")
    key = machine.path("/etc/ftfw/link.key")
    whole = key.read_text()
    key.write_text("rubbish")
    machine.run("systemctl", "reload", "ftfw")
    until(lambda: "the present keys stay in use" in machine.log(), "no keys were read")
    key.write_text(whole)
    told = machine.run("journalctl", "--no-pager", "-o", "cat", "-u", "ftfw", "-p", "warning").stdout.splitlines()
    warnings = [line for line in told if "keepalived does not run" not in line]  # which is so
    assert [line.partition(": /")[0] for line in warnings] == ["SIGHUP: the present keys stay in use"]
    assert machine.property("ActiveState") == "active"
    assert machine.property("NRestarts") == "0"


def test_a_daemon_that_hangs_is_ended_and_started_again_and_the_runtime_directory_stays(
    installed: tuple[Node, Machine],
) -> None:
    _, machine = installed
    drop_in = "[Service]\nWatchdogSec=1s\nTimeoutAbortSec=1s\n"
    machine.write("/etc/systemd/system/ftfw.service.d/impatient.conf", drop_in)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "ftfw")
    fifo = machine.path("/run/ftfw/keepalived.fifo").stat().st_ino
    machine.run("systemctl", "kill", "--kill-whom=main", "-s", "STOP", "ftfw")
    until(lambda: machine.property("NRestarts") == "1", "started again")
    until(lambda: machine.property("StatusText") == "backup, in sync", "in sync again")
    assert "Watchdog timeout" in machine.log()
    assert machine.path("/run/ftfw/keepalived.fifo").stat().st_ino == fifo


def test_an_aborted_daemon_tells_where_it_was_and_a_wrong_configuration_is_not_tried_again_and_again(
    installed: tuple[Node, Machine],
) -> None:
    _, machine = installed
    machine.run("systemctl", "kill", "--kill-whom=main", "-s", "ABRT", "ftfw")
    until(lambda: machine.property("NRestarts") == "1", "started again")
    assert "Fatal Python error: Aborted" in machine.log()
    assert "ftfw/daemon/node.py" in machine.log()
    machine.write("/etc/ftfw/ftfw.toml", "[nod]\n")
    assert machine.run("systemctl", "restart", "ftfw", check=False).returncode == 1
    until(lambda: machine.property("ActiveState") == "failed", "given up")
    assert "nod: unknown key" in machine.log()
    assert machine.property("NRestarts") == "0"
