"""The lab in the four virtual machines of `vagrant up`, which stay."""

# Site describes what the methods promise.
# ruff: noqa: D102

import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ftfw.lab import topology
from ftfw.lab.lab_host import Host, LabError, run_here
from ftfw.lab.lab_lock import lab_lock
from ftfw.lab.namespaces import PREFIX
from vagrant.vm_lab import ssh_host
from vagrant.vm_lab.guest_files import MACHINES
from vagrant.vm_lab.installed_daemons import CONFIG, replace_content
from vagrant.vm_lab.ssh_host import SshHost

FOLDER = Path(__file__).parents[1]
LIBVIRT_NAMESPACE = Path("/run/netns/ftfw-vagrant")  # where vagrant/with-libvirt runs libvirtd and the machines
PROVISIONED = "/var/lib/ftfw-lab-provisioned"  # Vagrantfile makes this file at the end of provisioning
SERVICES = ("vsftpd", "nginx", "ftfw-lab-dns")  # the machine `server` runs them on ports that the lab's servers need
# A firewall makes this file when it shuts down, and does not when its power is cut.
WITNESS = "/var/lib/ftfw-lab-shut-down"
NO_POWER_CUT = "`vagrant halt --force {name}` has shut it down: that takeover did not follow a power cut"
FORGET = f"systemctl stop ftfw-lab-witness 2>/dev/null; rm -f {WITNESS}"
ANSWER_LIMIT_S = 60
BOOT_LIMIT_S = 300


class VagrantSite:
    """Uses four machines of Vagrant's; `cut` switches only firewalls off."""

    patience = 8.0
    missing_rules = ""

    def __init__(self, folder: Path, config: Path, machines: Mapping[str, SshHost]) -> None:
        """Prepare to use machines: `folder` has their Vagrantfile; `build` writes their ssh_config(5) to `config`."""
        self._folder = folder
        self._config = config
        self._machines = machines
        self.hosts: Mapping[str, Host] = machines
        self.flowtables: frozenset[str] = frozenset()
        self._switched_off: set[str] = set()
        self._configurations: dict[str, str] = {}

    async def build(self) -> None:
        """Connect to all machines, and load the ruleset that the firewalls were provisioned with.

        Raises LabError if a machine does not run, does not answer or is not provisioned.
        """
        await self._check_running()
        known = await self._vagrant("ssh-config")
        options = "".join(f"  {option} {value}\n" for option, value in ssh_host.OPTIONS.items())
        self._config.write_text(f"{known}\nHost *\n{options}")
        for machine in self._machines.values():
            await machine.connect(ANSWER_LIMIT_S)
        await self._check_provisioned()
        for name in topology.FIREWALLS:
            await self._prepare_firewall(name)
        await self._machines[topology.SERVER].run("systemctl", "stop", *SERVICES)
        self.flowtables = frozenset(
            [name for name in topology.FIREWALLS if await ssh_host.has_flowtables(self._machines[name])]
        )

    async def _check_running(self) -> None:
        try:
            told = await self._vagrant("status", "--machine-readable")
        except LabError as error:
            start = f"where no libvirtd runs, `{self._folder}/with-libvirt ./failover` starts one"
            raise LabError(f"Vagrant cannot report on the machines: {error}; {start}") from None
        states = dict(line.split(",")[1:4:2] for line in told.splitlines() if line.split(",")[2:3] == ["state"])
        missing = [f"{name} is {states.get(name, 'unknown')}" for name in MACHINES if states.get(name) != "running"]
        if missing:
            raise LabError(f"the Vagrant lab is not running: {', '.join(missing)}; `{self._command('up')}` builds it")

    async def _check_provisioned(self) -> None:
        for name, machine in self._machines.items():
            if "no" in await machine.run("sh", "-c", f"[ -e {PROVISIONED} ] || echo no"):
                remedy = self._command(f"provision {name}")
                raise LabError(f"the provisioning of {name} is not complete: `{remedy}` completes it")

    async def _prepare_firewall(self, name: str) -> None:
        """Load the provisioned ruleset, and save the configuration, which a run changes."""
        await ssh_host.restore_rules(self._machines[name])
        self._configurations[name] = await self._machines[name].run("cat", CONFIG)
        await self._watch_for_shutdown(name)

    async def _vagrant(self, *arguments: str) -> str:
        return await run_here("vagrant", *arguments, cwd=str(self._folder))

    def _command(self, arguments: str) -> str:
        """Return the shell command that runs Vagrant as the lab does."""
        if LIBVIRT_NAMESPACE.exists():
            return f"{self._folder}/with-libvirt vagrant {arguments}"
        return f"cd {self._folder} && vagrant {arguments}"

    async def add_rules(self, name: str, text: str) -> None:
        await ssh_host.add_rules(self._machines[name], text)

    async def _watch_for_shutdown(self, name: str) -> None:
        """Have the firewall make WITNESS if it shuts down."""
        await self._machines[name].run("sh", "-c", FORGET)  # of an interrupted lab
        settings = ("--property=RemainAfterExit=yes", f"--property=ExecStop=touch {WITNESS}")
        await self._machines[name].run("systemd-run", "--quiet", "--unit=ftfw-lab-witness", *settings, "true")

    async def cut(self, name: str) -> None:
        self._switched_off.add(name)
        await self._vagrant("halt", "--force", name)
        await self._machines[name].disconnect()

    async def heal(self, name: str) -> None:
        await self._power_on(name)
        if await self._was_shut_down(name):
            raise LabError(NO_POWER_CUT.format(name=name))
        await self._watch_for_shutdown(name)

    async def _power_on(self, name: str) -> None:
        await self._vagrant("up", "--no-provision", name)
        await self._machines[name].connect(BOOT_LIMIT_S)
        self._switched_off.remove(name)

    async def _was_shut_down(self, name: str) -> bool:
        return bool(await self._machines[name].run("sh", "-c", f"[ ! -e {WITNESS} ] || rm -v {WITNESS}"))

    async def describe(self) -> Sequence[str]:
        return [self._command(f"ssh {name}") for name in self._machines]

    async def close(self) -> list[str]:
        """Leave the machines as they were found: running, with their own rules, configuration and services.

        Returns descriptions of what went wrong.
        """
        troubles = []
        for name, machine in self._machines.items():
            try:
                if await self._restore(name):
                    troubles.append(NO_POWER_CUT.format(name=name))
            except LabError as error:
                remedy = self._command("up --provision")
                troubles.append(f"{name} is not as it was: {error}; `{remedy}` repairs it")
            finally:
                await machine.disconnect()
        return troubles

    async def _restore(self, name: str) -> bool:
        """Restore one machine; return True if it had been shut down instead of cut off."""
        shut_down = False
        if name in self._switched_off:
            await self._power_on(name)
            shut_down = await self._was_shut_down(name)
        machine = self._machines[name]
        if not machine.connected:
            return shut_down  # `build` did not get as far as this machine
        if name in self._configurations:
            await machine.run("sh", "-c", FORGET)
            await ssh_host.restore_rules(machine)
            await replace_content(machine, CONFIG, self._configurations[name])
            await machine.run("systemctl", "enable", "ftfw", "keepalived")
            await machine.run("systemctl", "restart", "ftfw", "keepalived")
        if name == topology.SERVER:
            await machine.run("systemctl", "start", *SERVICES)
        await machine.clear()
        return shut_down


def _out_of_reach() -> bool:
    """Tell whether the machines are in a network namespace that this process is not in."""
    return LIBVIRT_NAMESPACE.exists() and not LIBVIRT_NAMESPACE.samefile("/proc/self/ns/net")


@asynccontextmanager
async def vagrant_site() -> AsyncIterator[VagrantSite]:
    """Connect to the machines of `vagrant up`, yield the lab, and leave the machines as they were.

    Raises LabError if the machines cannot be used, or are not as they were afterwards.
    """
    folder = Path(await trio.Path(os.environ.get("VAGRANT_CWD", FOLDER)).resolve())
    if not (folder / "Vagrantfile").exists():
        raise LabError(f"VAGRANT_CWD: found {folder}, which has no Vagrantfile; expected vagrant/ of ftfw's sources")
    if _out_of_reach():
        raise LabError(f"the machines are in a network namespace of their own: use `{folder}/with-libvirt ./failover`")
    with (
        lab_lock(f"{PREFIX}vagrant{str(folder).replace('/', '-')}"),  # one lab at a time
        tempfile.TemporaryDirectory(prefix=PREFIX) as state,
        lab_lock(Path(state).name),
    ):
        config = Path(state) / "ssh_config"
        made = VagrantSite(folder, config, {name: SshHost(name, config, sudo=True) for name in MACHINES})
        try:
            await made.build()
            yield made
        finally:
            with trio.CancelScope(shield=True):
                troubles = await made.close()
        if troubles:
            raise LabError(
                f"the Vagrant lab is not as it was: {'; '.join(troubles)}; `vagrant up --provision` repairs it"
            )
