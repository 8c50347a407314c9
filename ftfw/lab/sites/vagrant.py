"""The lab that `vagrant up` has built: four virtual machines that stay."""

# What the methods promise stands at Site.
# ruff: noqa: D102

import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ftfw.lab import plan
from ftfw.lab.host import Host, LabError, run_here
from ftfw.lab.installed import CONFIG, replace
from ftfw.lab.sites import ssh
from ftfw.lab.sites.netns import PREFIX, claimed
from ftfw.lab.sites.ssh import SshHost

FOLDER = Path("vagrant")
LIBVIRT = Path("/run/netns/ftfw-vagrant")  # where vagrant/with-libvirt has libvirtd, and the machines' network
PROVISIONED = "/var/lib/ftfw-lab-provisioned"  # which Vagrantfile has made when all is done
SERVICES = ("vsftpd", "nginx", "ftfw-lab-dns")  # the server's own, which have the ports that the lab's need
# Left by a firewall that shuts down, and by none whose power is cut.
WITNESS = "/var/lib/ftfw-lab-shut-down"
NO_CUT = "`vagrant halt --force {name}` has shut it down: that takeover was none of a power cut"
FORGET = f"systemctl stop ftfw-lab-witness 2>/dev/null; rm -f {WITNESS}"
ANSWER_LIMIT_S = 60
BOOT_LIMIT_S = 300


class VagrantSite:
    """Four machines of Vagrant's; only the firewalls lose their power."""

    patience = 8.0
    missing_rules = ""

    def __init__(self, folder: Path, config: Path) -> None:
        self._folder = folder
        self._config = config
        self._doors = {name: SshHost(name, config, sudo=True) for name in plan.HOSTS}
        self.hosts: Mapping[str, Host] = dict(self._doors)
        self.flowtables: frozenset[str] = frozenset()
        self._without_power: set[str] = set()
        self._configurations: dict[str, str] = {}

    async def build(self) -> None:
        """See that they all run, and begin from the ruleset that they were provisioned with."""
        try:
            told = await self._vagrant("status", "--machine-readable")
        except LabError as error:
            start = f"where no libvirtd runs, `{self._folder}/with-libvirt ./failover` starts one"
            raise LabError(f"Vagrant cannot tell of the lab: {error}; {start}") from None
        states = dict(line.split(",")[1:4:2] for line in told.splitlines() if line.split(",")[2:3] == ["state"])
        if missing := [
            f"{name} is {states.get(name, 'unknown')}" for name in plan.HOSTS if states.get(name) != "running"
        ]:
            raise LabError(f"the Vagrant lab does not stand: {', '.join(missing)}; `{self._command('up')}` builds it")
        known = await self._vagrant("ssh-config")
        options = "".join(f"  {option} {value}\n" for option, value in ssh.OPTIONS.items())
        self._config.write_text(f"{known}\nHost *\n{options}")
        for door in self._doors.values():
            await door.connect(ANSWER_LIMIT_S)
        await self._begin()
        self.flowtables = frozenset([name for name in plan.FIREWALLS if await ssh.has_flowtables(self._doors[name])])

    async def _begin(self) -> None:
        """Look whether all of it is provisioned, and keep what a run changes."""
        for name, door in self._doors.items():
            if "no" in await door.run("sh", "-c", f"[ -e {PROVISIONED} ] || echo no"):
                raise LabError(f"{name} is provisioned by half: `{self._command(f'provision {name}')}` mends it")
        for name in plan.FIREWALLS:
            await ssh.restore_rules(self._doors[name])
            self._configurations[name] = await self._doors[name].run("cat", CONFIG)
            await self._watch(name)
        await self._doors[plan.SERVER].run("systemctl", "stop", *SERVICES)

    async def _vagrant(self, *arguments: str) -> str:
        return await run_here("vagrant", *arguments, cwd=str(self._folder))

    def _command(self, arguments: str) -> str:
        """Return the shell's command that runs Vagrant as the lab does."""
        if LIBVIRT.exists():
            return f"{self._folder}/with-libvirt vagrant {arguments}"
        return f"cd {self._folder} && vagrant {arguments}"

    async def add_rules(self, name: str, text: str) -> None:
        await ssh.add_rules(self._doors[name], text)

    async def _watch(self, name: str) -> None:
        """Have the firewall leave WITNESS, should it shut down."""
        await self._doors[name].run("sh", "-c", FORGET)  # of a lab that was interrupted
        settings = ("--property=RemainAfterExit=yes", f"--property=ExecStop=touch {WITNESS}")
        await self._doors[name].run("systemd-run", "--quiet", "--unit=ftfw-lab-witness", *settings, "true")

    async def cut(self, name: str) -> None:
        self._without_power.add(name)
        await self._vagrant("halt", "--force", name)
        await self._doors[name].disconnect()

    async def heal(self, name: str) -> None:
        await self._power_on(name)
        if await self._was_shut_down(name):
            raise LabError(NO_CUT.format(name=name))
        await self._watch(name)

    async def _power_on(self, name: str) -> None:
        await self._vagrant("up", "--no-provision", name)
        await self._doors[name].connect(BOOT_LIMIT_S)
        self._without_power.remove(name)

    async def _was_shut_down(self, name: str) -> bool:
        return bool(await self._doors[name].run("sh", "-c", f"[ ! -e {WITNESS} ] || rm -v {WITNESS}"))

    async def describe(self) -> Sequence[str]:
        return [self._command(f"ssh {name}") for name in self._doors]

    async def close(self) -> list[str]:
        """Leave the machines as they were found: running, with their own rules, configuration and services.

        Returns what went wrong.
        """
        troubles = []
        for name, door in self._doors.items():
            try:
                if await self._restore(name):
                    troubles.append(NO_CUT.format(name=name))
            except LabError as error:
                mend = self._command("up --provision")
                troubles.append(f"{name} is not as it was: {error}; `{mend}` mends it")
            finally:
                await door.disconnect()
        return troubles

    async def _restore(self, name: str) -> bool:
        """Restore one; whether it had been shut down and not cut off."""
        shut_down = False
        if name in self._without_power:
            await self._power_on(name)
            shut_down = await self._was_shut_down(name)
        door = self._doors[name]
        if not door.connected:
            return shut_down  # it was never reached
        if name in self._configurations:
            await door.run("sh", "-c", FORGET)
            await ssh.restore_rules(door)
            await replace(door, CONFIG, self._configurations[name])
            await door.run("systemctl", "enable", "ftfw", "keepalived")
            await door.run("systemctl", "restart", "ftfw", "keepalived")
        if name == plan.SERVER:
            await door.run("systemctl", "start", *SERVICES)
        await door.clear()
        return shut_down


def _out_of_reach() -> bool:
    """Whether the machines are in a network namespace, and this process is not."""
    return LIBVIRT.exists() and not LIBVIRT.samefile("/proc/self/ns/net")


@asynccontextmanager
async def site() -> AsyncIterator[VagrantSite]:
    """Enter the lab that stands, and leave it as it was."""
    folder = Path(await trio.Path(os.environ.get("VAGRANT_CWD", FOLDER)).resolve())
    if not (folder / "Vagrantfile").exists():
        raise LabError(f"{folder} has no Vagrantfile: go to ftfw's sources, or name the directory in VAGRANT_CWD")
    if _out_of_reach():
        raise LabError(f"the machines are in a network namespace of their own: use `{folder}/with-libvirt ./failover`")
    with (
        claimed(f"{PREFIX}vagrant{str(folder).replace('/', '-')}"),  # one at a time
        tempfile.TemporaryDirectory(prefix=PREFIX) as state,
        claimed(Path(state).name),
    ):
        made = VagrantSite(folder, Path(state) / "ssh_config")
        try:
            await made.build()
            yield made
        finally:
            with trio.CancelScope(shield=True):
                troubles = await made.close()
        if troubles:
            raise LabError(
                f"the Vagrant lab is not as it was: {'; '.join(troubles)}; `vagrant up --provision` mends it"
            )
