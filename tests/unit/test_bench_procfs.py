import os
import subprocess
import sys

import pytest

from bench import procfs

STAT = (
    "4242 (a (strange) name) S 1 4242 4242 0 -1 4194560 1000 50 0 0 123 456 7 8 20 0 3 0 99999 1000000 2048 "
    "18446744073709551615 1 1 0 0 0 0 0 16781312 16384 0 0 0 17 1 99 0 0 0 0 0 0 0 0 0 0 0 0"
)


def test_cpu_of_a_process_counts_its_waited_for_children() -> None:
    cpu = procfs.parse_cpu(STAT)
    assert cpu.user_s == pytest.approx(130 * procfs.TICK_S)
    assert cpu.system_s == pytest.approx(464 * procfs.TICK_S)
    assert cpu.total_s == pytest.approx(594 * procfs.TICK_S)
    assert (cpu - cpu).total_s == 0
    assert (cpu + cpu).total_s == pytest.approx(2 * cpu.total_s)


def test_a_process_tree_holds_the_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in set(procfs.tree(os.getpid()))
        assert procfs.tree_rss(os.getpid()) > procfs.tree_rss(child.pid)


def test_a_machine_is_busy_when_it_is_neither_idle_nor_waiting() -> None:
    text = "cpu  100 1 200 9999 50 3 4 5 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert procfs.parse_busy_s(text) == pytest.approx(313 * procfs.TICK_S)
