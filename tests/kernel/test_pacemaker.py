"""The OCF agent of conf/, installed as docs/pacemaker.md tells, without a cluster around it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.booted import COMMAND, ROOT, Machine, booted, usual
from tests.kernel.pair import Node, pair, until

pytestmark = pytest.mark.kernel

AGENT = "/usr/lib/ocf/resource.d/ftfw/ftfw"
GENERIC, INSTALLED, CONFIGURED, NOT_RUNNING, PROMOTED, FAILED_PROMOTED = 1, 5, 6, 7, 8, 9
BLIND = "warning: Blind faith: not fencing unseen nodes"  # said of every cluster without fencing
# What the agent tells the cluster, which is not there.
CRM_ATTRIBUTE = '#!/bin/sh\necho "$@" >>/run/scores\n'
MANY = 100_000
CROWD = COMMAND.replace(
    '-m ftfw "$@"', f"-c 'import trio; from tests.kernel.crowd import inject_many; trio.run(inject_many, {MANY})'"
)
OVERHEARD = '#!/bin/sh\n/usr/bin/ftfw "$@" >/run/told && cat /run/told\n'  # what the agent gets from ftfw


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[tuple[Node, Machine]]:
    """A daemon as any other, not started, and a machine for the agent."""
    with pair(tmp_path) as (peer, own), booted(own) as machine:
        machine.write("/etc/ftfw/link.key", (tmp_path / "link.key").read_text(), 0o600)
        machine.write("/opt/crm/crm_attribute", CRM_ATTRIBUTE, 0o755)
        machine.install("pacemaker.md", usual(own))
        yield peer, machine


def agent(machine: Machine, action: str, **parameters: str) -> int:
    """The agent's exit code, as the cluster calls it."""
    environment = {
        "OCF_ROOT": "/usr/lib/ocf",
        "OCF_RESOURCE_INSTANCE": "ftfw:0",
        "OCF_RESKEY_crm_feature_set": "3.16.2",
        "HA_SBIN_DIR": "/opt/crm",
        **{f"OCF_RESKEY_{name}": value for name, value in parameters.items()},
    }
    settings = [f"{name}={value}" for name, value in environment.items()]
    return machine.run("env", *settings, AGENT, action, check=False).returncode


def score(machine: Machine) -> str:
    return machine.path("/run/scores").read_text().splitlines()[-1]


def pid(machine: Machine) -> str:
    return machine.path("/run/resource-agents/ftfw-ftfw.state").read_text().split()[0]


def test_ocf_tester_has_nothing_to_say(installed: tuple[Node, Machine]) -> None:
    _, machine = installed
    tested = machine.run("ocf-tester", "-n", "ftfw", AGENT, check=False)
    assert f"{AGENT} passed all tests" in tested.stdout, tested.stdout + tested.stderr
    assert "rc=" not in tested.stdout
    for optional in ("promote", "demote", "promotable"):
        assert f"does not support {optional}" not in tested.stdout
        assert f"does not support the {optional}" not in tested.stdout


def test_a_life_in_a_cluster(installed: tuple[Node, Machine]) -> None:
    peer, machine = installed
    peer.start("active")
    peer.insert(1)
    assert agent(machine, "monitor") == NOT_RUNNING
    assert agent(machine, "start") == 0
    status = dict(
        re.findall(r"^(\w+):\s+(.*)$", machine.path(f"/proc/{pid(machine)}/status").read_text(), flags=re.MULTILINE)
    )
    assert {status[name] for name in ("CapEff", "CapBnd", "CapAmb")} == {f"{1 << 12:016x}"}
    assert status["Uid"].split()[0] == machine.run("id", "-u", "ftfw").stdout.strip()
    until(lambda: agent(machine, "monitor") == 0 and score(machine) == "-p -v 75", "in sync")
    peer.kill()
    until(lambda: agent(machine, "monitor") == 0 and score(machine) == "-p -v 50", "out of sync, and ready")
    assert agent(machine, "promote") == 0
    assert score(machine) == "-p -v 100"
    assert machine.status()["flows"] == 1
    assert agent(machine, "monitor") == PROMOTED
    assert agent(machine, "demote") == 0
    assert agent(machine, "monitor") == 0
    assert agent(machine, "stop") == 0
    assert score(machine) == "-p -D"
    assert agent(machine, "monitor") == NOT_RUNNING
    assert agent(machine, "promote") == NOT_RUNNING


def test_a_daemon_that_hangs_or_is_killed_is_told_from_one_that_never_ran(installed: tuple[Node, Machine]) -> None:
    _, machine = installed
    assert agent(machine, "start") == 0
    assert score(machine) == "-p -v 5"
    assert agent(machine, "promote") == 0
    machine.run("kill", "-STOP", pid(machine))
    assert agent(machine, "monitor") == FAILED_PROMOTED
    machine.run("kill", "-KILL", pid(machine))
    until(lambda: agent(machine, "monitor") == NOT_RUNNING, "it has ended")
    # Another process has its pid now.
    state = machine.path("/run/resource-agents/ftfw-ftfw.state")
    state.write_text(f"1 {state.read_text().split()[1]}\n")
    assert agent(machine, "monitor") == NOT_RUNNING
    assert agent(machine, "stop") == 0
    assert machine.run("systemctl", "is-active", "basic.target").stdout == "active\n"


def test_a_monitor_does_not_have_an_active_read_its_table(installed: tuple[Node, Machine]) -> None:
    """What a monitor is told of the flows is from before they came."""
    _, machine = installed
    machine.write("/opt/crowd", CROWD, 0o755)
    machine.write("/opt/overheard", OVERHEARD, 0o755)
    assert agent(machine, "start") == 0
    assert agent(machine, "promote") == 0
    machine.run("/opt/crowd")
    assert agent(machine, "monitor", binary="/opt/overheard") == PROMOTED
    told = json.loads(machine.path("/run/told").read_text())
    assert (told["role"], told["flows"]) == ("active", 0)
    assert told["kernel"]["entries"] >= MANY
    assert machine.status()["flows"] == MANY


def test_a_slip_in_the_configuration_does_not_fail_a_node(installed: tuple[Node, Machine]) -> None:
    _, machine = installed
    assert agent(machine, "start") == 0
    assert agent(machine, "promote") == 0
    config = machine.path("/etc/ftfw/ftfw.toml")
    config.write_text(config.read_text() + "oops\n")
    assert agent(machine, "monitor") == PROMOTED
    assert score(machine) == "-p -v 100"
    assert agent(machine, "demote") == 0
    assert agent(machine, "stop") == 0
    assert agent(machine, "start") == CONFIGURED


def test_what_is_missing_or_wrong_has_its_own_exit_code(installed: tuple[Node, Machine]) -> None:
    _, machine = installed
    assert agent(machine, "validate-all") == 0
    for action in ("validate-all", "start"):
        assert agent(machine, action, binary="/usr/bin/nothing") == INSTALLED
        assert agent(machine, action, user="nobody-at-all") == INSTALLED
        assert agent(machine, action, config="/etc/hostname") == CONFIGURED
    assert agent(machine, "monitor") == NOT_RUNNING
    assert agent(machine, "migrate_to") == 3
    machine.path("/etc/ftfw/link.key").chmod(0o644)
    assert agent(machine, "start") == GENERIC
    assert agent(machine, "monitor") == NOT_RUNNING


# The cluster's configuration, by both shells, and what Pacemaker's own scheduler would make of it


def block(begins: str) -> str:
    """The commands of docs/pacemaker.md behind a line that begins so."""
    page = (ROOT / "docs/pacemaker.md").read_text()
    found = re.search(rf"^{begins}.*:\n\n((?:    .*\n)+)", page, re.MULTILINE)
    assert found
    return found[1].strip()


def by_pcs(machine: Machine) -> None:
    machine.run("sh", "-ec", re.sub("^ *pcs ", "pcs -f /run/cib.xml ", block("With pcs"), flags=re.MULTILINE))


def by_crmsh(machine: Machine) -> None:
    machine.write("/run/crmsh", block("With crmsh") + "\n")
    machine.run("env", "CIB_file=/run/cib.xml", "crm", "configure", "load", "update", "/run/crmsh")


def simulated(machine: Machine, *more: str) -> str:
    """What Pacemaker would do; its outcome is where it goes on from."""
    simulate = ("crm_simulate", "--simulate", "--quorum=true", "--xml-file=/run/cib.xml", "--save-output=/run/cib.xml")
    return machine.run(*simulate, *more).stdout


def give_score(machine: Machine, node: str, score: int) -> None:
    """Do what the agent does at a monitor."""
    set_attribute = ("env", "CIB_file=/run/cib.xml", "crm_attribute", "--lifetime=reboot", "--name=master-ftfw")
    machine.run(*set_attribute, f"--node={node}", f"--update={score}")


@pytest.mark.parametrize("shell", [by_pcs, by_crmsh])
def test_the_pages_cluster_has_the_addresses_where_the_state_is(
    installed: tuple[Node, Machine], shell: Callable[[Machine], None]
) -> None:
    _, machine = installed
    machine.run("sh", "-c", "cibadmin --empty >/run/cib.xml")
    nodes = "".join(f'<node id="{number}" uname="fw{number}"/>' for number in (1, 2))
    cib = machine.path("/run/cib.xml")
    cib.write_text(cib.read_text().replace("<nodes/>", f"<nodes>{nodes}</nodes>"))
    machine.run("env", "CIB_file=/run/cib.xml", "crm_attribute", "--name=stonith-enabled", "--update=false")
    shell(machine)
    assert machine.run("crm_verify", "--xml-file=/run/cib.xml", "-V").stderr.strip() in {"", BLIND}
    assert "Unpromoted: [ fw1 fw2 ]" in simulated(machine, "--node-up=fw1", "--node-up=fw2")
    give_score(machine, "fw1", 50)
    give_score(machine, "fw2", 75)
    told = simulated(machine)
    assert "Promoted: [ fw2 ]" in told, told
    assert "Unpromoted: [ fw1 ]" in told
    for address in ("lan-address", "wan-address"):
        assert re.search(rf"{address}\s.*Started fw2", told), told
        in_order = rf"Resource action: ftfw\s+promote on fw2$.*Resource action: {address}\s+start on fw2$"
        assert re.search(in_order, told, re.MULTILINE | re.DOTALL), told
