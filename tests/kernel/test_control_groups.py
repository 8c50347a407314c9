"""Control groups of containers, and what killed labs left of them."""

import subprocess
from pathlib import Path

import pytest
import trio

from ftfw.lab.namespaces import PREFIX
from tests.kernel.pair import until
from vagrant.vm_lab import control_groups
from vagrant.vm_lab.vm_lab_command import remove_vm_leftovers

pytestmark = pytest.mark.kernel


def test_a_command_runs_in_its_control_group_which_can_be_removed_afterwards(tmp_path: Path) -> None:
    name = PREFIX + tmp_path.name
    own = Path("/proc/self/cgroup").read_text().splitlines()
    hierarchies = [line for line in own if line.startswith("0::") or ":name=systemd:" in line]
    assert hierarchies
    with subprocess.Popen([*control_groups.entering(f"{name}-fw1"), "cat"], stdin=subprocess.PIPE) as process:
        try:
            groups = Path(f"/proc/{process.pid}/cgroup")
            entered = {f"{line.rstrip('/')}/{name}-fw1" for line in hierarchies}
            until(lambda: entered <= set(groups.read_text().splitlines()), "it has entered them")
            assert not control_groups.remove(name)
        finally:
            process.kill()
    assert control_groups.remove(name)
    with subprocess.Popen(
        [*control_groups.entering(f"{name}-fw2"), "cat", "/proc/self/cgroup"], stdout=subprocess.PIPE
    ) as other:
        assert f"/{name}-fw2\n" in other.communicate()[0].decode()
    assert control_groups.remove(name)


def test_groups_of_a_killed_lab_are_found_at_every_depth_and_removed_when_they_are_empty(tmp_path: Path) -> None:
    """Here the groups are all that is left, below a group that `--clean` is not in, and a process still runs there."""
    lab = f"{PREFIX}{tmp_path.name.replace('-', '_')}"
    deeper = control_groups.entering(f"{lab}-elsewhere/{lab}-fw1")
    with subprocess.Popen([*deeper, "sh", "-c", "echo; sleep 0.5"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert lab in trio.run(remove_vm_leftovers)
    assert control_groups.named(lab) == []
