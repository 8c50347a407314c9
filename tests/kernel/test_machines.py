"""Machines that boot. One under qemu, where that is installed: `./dev setup-vm` does it."""

import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from ftfw.lab import plan
from ftfw.lab.sites import cgroup, machines, netns
from tests.kernel.pair import until

pytestmark = pytest.mark.kernel

BOX = Path(__file__).parents[2] / "vagrant/box"


async def test_a_host_may_come_back_as_soon_as_it_has_gone() -> None:
    """A namespace's own interfaces go some time after it."""
    async with netns.network() as built:
        for _ in range(20):
            await built.add(plan.FW2)
            await built.delete(plan.FW2)


def test_what_has_a_control_group_of_its_own_is_in_it_and_leaves_nothing(tmp_path: Path) -> None:
    name = netns.PREFIX + tmp_path.name
    own = Path("/proc/self/cgroup").read_text().splitlines()
    hierarchies = [line for line in own if line.startswith("0::") or ":name=systemd:" in line]
    assert hierarchies
    with subprocess.Popen([*cgroup.entering(f"{name}-fw1"), "cat"], stdin=subprocess.PIPE) as process:
        try:
            groups = Path(f"/proc/{process.pid}/cgroup")
            entered = {f"{line.rstrip('/')}/{name}-fw1" for line in hierarchies}
            until(lambda: entered <= set(groups.read_text().splitlines()), "it has entered them")
            assert not cgroup.remove(name)
        finally:
            process.kill()
    assert cgroup.remove(name)
    with subprocess.Popen(
        [*cgroup.entering(f"{name}-fw2"), "cat", "/proc/self/cgroup"], stdout=subprocess.PIPE
    ) as other:
        assert f"/{name}-fw2\n" in other.communicate()[0].decode()
    assert cgroup.remove(name)


def test_what_a_killed_lab_has_left_of_control_groups_is_found_and_waited_for(tmp_path: Path) -> None:
    """They may be all that is left, below a group that `--clean` is not in, and what was in them may yet have to go."""
    lab = f"{netns.PREFIX}{tmp_path.name.replace('-', '_')}"
    deeper = cgroup.entering(f"{lab}-elsewhere/{lab}-fw1")
    with subprocess.Popen([*deeper, "sh", "-c", "echo; sleep 0.5"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert lab in trio.run(netns.clean)
    assert cgroup.named(lab) == []


# Not a mark: a run that has skipped tests has failed.
if shutil.which("qemu-system-x86_64"):

    @pytest.fixture(scope="module")
    def image() -> Path:
        """What the lab's machines boot, with this checkout's ftfw in it."""
        subprocess.run([BOX / "install"], check=True)
        return BOX / "image"

    async def test_one_boots_loses_its_power_and_comes_back_as_it_was(image: Path) -> None:
        """With a firewall beside it whose kernel is this machine's."""
        async with machines.site(image, emulated=machines.ONE) as site:
            kernels = [await site.hosts[name].run("uname", "-r") for name in plan.FIREWALLS]
            assert kernels[0] != kernels[1]
            fw1 = site.hosts[plan.FW1]
            await fw1.run("sh", "-c", "echo kept >/root/kept; sync; touch /run/lost")
            assert await fw1.run("hostname") == "fw1\n"
            await site.cut(plan.FW1)
            await site.heal(plan.FW1)
            assert await fw1.run("cat", "/root/kept") == "kept\n"
            assert await fw1.run("sh", "-c", "ls /run/lost 2>/dev/null || echo gone") == "gone\n"
            assert await fw1.run("systemctl", "is-enabled", "ftfw") == "enabled\n"
            assert await fw1.run("sh", "-c", "ip -brief link show lan; ip -brief address show sync") != ""
            assert "203.0.113.1/26" in await fw1.run("ip", "-brief", "address", "show", "sync")
            await site.cut(plan.FW2)
            await site.heal(plan.FW2)
            assert "192.0.2.3/24" in await site.hosts[plan.FW2].run("ip", "-brief", "address", "show", "lan")
