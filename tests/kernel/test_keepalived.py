"""Runs a real keepalived, and real daemons whose roles it drives."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from ftfw.daemon.roles.address_monitor import ADOPTION_S
from tests.kernel.crowd import inject_many
from tests.kernel.pair import until
from tests.kernel.vrrp import (
    CONF,
    FIFO,
    TRACK_FILE,
    VIRTUAL,
    Edit,
    Router,
    in_group,
    routers,
    with_preemption,
    without_fifo,
    without_group,
)

pytestmark = pytest.mark.kernel

Routers = tuple[Router, Router]

STYLES = {
    "notify": f"notify {CONF}/notify",
    "notify_state": "\n".join(
        f'notify_{state.lower()} "{CONF}/notify GROUP FW {state}"' for state in ("MASTER", "BACKUP", "FAULT", "STOP")
    ),
}


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Routers]:
    with routers(tmp_path, keepalived=FIFO + TRACK_FILE) as found:
        yield found


def start(*these: Router) -> None:
    """Start ftfw as backup, then keepalived, on each; the first becomes active."""
    for router in these:
        router.node.start("backup")
    for router, role in zip(these, ("active", "backup"), strict=False):
        router.start_keepalived()
        router.is_(role)
    until(lambda: all(router.node.status()["synced"] is not False for router in these), "in sync")


def test_keepalived_takes_the_configuration_in_conf(both: Routers) -> None:
    done = both[0].node.exec("keepalived", "--config-test", "--use-file", str(CONF / "keepalived.conf"), check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_fifo_moves_the_role_with_the_addresses_also_after_a_reload(both: Routers) -> None:
    first, second = both
    start(first, second)  # none of them is ready, and they do not wait for each other
    first.configure(in_group("# reloaded"))
    first.reload_keepalived()
    for number in range(5):
        first.node.insert(number)
    until(lambda: second.node.status()["flows"] == 5, "the flows are held")
    first.link("wan", "down")  # of one instance, and the group goes with it
    second.is_("active")
    first.is_("backup")
    assert len(second.node.flows()) == 5
    assert second.node.status()["last_commit"]["created"] == 5
    first.link("wan", "up")
    until(lambda: first.node.status()["keepalived"]["instances"] == {"GROUP FW": "BACKUP"}, "no fault any more")
    assert (first.node.status()["role"], second.node.status()["role"]) == ("backup", "active")
    second.node.kill()
    second.node.start("backup")
    until(lambda: second.node.status()["keepalived"]["disagreement"], "a backup with the addresses")
    second.reload_keepalived()  # it says its state again
    second.is_("active")
    second.stop_keepalived()  # STOP
    second.is_("backup")
    first.is_("active")
    assert [router.node.status()["keepalived"]["disagreement"] for router in both] == [None, None]
    assert first.node.log.read_text().count(f"{first.node.name} is active") == 2


def test_a_backup_with_the_addresses_becomes_active_once_no_other_is_and_then_does_what_keepalived_says(
    both: Routers,
) -> None:
    first, second = both
    start(first, second)
    first.node.kill()
    second.node.ftfw("promote")
    first.node.start("backup")
    heard_for_long(first)
    assert (first.node.status()["role"], first.has_addresses()) == ("backup", True)
    assert "becomes active" not in first.node.log.read_text()
    second.node.ftfw("demote")
    first.is_("active")
    assert first.node.log.read_text().count("this node becomes active") == 1
    first.link("wan", "down")  # FAULT
    first.is_("backup")
    second.is_("active")


def test_who_demotes_a_backup_with_the_addresses_is_obeyed(both: Routers) -> None:
    first, second = both
    start(first, second)
    first.node.kill()
    first.node.start("backup")
    first.node.ftfw("demote")
    heard_for_long(first)
    assert first.node.status()["role"] == "backup"


def test_with_preemption_a_restart_of_the_daemon_moves_nothing(both: Routers) -> None:
    for router in both:
        router.configure(with_preemption)
    first, second = both
    start(first, second)
    until(lambda: "priority from 40 to 100" in first.log.read_text(), "keepalived knows that it is ready")
    until(lambda: second.node.status()["ready"], "the other one would take over")
    before = first.log.read_text()
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGTERM):  # the third finds a backup, before it is active again
        first.node.kill(how)
        first.node.start("backup")
    first.is_("active")
    assert (first.node.workdir / "ready").read_text() == "0\n"
    assert "effective priority" not in first.log.read_text().removeprefix(before)
    assert "Entering MASTER STATE" not in second.log.read_text()


def heard_for_long(router: Router) -> None:
    """Wait until a node has heard the other one in its role for longer than a backup waits before it becomes active."""
    until(
        lambda: all(
            peer["heard_for_s"] > 2 * ADOPTION_S for peer in router.node.status()["peers"] or [{"heard_for_s": 0}]
        ),
        "the other one is heard",
    )


def test_a_killed_keepalived_leaves_an_active_that_agrees_with_its_addresses_until_they_go(both: Routers) -> None:
    first, second = both
    start(first, second)
    first.kill_keepalived()
    second.is_("active")
    until(lambda: first.node.status()["conflict"] and second.node.status()["conflict"], "both know of each other")
    assert first.has_addresses()
    first.node.exec("ip", "address", "delete", f"{VIRTUAL['lan']}/24", "dev", "lan")
    told = until(lambda: first.node.status()["keepalived"]["disagreement"], "a disagreement")
    assert told == f"this node is active without {VIRTUAL['lan']}"
    assert first.node.log.read_text().count(told) == 1
    assert first.node.status()["keepalived"]["addresses_here"] == [VIRTUAL["wan"]]
    first.node.exec("ip", "address", "delete", f"{VIRTUAL['wan']}/24", "dev", "wan")
    first.start_keepalived()  # it hears the other one, and says BACKUP
    first.is_("backup")
    until(lambda: first.node.status()["keepalived"]["disagreement"] is None, "agreement")


def test_a_keepalived_that_makes_and_removes_the_fifo_itself_is_heard_whenever_it_comes(both: Routers) -> None:
    router, _ = both
    router.start_keepalived()
    until(router.has_addresses, "MASTER, and nobody listens")
    made = os.open(router.fifo, os.O_PATH)  # as long as it is open, no other file has its number
    router.node.start("backup")
    router.is_("active")  # what it said is in the FIFO
    router.stop_keepalived()
    router.is_("backup")
    until(lambda: router.fifo.exists() and not os.path.samestat(router.fifo.stat(), os.fstat(made)), "another FIFO")
    os.close(made)
    router.start_keepalived()
    router.is_("active")
    router.stop_keepalived()
    router.is_("backup")
    assert router.fifo.exists()  # it removes its own only


def test_a_keepalived_that_found_no_fifo_is_told_and_its_node_takes_over_all_the_same(tmp_path: Path) -> None:
    late = (FIFO + TRACK_FILE).replace("{workdir}", "{workdir}/run") + '[takeover]\ngate_interfaces = ["lan", "wan"]\n'
    with routers(tmp_path, keepalived=late) as (first, second):
        for router in (first, second):
            router.fifo = router.node.workdir / "run/fifo"
            router.configure(tracking(router.node.workdir / "run/ready"))
        start(first)
        assert first.node.status()["keepalived"]["fifo_writer"] is True
        second.start_keepalived()  # before there is a directory
        until(lambda: "Unable to create" in second.log.read_text(), "it has no FIFO")
        second.node.start("backup")
        for number in range(5):
            first.node.insert(number)
        until(lambda: (s := second.node.status())["flows"] == 5 and s["synced"], "the flows are held")
        until(lambda: second.node.status()["keepalived"]["fifo_writer"] is False, "nobody writes")
        checked = second.node.ftfw("check", check=False).stdout
        assert re.search(r"problem +keepalived: it runs and has not opened .*: ftfw learns of no failover", checked)
        first.kill_keepalived()
        first.node.kill()
        for interface in ("lan", "wan", "sync"):
            first.link(interface, "down")
        second.is_("active")
        assert second.node.status()["last_commit"]["created"] == 5
        assert not second.node.status()["gate"]["shut"]
        assert "without a notification of keepalived since this daemon started" in second.node.log.read_text()
        second.reload_keepalived()
        told = {"GROUP FW": "MASTER"}
        until(lambda: (s := second.node.status()["keepalived"])["instances"] == told and s["fifo_writer"], "it speaks")
        assert "it runs and has not opened" not in second.node.ftfw("check", check=False).stdout


def tracking(file: Path) -> Edit:
    """Return an edit that puts the track_file there."""
    return lambda text: re.sub(r"\S*/ready ", f"{file} ", text)


def test_a_storm_of_notifications_ends_in_the_state_of_the_last(both: Routers) -> None:
    router, _ = both
    router.node.start("backup")
    for storm, states in enumerate((("BACKUP", "MASTER"), ("MASTER", "BACKUP")), start=1):
        for number in range(100):
            router.write_fifo(f'GROUP "FW" {states[number % 2]} 0\n'.encode())
        router.write_fifo(b'GROUP "FW" MASTER_PRIORITY 0\n')  # says nothing of the role, and shows that all is read
        seen = {"no_state": storm}
        until(lambda seen=seen: router.node.status()["keepalived"]["dropped"] == seen, "all is read")  # type: ignore[misc]
        role = "active" if states[1] == "MASTER" else "backup"
        until(lambda role=role: router.node.status()["role"] == role, f"it is {role}")  # type: ignore[misc]
    assert router.node.log.read_text().count("commit: ") <= 50


def ask_at_once(router: Router, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send all requests without waiting for an answer, and return the last line of each answer."""
    with ExitStack() as stack:
        connections = []
        for request in requests:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(30)
            connection.connect(str(router.node.workdir / "control.sock"))
            connection.sendall(json.dumps(request).encode() + b"\n")
            connections.append(connection)
        return [json.loads(each.makefile().readlines()[-1]) for each in connections]


def test_a_storm_of_hooks_during_a_slow_commit_ends_in_the_state_of_the_last_and_none_is_refused(
    tmp_path: Path,
) -> None:
    count = 60000
    with routers(tmp_path, keepalived='[keepalived]\ninstances = ["FW"]\n') as (active, backup):
        active.node.start("active")
        backup.node.start("backup")
        active.node.inside(lambda: trio.run(inject_many, count))
        until(lambda: (s := backup.node.status())["flows"] == count and s["synced"], "held")
        for last, role in (("MASTER", "active"), ("BACKUP", "backup")):
            states = {"MASTER": ("BACKUP", "MASTER"), "BACKUP": ("MASTER", "BACKUP")}[last]
            storm = [{"command": "notify", "type": "GROUP", "name": "FW", "state": state} for state in 50 * states]
            answers = ask_at_once(backup, storm)
            assert [each for each in answers if "error" in each] == []
            assert answers[-1]["result"]["role"] == role
            status = backup.node.status()
            assert (status["role"], status["keepalived"]["instances"]) == (role, {"GROUP FW": last})
        assert backup.node.log.read_text().count("commit: ") < 20  # they came faster than commits are done


@pytest.mark.parametrize("style", STYLES)
def test_hook_scripts_drive_the_role_in_every_style(tmp_path: Path, style: str) -> None:
    with routers(tmp_path, keepalived='[keepalived]\ninstances = ["FW"]\n') as (router, _):
        router.configure(without_fifo, in_group(STYLES[style]))
        router.node.start("backup")
        router.start_keepalived()
        router.is_("active")
        router.link("lan", "down")
        router.is_("backup")
        assert router.node.status()["keepalived"]["instances"] == {"GROUP FW": "FAULT"}
        router.stop_keepalived()
        until(lambda: router.node.status()["keepalived"]["instances"] == {"GROUP FW": "STOP"}, "STOP")


def test_a_hook_that_comes_too_late_is_told_and_settled_by_the_next_word(tmp_path: Path) -> None:
    keys = FIFO.replace('fifo = "{workdir}/fifo"\n', "")
    with routers(tmp_path, keepalived=keys) as (first, second):
        for router in (first, second):
            router.configure(without_fifo, in_group(STYLES["notify"]))
        start(first, second)
        until(
            lambda: (second.node.status()["keepalived"] or {}).get("instances") == {"GROUP FW": "BACKUP"},
            "its own hook",
        )
        path = f"{second.node.workdir}/bin:{os.environ['PATH']}"
        second.node.exec("env", f"PATH={path}", str(CONF / "notify"), "GROUP", "FW", "MASTER", "0")
        told = f"this node is active without {', '.join(VIRTUAL.values())}"
        until(lambda: second.node.status()["keepalived"]["disagreement"] == told, "it is told")
        until(lambda: all(router.node.status()["conflict"] for router in (first, second)), "both say so")
        checked = second.node.ftfw("check", check=False)
        assert (checked.returncode, told in checked.stdout) == (1, True)
        second.node.ftfw("demote")
        second.is_("backup")
        until(lambda: second.node.status()["synced"], "it holds again what the active has")
        first.is_("active")
        assert not first.node.status()["conflict"]


def test_without_a_group_every_instance_has_to_be_master(tmp_path: Path) -> None:
    several = FIFO.replace('"FW"', '"LAN", "WAN"')
    with routers(tmp_path, keepalived=several) as (router, _):
        router.configure(without_group)
        router.node.start("backup")
        router.start_keepalived()
        router.is_("active")
        router.link("wan", "down")
        until(lambda: router.node.status()["role"] == "backup", "backup")
        assert router.node.status()["keepalived"]["instances"] == {"INSTANCE LAN": "MASTER", "INSTANCE WAN": "FAULT"}
        told = f"this node is backup, and {VIRTUAL['lan']} is here"
        until(lambda: router.node.status()["keepalived"]["disagreement"] == told, "half a MASTER is told")


def test_a_node_that_is_not_ready_lets_the_other_one_go_first(tmp_path: Path) -> None:
    with routers(tmp_path, keepalived=FIFO + TRACK_FILE) as (first, second):
        first.link("sync", "down")
        first.node.start("backup")  # the higher priority, and nothing to go on with
        second.node.start("active")
        for router in (second, first):
            router.configure(with_preemption)
            router.start_keepalived()
            until(second.has_addresses, "the lower priority is MASTER")
        until(lambda: "Entering BACKUP STATE" in first.log.read_text(), "the higher one lets it be")
        assert "effective priority from 100 to 40" in first.log.read_text()
        assert [(router.node.workdir / "ready").read_text() for router in (first, second)] == ["1\n", "0\n"]
        first.link("sync", "up")
        first.is_("active")  # in sync, and of the higher priority
        second.is_("backup")
