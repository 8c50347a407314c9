"""Two real daemons on a real kernel: what a backup holds, and what becomes of it."""

import re
import secrets
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from ftfw.kernel import create
from ftfw.security import key_file
from ftfw.security.frames import key_id
from tests.kernel.crowd import inject_many
from tests.kernel.pair import Node, flow_arguments, pair, until

pytestmark = pytest.mark.kernel

Pair = tuple[Node, Node]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as both:
        yield both


def held(node: Node, count: int) -> None:
    until(lambda: (s := node.status())["synced"] and s["flows"] == count, f"{node.name} holds {count} flows in sync")


def start_both(active: Node, backup: Node) -> None:
    active.start("active")
    backup.start("backup")
    until(lambda: backup.status()["synced"], "in sync")


def test_a_late_backup_gets_the_whole_table_and_then_what_changes(nodes: Pair) -> None:
    active, backup = nodes
    active.start("active")
    for number in range(20):
        active.insert(number)
    backup.start("backup")
    held(backup, 20)
    assert backup.status()["why_not_synced"] is None
    until(lambda: active.status()["synced"], "the active knows it")
    assert active.status()["why_not_synced"] is None
    active.exec("conntrack", "-D", *flow_arguments(3))
    active.insert(20)
    active.exec("conntrack", "-U", *flow_arguments(4), "--mark", "7")
    held(backup, 20)
    until(lambda: backup.flows() == active.flows(), "equality")
    shown = {flow["original"]["sport"]: flow for flow in backup.flows()}
    assert 10003 not in shown
    assert 10020 in shown
    assert shown[10004]["mark"] == 7


def test_promote_puts_everything_in_and_streams_none_of_it_back(nodes: Pair) -> None:
    active, backup = nodes
    for number in range(20):
        active.insert(number)
    start_both(active, backup)
    held(backup, 20)
    assert backup.kernel_count() == 0
    wanted = backup.flows()
    active.kill()
    backup.ftfw("promote")
    status = backup.status()
    assert status["role"] == "active"
    assert status["last_commit"]["created"] == 20
    assert status["last_commit"]["failed"] == {}
    assert backup.flows() == wanted
    assert status["kernel"]["events"] == 0


def test_promoting_an_active_changes_nothing(nodes: Pair) -> None:
    active, _ = nodes
    active.start("active")
    assert active.ftfw("promote").returncode == 0
    assert active.status()["last_commit"] is None


def test_an_active_that_was_killed_is_followed_again(nodes: Pair) -> None:
    active, backup = nodes
    active.insert(0)
    active.insert(1)
    start_both(active, backup)
    held(backup, 2)
    active.kill()
    active.exec("conntrack", "-D", *flow_arguments(0))
    active.insert(2)
    active.start("active")
    until(lambda: backup.status()["synced"] and backup.flows() == active.flows(), "equality after the restart")


def test_there_and_back_leaves_nothing_stale_and_loses_nothing(nodes: Pair) -> None:
    first, second = nodes
    for number in range(10):
        first.insert(number)
    start_both(first, second)
    held(second, 10)
    first.ftfw("demote")
    assert first.kernel_count() >= 10  # its own table is its store until a snapshot is in
    second.ftfw("promote")
    second.exec("conntrack", "-D", *flow_arguments(0))
    second.insert(10)
    until(lambda: first.status()["synced"] and first.flows() == second.flows(), "the first one follows")
    until(lambda: "192.0.2.10" not in first.exec("conntrack", "-L").stdout, "nothing stale in its kernel")
    second.ftfw("demote")
    first.ftfw("promote")
    assert {flow["original"]["sport"] for flow in first.flows()} == {10000 + n for n in range(1, 11)}


def test_takeovers_faster_than_snapshots_commit_nothing_empty(nodes: Pair) -> None:
    first, second = nodes
    for number in range(10):
        first.insert(number)
    start_both(first, second)
    held(second, 10)
    second.kill()
    first.ftfw("demote")
    first.ftfw("promote")
    assert {flow["original"]["sport"] for flow in first.flows()} == {10000 + n for n in range(10)}


def test_an_overrun_costs_a_snapshot_and_nothing_else(tmp_path: Path) -> None:
    with pair(tmp_path, more="[kernel]\nevent_buffer_bytes = 65536\n") as (active, backup):
        start_both(active, backup)
        active.inside(lambda: trio.run(inject_many, 20000))
        until(lambda: active.status()["kernel"]["overruns"] > 0, "an overrun")
        held(backup, 20000)
        assert backup.flows() == active.flows()


def test_flows_that_end_on_the_node_are_never_replicated(nodes: Pair) -> None:
    active, backup = nodes
    start_both(active, backup)
    own = ["-p", "tcp", "-s", "203.0.113.1", "-d", "198.51.100.10", "--sport", "9000", "--dport", "80"]
    active.exec("conntrack", "-I", *own, "--timeout", "600", "--state", "ESTABLISHED")
    active.insert(1)
    held(backup, 1)
    until(lambda: active.status()["flows"] == 1, "the active counts one")


def test_forged_datagrams_are_counted_and_nothing_else(nodes: Pair) -> None:
    active, backup = nodes
    under = key_id(key_file.read(active.workdir.parent / "link.key"))
    active.insert(1)
    start_both(active, backup)
    held(backup, 1)

    def forge() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("203.0.113.1"))
            for size in range(200):
                sender.sendto(secrets.token_bytes(size), ("225.0.0.50", 3780))
                sender.sendto(b"FW\x01\x00" + secrets.token_bytes(size + 100), ("225.0.0.50", 3780))
                sender.sendto(b"FW\x01\x00" + under + secrets.token_bytes(size), ("225.0.0.50", 3780))

    active.inside(forge)
    refused = until(lambda: sum((d := backup.status()["link"]["dropped"]).values()) >= 600 and d, "all of them counted")
    assert refused["kernel"] == 400  # no frames, or under another key: dropped before they cost anything
    assert refused["short"] + refused["forged"] == 200
    assert backup.status()["synced"]
    assert len(backup.flows()) == 1


def test_two_actives_are_reported_by_both(nodes: Pair) -> None:
    first, second = nodes
    start_both(first, second)
    second.ftfw("promote")
    until(lambda: first.status()["conflict"] and second.status()["conflict"], "conflict on both")
    assert first.status()["role"] == second.status()["role"] == "active"
    second.ftfw("demote")
    until(lambda: not first.status()["conflict"] and second.status()["synced"], "conflict over, snapshot in")


def test_a_hot_backup_follows_in_its_kernel(tmp_path: Path) -> None:
    with pair(tmp_path, mode="hot") as (active, backup):
        for number in range(10):
            active.insert(number)
        start_both(active, backup)
        until(lambda: backup.kernel_count() >= 10, "the kernel follows")
        active.exec("conntrack", "-D", *flow_arguments(0))
        until(lambda: "sport=10000" not in backup.exec("conntrack", "-L").stdout, "the destroy follows")
        timers = [
            line.split()[2] for line in backup.exec("conntrack", "-L").stdout.splitlines() if "192.0.2.10" in line
        ]
        assert all(int(timer) > 600 for timer in timers)
        active.kill()
        backup.ftfw("promote")
        wait = "timers as the state gives them"
        until(lambda: all(int(t) <= 432000 for t in _timers(backup)), wait)
        assert len(_timers(backup)) == 9


def test_a_hot_backup_is_in_sync_once_the_snapshot_is_in_its_kernel(tmp_path: Path) -> None:
    with pair(tmp_path, mode="hot") as (active, backup):
        active.start("active")
        active.inside(partial(trio.run, inject_many, 50_000))
        backup.start("backup")
        until(lambda: backup.status()["synced"], "in sync")
        assert backup.kernel_count() >= 50_000


def _timers(node: Node) -> list[str]:
    return [line.split()[2] for line in node.exec("conntrack", "-L").stdout.splitlines() if "192.0.2.10" in line]


def test_a_hot_backup_that_was_emptied_is_filled_after_its_promotion(tmp_path: Path) -> None:
    with pair(tmp_path, mode="hot") as (active, backup):
        for number in range(10):
            active.insert(number)
        start_both(active, backup)
        until(lambda: len(_timers(backup)) == 10, "the kernel follows")
        active.kill()
        backup.exec("conntrack", "-F")
        backup.ftfw("promote")
        until(lambda: len(_timers(backup)) == 10, "the kernel has what was held")
        until(lambda: backup.status()["last_commit"]["created"] == 10, "and the promotion says so")


def test_a_hot_backup_that_is_started_again_as_active_settles_its_timers(tmp_path: Path) -> None:
    with pair(tmp_path, mode="hot") as (active, backup):
        active.insert(0)
        start_both(active, backup)
        until(lambda: _timers(backup), "the kernel follows")
        backup.kill()
        active.kill()
        assert int(_timers(backup)[0]) > create.DOUBTED_S
        backup.start("active")
        until(lambda: int(_timers(backup)[0]) <= 432000, "a timer as the state gives it")


def test_there_and_back_between_hot_nodes_brings_no_pinned_timer(tmp_path: Path) -> None:
    """The new active's snapshot may be quicker than the pass that settles its timers."""
    with pair(tmp_path, mode="hot") as (first, second):
        first.inside(lambda: trio.run(inject_many, 5000))
        start_both(first, second)
        until(lambda: second.kernel_count() >= 5000, "the kernel follows")
        first.ftfw("demote")
        second.ftfw("promote")
        held(first, 5000)
        second.kill()
        first.ftfw("promote")
        until(lambda: max(map(int, _timers(first))) <= 600, "timers as their states give them")
        assert len(_timers(first)) == 5000


CUT = """
table inet cut {
    chain c {
        type filter hook input priority filter
        udp dport 3780 quota over 60000 bytes counter drop
    }
}
"""


@pytest.mark.parametrize("mode", ["warm", "hot"])
def test_a_promotion_in_the_middle_of_a_snapshot_has_what_came(tmp_path: Path, mode: str) -> None:
    """The beginning of the snapshot gets through, and nothing after it."""
    with pair(tmp_path, mode=mode) as (active, backup):
        active.inside(lambda: trio.run(inject_many, 20000))
        active.start("active")
        backup.nft(CUT)
        backup.start("backup")
        until(lambda: "packets 0 " not in backup.exec("nft", "list", "table", "inet", "cut").stdout, "the cut")
        active.kill()
        promoted = backup.ftfw("promote")
        there = len(_timers(backup))
        assert 0 < there < 20000
        assert f"{there} flows" in promoted.stdout + promoted.stderr
        assert "a snapshot was under way" in promoted.stdout + promoted.stderr
        assert backup.status()["last_commit"]["failed"] == {}


def test_sigterm_ends_the_daemon_cleanly(nodes: Pair) -> None:
    active, _ = nodes
    active.start("active")
    assert active.kill(signal.SIGTERM) == 0
    assert not (active.workdir / "control.sock").exists()


def failed_start(node: Node, *wrapper: str) -> str:
    daemon = [*wrapper, sys.executable, "-m", "ftfw", "--role", "backup", "--config", str(node.config)]
    done = subprocess.run(
        ["ip", "netns", "exec", node.namespace, *daemon], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_start_without_a_key_names_it(nodes: Pair) -> None:
    (nodes[0].workdir.parent / "link.key").unlink()
    assert "ftfw keygen" in failed_start(nodes[0])


def test_start_with_a_readable_key_tells_the_remedy(nodes: Pair) -> None:
    (nodes[0].workdir.parent / "link.key").chmod(0o644)
    assert "chmod" in failed_start(nodes[0])


def test_start_without_the_capability_tells_the_remedy(nodes: Pair) -> None:
    wrapper = ("setpriv", "--inh-caps=-all", "--bounding-set=-net_admin")
    assert "CAP_NET_ADMIN" in failed_start(nodes[0], *wrapper)


def test_start_beside_another_daemon_names_the_socket(nodes: Pair) -> None:
    nodes[0].start("active")
    assert "control.sock" in failed_start(nodes[0])


def test_keys_rotate_by_sighup_without_a_gap(nodes: Pair, tmp_path: Path) -> None:
    """The configuration names two files: what is in them is changed step by step, one node after the other."""
    active, backup = nodes
    spare = tmp_path / "spare.key"
    active.ftfw("keygen", str(spare))
    for node in nodes:
        for name, source in (("first.key", tmp_path / "link.key"), ("second.key", spare)):
            (node.workdir / name).write_bytes(source.read_bytes())
            (node.workdir / name).chmod(0o600)
        text = node.config.read_text()
        both = f'["{node.workdir}/first.key", "{node.workdir}/second.key"]'
        node.config.write_text(text.replace(f'["{tmp_path}/link.key"]', both))
    start_both(active, backup)
    before = backup.status()
    for number, node in enumerate(nodes):
        first, second = ((node.workdir / name).read_bytes() for name in ("first.key", "second.key"))
        (node.workdir / "first.key").write_bytes(second)
        (node.workdir / "second.key").write_bytes(first)
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        until(lambda node=node: "keys read" in node.log.read_text(), "the keys are read")  # type: ignore[misc]
        active.insert(number)
        held(backup, number + 1)
    after = backup.status()
    assert after["stream"]["snapshots"] == before["stream"]["snapshots"]
    assert after["link"]["dropped"] == before["link"]["dropped"]


def test_keys_rotate_as_the_page_tells(nodes: Pair, tmp_path: Path) -> None:
    """docs/security.md: second on all nodes, first node after node, the old one away."""
    active, backup = nodes
    active.ftfw("keygen", str(tmp_path / "new.key"))
    start_both(active, backup)
    before = backup.status()
    reloads = Counter[str]()
    for flows, (names, node) in enumerate(
        ((names, node) for names in (("link", "new"), ("new", "link"), ("new",)) for node in nodes), start=1
    ):
        files = ", ".join(f'"{tmp_path}/{name}.key"' for name in names)
        text = re.sub("^key_files = .*$", f"key_files = [{files}]", node.config.read_text(), flags=re.MULTILINE)
        node.config.write_text(text)
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        reloads[node.name] += 1
        until(partial(has_read_keys, node, reloads[node.name]), "the keys are read")
        active.insert(flows)
        held(backup, flows)
    for node in nodes:
        assert re.findall(r"SIGHUP: (.*) keys read", node.log.read_text()) == ["2", "2", "1"]
        assert "changed since the start" not in node.log.read_text()
    after = backup.status()
    assert after["stream"]["snapshots"] == before["stream"]["snapshots"]
    assert after["link"]["dropped"] == before["link"]["dropped"]


def has_read_keys(node: Node, times: int) -> bool:
    return node.log.read_text().count("keys read") == times


def test_a_reload_tells_what_it_does_not_use(nodes: Pair) -> None:
    node, _ = nodes
    node.start("active")
    assert node.process is not None
    node.config.write_text(node.config.read_text().replace('mode = "warm"', 'mode = "hot"'))
    node.process.send_signal(signal.SIGHUP)
    changed = f"{node.config}: standby.mode changed since the start; restart ftfw to apply it"
    until(lambda: changed in node.log.read_text(), "the change is told")
    assert node.status()["mode"] == "warm"
    node.config.write_text(node.config.read_text() + "oops\n")
    node.process.send_signal(signal.SIGHUP)
    until(lambda: "the next start will fail: " in node.log.read_text(), "the slip is told")
    assert node.status()["role"] == "active"


def test_a_node_of_the_same_name_is_refused_and_told(nodes: Pair) -> None:
    active, backup = nodes
    active.start("active")
    backup.config.write_text(backup.config.read_text().replace('name = "fw2"', 'name = "fw1"'))
    backup.start("backup")
    for node in nodes:
        until(lambda node=node: "calls itself fw1" in node.log.read_text(), "both tell")  # type: ignore[misc]
        assert node.status()["peers"] == []


def test_a_start_that_is_refused_disturbs_no_stream(nodes: Pair) -> None:
    active, backup = nodes
    start_both(active, backup)
    before = backup.status()
    for role in ("active", "backup"):
        refused = active.ftfw("--role", role, check=False)
        assert refused.returncode == 1, refused.stderr
    active.insert(1)
    held(backup, 1)
    after = backup.status()
    assert after["stream"] == before["stream"]
    assert after["link"]["dropped"] == before["link"]["dropped"]
