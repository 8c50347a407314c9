"""From conntrackd to ftfw while both run: docs/migration.md, step by step."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.pair import Node, address, pair, run, until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("conntrackd") is None, reason="needs conntrackd"),
]
CONF = """
Sync {
    Mode FTFW {
        DisableExternalCache @DIRECT@
    }
    Multicast {
        IPv4_address 225.0.0.51
        Group 3780
        IPv4_interface @ADDRESS@
        Interface sync
        Checksum on
    }
    Options {
        ExpectationSync On
    }
}
General {
    LogFile @WORKDIR@/conntrackd.log
    LockFile @LOCK@
    UNIX {
        Path @WORKDIR@/conntrackd.ctl
    }
    NetlinkBufferSizeMaxGrowth 8388608
    Filter From Kernelspace {
        Protocol Accept {
            TCP
        }
        Address Ignore {
            IPv4_address 127.0.0.1
            IPv4_address 203.0.113.0/24
        }
    }
}
"""


class Conntrackd:
    """The daemon on one node."""

    def __init__(self, node: Node, number: int, *, direct: str) -> None:
        self._node = node
        self.conf = node.workdir / "conntrackd.conf"
        self._lock = Path(f"/run/ftfw-test-{secrets.token_hex(3)}.lock")
        text = CONF.replace("@ADDRESS@", address("sync", number)).replace("@WORKDIR@", str(node.workdir))
        self.conf.write_text(text.replace("@LOCK@", str(self._lock)).replace("@DIRECT@", direct))
        inside = ("ip", "netns", "exec", node.namespace, "conntrackd", "-C", str(self.conf))
        self.process = subprocess.Popen(inside, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: "cache" in self.ask("-s"), f"conntrackd answers on {node.name}")

    def ask(self, *arguments: str) -> str:
        return self._node.exec("conntrackd", "-C", str(self.conf), *arguments, check=False).stdout

    def foreign(self) -> int:
        """How many of the peer's flows its external cache holds."""
        return self.ask("-e").count("src=192.0.2.10")

    def stop(self) -> None:
        """End it as its administrator does."""
        self.ask("-k")
        self.process.wait(10)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._lock.unlink(missing_ok=True)


@contextmanager
def conntrackds(nodes: tuple[Node, Node], direct: str) -> Iterator[list[Conntrackd]]:
    started: list[Conntrackd] = []
    try:
        for number, node in enumerate(nodes, start=1):
            started.append(Conntrackd(node, number, direct=direct))
        yield started
    finally:
        for each in started:
            each.end()


def translate(node: Node, conf: Path) -> None:
    """Give the node its conntrackd's configuration, with a port of its own, and with the test's own places."""
    text = node.ftfw("check", "--from-conntrackd", str(conf)).stdout
    assert "port = 3780" in text
    text = text.replace("port = 3780", "port = 3790").replace("/etc/ftfw", str(node.workdir.parent))
    node.config.write_text(f'{text}[node]\nname = "{node.name}"\n[control]\nsocket = "{node.workdir}/control.sock"\n')


def insert(node: Node, first: int, after: int) -> None:
    for number in range(first, after):
        node.insert(number)


def held(node: Node, flows: int) -> None:
    until(lambda: node.status()["synced"] and node.status()["flows"] == flows, f"{node.name} holds {flows} flows")


def longest_timer_s(node: Node) -> int:
    return max(int(line.split()[2]) for line in node.exec("conntrack", "-L").stdout.splitlines())


@contextmanager
def both_at_once(tmp_path: Path) -> Iterator[tuple[Node, Node, list[Conntrackd]]]:
    """Two nodes with twenty flows that conntrackd and ftfw have both replicated, ten of them older than ftfw."""
    with pair(tmp_path) as nodes, conntrackds(nodes, "Off") as old:
        active, backup = nodes
        insert(active, 0, 10)
        until(lambda: old[1].foreign() == 10, "conntrackd's backup has them")
        for node, each in zip(nodes, old, strict=True):
            translate(node, each.conf)
        active.start("active")
        backup.start("backup")
        insert(active, 10, 20)
        until(lambda: old[1].foreign() == 20, "conntrackd's backup has all")
        held(backup, 20)
        yield active, backup, old


def takes_over(active: Node, backup: Node, flows: int) -> None:
    expected = active.flows()
    run("ip", "-n", active.namespace, "link", "set", "sync", "down")
    active.kill()
    backup.ftfw("promote")
    assert backup.kernel_count() == flows
    assert backup.flows() == expected
    assert not backup.status()["last_commit"]["failed"]


def test_flows_survive_the_change_from_conntrackd(tmp_path: Path) -> None:
    with both_at_once(tmp_path) as (active, backup, old):
        for each in reversed(old):
            each.stop()
        assert active.kernel_count() == 20
        insert(active, 20, 30)
        held(backup, 30)
        assert backup.kernel_count() == 0  # the control: nothing has brought them there yet
        takes_over(active, backup, 30)


def test_conntrackd_can_still_take_over_while_both_run(tmp_path: Path) -> None:
    with both_at_once(tmp_path) as (active, backup, old):
        assert backup.kernel_count() == 0
        run("ip", "-n", active.namespace, "link", "set", "sync", "down")
        active.kill()
        old[1].ask("-c")
        until(lambda: backup.kernel_count() == 20, "conntrackd has committed")


def test_flows_survive_the_change_from_a_conntrackd_without_an_external_cache(tmp_path: Path) -> None:
    with pair(tmp_path) as nodes, conntrackds(nodes, "On") as old:
        active, backup = nodes
        insert(active, 0, 10)
        until(lambda: backup.kernel_count() == 10, "the backup's kernel has them")
        for node, each in zip(nodes, old, strict=True):
            translate(node, each.conf)
        old[1].stop()
        insert(active, 10, 20)
        assert backup.kernel_count() == 10  # what was there stays; the control: the rest does not come by itself
        active.start("active")
        backup.start("backup")
        held(backup, 20)
        old[0].stop()
        insert(active, 20, 30)
        held(backup, 30)
        assert longest_timer_s(active) <= 600  # nothing has come back from the backup, where timers are long
        takes_over(active, backup, 30)


@pytest.mark.parametrize(("direct", "left"), [("Off", 10), ("On", 0)])
def test_only_with_an_external_cache_may_ftfw_clean_up_beside_conntrackd(
    tmp_path: Path, direct: str, left: int
) -> None:
    """The backup was active before. Without the cache, what ftfw deletes there goes from the active's kernel, too."""
    with pair(tmp_path) as nodes, conntrackds(nodes, direct) as old:
        active, backup = nodes
        insert(backup, 0, 10)
        if direct == "Off":
            until(lambda: old[0].foreign() == 10, "conntrackd has them on the other node")
            old[0].ask("-c")
        until(lambda: active.kernel_count() == 10, "conntrackd has put them into the other kernel")
        for node, each in zip(nodes, old, strict=True):
            translate(node, each.conf)
            node.config.write_text(node.config.read_text().replace('"hot"', '"warm"'))
        active.start("active")
        backup.start("backup")
        until(lambda: backup.kernel_count() == 0, "what was left in the backup's kernel is gone")
        until(lambda: old[0].foreign() == 0, "conntrackd has told the other node")
        until(lambda: active.kernel_count() == left, "the active's kernel has what it is left with")
        held(backup, left)
