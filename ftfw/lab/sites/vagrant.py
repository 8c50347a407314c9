"""The lab that `vagrant up` has built: four virtual machines that stay."""

# What the methods promise stands at Site.
# ruff: noqa: D102

import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from .. import plan
from ..daemons import Daemon
from ..host import Host, LabError, run_here
from ..installed import INSTALLED
from . import ssh
from .ssh import SshHost

FOLDER = Path("vagrant")
ANSWER_LIMIT_S = 60
BOOT_LIMIT_S = 300


class VagrantSite:
    """Four machines of Vagrant's; only the firewalls lose their power."""

    daemons: Mapping[str, type[Daemon]] = INSTALLED
    patience = 8.0
    missing_rules = ""

    def __init__(self, folder: Path, config: Path) -> None:
        self._folder = folder
        self._config = config
        self._doors = {name: SshHost(name, config, sudo=True) for name in plan.HOSTS}
        self.hosts: Mapping[str, Host] = dict(self._doors)
        self.flowtables: frozenset[str] = frozenset()
        self._without_power: set[str] = set()

    async def build(self) -> None:
        """See that they all run, and begin from the ruleset that they were provisioned with."""
        states = dict(
            line.split(",")[1:4:2]
            for line in (await self._vagrant("status", "--machine-readable")).splitlines()
            if line.split(",")[2:3] == ["state"]
        )
        if missing := [
            f"{name} is {states.get(name, 'unknown')}" for name in plan.HOSTS if states.get(name) != "running"
        ]:
            raise LabError(
                f"the Vagrant lab does not stand: {', '.join(missing)}; `vagrant up` in {self._folder} builds it"
            )
        known = await self._vagrant("ssh-config")
        options = "".join(f"  {option} {value}\n" for option, value in ssh.OPTIONS.items())
        self._config.write_text(f"{known}\nHost *\n{options}")
        for door in self._doors.values():
            await door.connect(ANSWER_LIMIT_S)
        for name in plan.FIREWALLS:
            await ssh.restore_rules(self._doors[name])
        self.flowtables = frozenset([name for name in plan.FIREWALLS if await ssh.has_flowtables(self._doors[name])])

    async def _vagrant(self, *arguments: str) -> str:
        return await run_here("vagrant", *arguments, cwd=str(self._folder))

    async def add_rules(self, name: str, text: str) -> None:
        await ssh.add_rules(self._doors[name], text)

    async def cut(self, name: str) -> None:
        self._without_power.add(name)
        await self._vagrant("halt", "--force", name)
        await self._doors[name].disconnect()

    async def heal(self, name: str) -> None:
        await self._vagrant("up", "--no-provision", name)
        await self._doors[name].connect(BOOT_LIMIT_S)
        self._without_power.remove(name)

    async def describe(self) -> Sequence[str]:
        return [f"cd {self._folder} && vagrant ssh {name}" for name in self._doors]

    async def close(self) -> None:
        """Leave the machines as they were found: running, with the ruleset that they were provisioned with."""
        for name in list(self._without_power):
            await self.heal(name)
        for name, door in self._doors.items():
            if door.connected:
                if name in plan.FIREWALLS:
                    await ssh.restore_rules(door)
                await door.clear()
                await door.disconnect()


@asynccontextmanager
async def site() -> AsyncIterator[VagrantSite]:
    """Enter the lab that stands, and leave it as it was."""
    folder = Path(await trio.Path(os.environ.get("VAGRANT_CWD", FOLDER)).resolve())
    if not (folder / "Vagrantfile").exists():
        raise LabError(f"{folder} has no Vagrantfile: go to ftfw's sources, or name the directory in VAGRANT_CWD")
    with tempfile.TemporaryDirectory(prefix="ftfw-vagrant-") as state:
        made = VagrantSite(folder, Path(state) / "ssh_config")
        try:
            await made.build()
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await made.close()
