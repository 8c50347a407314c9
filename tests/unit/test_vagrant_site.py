"""The lab in Vagrant's machines, with a program in place of Vagrant and machines that only remember their commands."""

import os
from pathlib import Path

import pytest
import trio

from ftfw.lab import topology
from ftfw.lab.lab_host import LabError
from ftfw.lab.lab_lock import lab_lock
from vagrant.vm_lab import vagrant_site
from vagrant.vm_lab.guest_files import MACHINES
from vagrant.vm_lab.ssh_host import SshHost
from vagrant.vm_lab.vagrant_site import NO_POWER_CUT, VagrantSite

RUNNING = "".join(f"1,{name},state,running\\n" for name in MACHINES)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of Vagrant, whose answers are still to be written; vagrant/with-libvirt does not run."""
    fake = tmp_path / "bin/vagrant"
    fake.parent.mkdir()
    answer(fake, "")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    folder = tmp_path / "vagrant"
    folder.mkdir()
    (folder / "Vagrantfile").touch()
    monkeypatch.setenv("VAGRANT_CWD", str(folder))
    monkeypatch.setattr(vagrant_site, "LIBVIRT_NAMESPACE", tmp_path / "namespace")
    return fake


def answer(fake: Path, text: str, then: str = "") -> None:
    """Have the program print a text, and run a script then."""
    fake.write_text(f"#!/bin/sh\nprintf '{text}'\n{then}\n")


async def refusal() -> str:
    with pytest.raises(LabError) as refused:
        async with vagrant_site.vagrant_site():
            pass
    return str(refused.value)


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ("1,fw1,state,poweroff\\n1,fw2,state,running\\n", "fw1 is poweroff, client is unknown, server is unknown"),
        ("", "fw1 is unknown, fw2 is unknown, client is unknown, server is unknown"),
    ],
)
async def test_machines_that_do_not_run_are_named_with_the_remedy(program: Path, states: str, told: str) -> None:
    answer(program, states)
    up = f"cd {os.environ['VAGRANT_CWD']} && vagrant up"
    assert await refusal() == f"the Vagrant lab is not running: {told}; `{up}` builds it"


async def test_without_libvirtd_the_error_names_what_starts_one(program: Path) -> None:
    answer(program, "", "echo Failed to connect socket >&2; exit 1")
    told = await refusal()
    assert told.startswith("Vagrant cannot report on the machines: ")
    assert told.endswith(
        "Failed to connect socket; where no libvirtd runs, "
        f"`{os.environ['VAGRANT_CWD']}/with-libvirt ./failover` starts one"
    )


async def test_machines_that_another_lab_uses_are_refused(program: Path) -> None:
    answer(program, "")
    with lab_lock("ftfw-lab-vagrant" + os.environ["VAGRANT_CWD"].replace("/", "-")):
        assert (await refusal()).endswith("-vagrant is under way: wait until it has ended")
    assert "is not running" in await refusal()


@pytest.mark.usefixtures("program")
async def test_machines_in_a_namespace_are_refused_from_outside_with_the_way_in() -> None:
    vagrant_site.LIBVIRT_NAMESPACE.touch()
    enter = f"{os.environ['VAGRANT_CWD']}/with-libvirt ./failover"
    told = f"the machines are in a network namespace of their own: use `{enter}`"
    assert await refusal() == told


async def test_a_directory_without_a_vagrantfile_is_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAGRANT_CWD", str(program.parent))
    assert (await refusal()).startswith(f"VAGRANT_CWD: found {program.parent}, which has no Vagrantfile; expected ")


class FakeMachine(SshHost):
    """Remembers the commands that it is told to run, and gives one answer to those that contain a word."""

    def __init__(self, name: str, config: Path, answers: dict[str, str] | None = None) -> None:
        super().__init__(name, config)
        self.commands: list[tuple[str, ...]] = []
        self.reached = False
        self._answers = answers or {}

    async def run(self, *argv: str, stdin: str = "") -> str:  # noqa: ARG002 - as Host has it
        await trio.lowlevel.checkpoint()
        self.commands.append(argv)
        return next((said for word, said in self._answers.items() if word in argv[-1]), "")

    async def connect(self, limit_s: float, alive: object = None) -> None:  # noqa: ARG002 - as SshHost has it
        await trio.lowlevel.checkpoint()
        self.reached = True

    @property
    def connected(self) -> bool:
        return self.reached

    async def disconnect(self) -> None:
        await trio.lowlevel.checkpoint()
        self.reached = False

    async def clear(self) -> None:
        await trio.lowlevel.checkpoint()
        self.commands.append(("clear",))


def fake_machines(config: Path, answers: dict[str, str] | None = None) -> dict[str, FakeMachine]:
    return {name: FakeMachine(name, config, answers) for name in MACHINES}


def site_of(program: Path, machines: dict[str, FakeMachine]) -> VagrantSite:
    return VagrantSite(Path(os.environ["VAGRANT_CWD"]), program.parent / "ssh_config", machines)


async def test_a_machine_that_is_not_provisioned_is_named_and_its_configuration_is_left_alone(program: Path) -> None:
    answer(program, RUNNING)
    machines = fake_machines(program.parent)
    machines["client"] = FakeMachine("client", program.parent, {"provisioned": "no\n"})
    site = site_of(program, machines)
    with pytest.raises(LabError, match=r"^the provisioning of client is not complete: `.* vagrant provision client` "):
        await site.build()
    assert await site.close() == []
    assert ("systemctl", "restart", "ftfw", "keepalived") not in machines[topology.FW1].commands


async def test_a_shutdown_does_not_count_as_a_power_cut(program: Path) -> None:
    answer(program, RUNNING)
    shut_down = {"rm -v": "removed '/var/lib/ftfw-lab-shut-down'\n"}
    site = site_of(program, fake_machines(program.parent, shut_down))
    await site.build()
    await site.cut(topology.FW1)
    with pytest.raises(LabError, match="`vagrant halt --force fw1` has shut it down"):
        await site.heal(topology.FW1)
    await site.cut(topology.FW1)
    assert await site.close() == [NO_POWER_CUT.format(name=topology.FW1)]


async def test_a_firewall_that_does_not_come_back_is_named_and_the_others_are_restored(program: Path) -> None:
    answer(program, RUNNING, 'if [ "$1" = up ]; then echo no space left >&2; exit 1; fi')
    machines = fake_machines(program.parent)
    site = site_of(program, machines)
    await site.build()
    await site.cut(topology.FW1)
    before = len(machines[topology.FW2].commands)
    (told,) = await site.close()
    assert told.startswith("fw1 is not as it was: vagrant up --no-provision fw1 failed: no space left; `")
    assert told.endswith("vagrant up --provision` repairs it")
    assert ("systemctl", "restart", "ftfw", "keepalived") in machines[topology.FW2].commands[before:]
    assert all(machine.commands[-1] == ("clear",) for name, machine in machines.items() if name != topology.FW1)
    assert not any(machine.reached for machine in machines.values())
