"""The lab with firewalls that boot: virtual machines, and a container that boots on this machine's kernel.

Client and server are namespaces; firewalls are connected to the same bridges.
"""

# Site describes what the methods promise.
# ruff: noqa: D102

import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ftfw.lab import topology
from ftfw.lab.lab_host import Host, LabError, run_here
from ftfw.lab.namespaces import SWITCH, Network, network
from vagrant.vm_lab import ssh_host
from vagrant.vm_lab.booting_firewalls import (
    KERNEL,
    BootingFirewall,
    ContainerFirewall,
    EmulatedFirewall,
    accelerator,
    open_image,
)
from vagrant.vm_lab.ssh_host import SshHost

BOTH, ONE = frozenset(topology.FIREWALLS), frozenset({topology.FW1})
SWITCH_ADDRESS = "203.0.113.62/26"  # the switch's own address on the sync segment: the lab logs in from there
BOOT_LIMIT_S = 300


class MachinesSite:
    """Connects firewalls that boot with a client and a server in namespaces."""

    patience = 3.0
    missing_rules = ""

    def __init__(self, network: Network, firewalls: Mapping[str, BootingFirewall], key: Path) -> None:
        self._network = network
        self._firewalls = firewalls
        config = network.workdir / "ssh_config"
        addresses = {name: topology.ADDRESSES[name][topology.SYNC][0].partition("/")[0] for name in firewalls}
        config.write_text(
            "".join(f"Host {name}\n    HostName {address}\n" for name, address in addresses.items())
            + f"Host *\n    User root\n    IdentityFile {key}\n    IdentitiesOnly yes\n"
            + "".join(f"    {option} {value}\n" for option, value in ssh_host.OPTIONS.items())
        )
        into = ("ip", "netns", "exec", network.switch)
        self._logins = {name: SshHost(name, config, prefix=into) for name in firewalls}
        self.hosts: Mapping[str, Host] = dict(self._logins)
        self.flowtables: frozenset[str] = frozenset()

    async def build(self) -> None:
        """Boot the firewalls, and make client and server in the meantime."""
        await self._network.batch(SWITCH, ["link set lo up", f"address add {SWITCH_ADDRESS} dev {topology.SYNC}"])
        for firewall in self._firewalls.values():
            await firewall.build()
            await firewall.power_on()
        ends = {name: await self._network.add_host(name) for name in (topology.CLIENT, topology.SERVER)}
        self.hosts = {**ends, **self._logins}
        for name in self._firewalls:
            await self._wait_for_boot(name)
        self.flowtables = frozenset(
            [name for name, host in self._logins.items() if await ssh_host.has_flowtables(host)]
        )

    async def _wait_for_boot(self, name: str) -> None:
        firewall = self._firewalls[name]
        try:
            await self._logins[name].connect(BOOT_LIMIT_S, firewall.is_on)
        except LabError as error:
            console = (firewall.folder / "console").read_text(errors="replace").strip()
            raise LabError(f"{error}; the end of its console:\n{console[-2000:]}") from None

    async def add_rules(self, name: str, text: str) -> None:
        await ssh_host.add_rules(self._logins[name], text)

    async def cut(self, name: str) -> None:
        await self._firewalls[name].power_off()
        await self._logins[name].disconnect()

    async def heal(self, name: str) -> None:
        await self._firewalls[name].power_on()
        await self._wait_for_boot(name)

    async def describe(self) -> Sequence[str]:
        ends = [
            f"ip netns exec {self._network.namespace(name)} bash" for name in (topology.CLIENT, topology.SERVER, SWITCH)
        ]
        into = f"ip netns exec {self._network.switch} ssh -F {self._network.workdir}/ssh_config"
        return [*ends, *(f"{into} {name}" for name in self._logins)]

    async def close(self) -> None:
        """Switch both firewalls off for the last time."""
        for login in self._logins.values():
            await login.disconnect()
        for firewall in self._firewalls.values():
            await firewall.close()


@asynccontextmanager
async def machines_site(image: Path, *, emulated: frozenset[str]) -> AsyncIterator[MachinesSite]:
    """Boot both firewalls, yield the lab, and remove it in every case.

    `image` is the directory of the boot files. `emulated` are the firewalls that are virtual machines; the others are
    containers. Raises LabError if a tool or the image is missing, or if a firewall does not boot.
    """
    with open_image(image) as files:
        for tool in ("qemu-system-x86_64", "qemu-img", "systemd-nspawn"):
            if shutil.which(tool) is None:
                raise LabError(f"{tool} is not installed: ./dev setup-vm installs what machines need")
        async with network() as built:
            key = built.workdir / "key"
            await run_here("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(key))
            public = key.with_suffix(".pub").read_text()
            accelerated_by = await accelerator(files[KERNEL])
            firewalls: dict[str, BootingFirewall] = {}
            for name in topology.FIREWALLS:
                machine = (name, files, built, public)
                firewalls[name] = (
                    EmulatedFirewall(*machine, accelerated_by) if name in emulated else ContainerFirewall(*machine)
                )
            made = MachinesSite(built, firewalls, key)
            try:
                await made.build()
                yield made
            finally:
                with trio.CancelScope(shield=True):
                    await made.close()
