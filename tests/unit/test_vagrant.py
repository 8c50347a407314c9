"""The Vagrant lab's own files, without a machine; and what it says when it cannot be."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ftfw.lab import plan
from ftfw.lab.host import LabError
from ftfw.lab.sites import ssh
from ftfw.lab.sites import vagrant as vagrant_site

ROOT = Path(__file__).parents[2]


def vagrant(
    *arguments: str, home: Path, edits: tuple[tuple[str, str], ...] = (), **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Vagrant in a copy of the lab's directory, with an empty home: it may write into both."""
    folder = home / "vagrant"
    folder.mkdir(exist_ok=True)
    text = (ROOT / "vagrant/Vagrantfile").read_text()
    for old, new in edits:
        text = text.replace(old, new, 1)
    (folder / "Vagrantfile").write_text(text)
    settings = {"VAGRANT_HOME": str(home / "home"), "VAGRANT_CHECKPOINT_DISABLE": "1", **environment}
    return subprocess.run(
        ["vagrant", *arguments], cwd=folder, env=os.environ | settings, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("provider", "more"),
    [("libvirt", []), ("virtualbox", ["--ignore-provider"])],  # VirtualBox itself would have to be there
)
def test_the_vagrantfile_is_valid(tmp_path: Path, provider: str, more: list[str]) -> None:
    done = vagrant("validate", *more, home=tmp_path, VAGRANT_DEFAULT_PROVIDER=provider, FTFW_LIBVIRT_DRIVER="qemu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Vagrantfile validated successfully.\n")


def test_a_driver_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = vagrant("validate", home=tmp_path, FTFW_LIBVIRT_DRIVER="xen")
    assert done.returncode == 1
    assert 'FTFW_LIBVIRT_DRIVER: found "xen", expected kvm or qemu' in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("edit", "settings", "told"),
    [
        (
            ("/run/libvirt/libvirt-sock", "/nowhere"),
            {},
            "no libvirtd answers: start it, or use `vagrant/with-libvirt vagrant up`",
        ),
        (
            ('"/dev/kvm"', '"/nowhere"'),
            {"FTFW_LIBVIRT_DRIVER": "kvm"},
            "/dev/kvm is not there: FTFW_LIBVIRT_DRIVER=qemu has the machines emulated",
        ),
        (
            ("", ""),
            {"FTFW_BOX": "ftfw/debian12"},
            "the box ftfw/debian12 is not there: vagrant/box/build box makes it",
        ),
        (
            ("203.0.113.64/26", "127.0.0.0/26"),
            {},
            "127.0.0.0/26 is in use on lo: use `vagrant/with-libvirt vagrant up`",
        ),
    ],
    ids=["libvirtd", "kvm", "box", "range"],
)
def test_what_is_in_the_way_is_said_once_with_its_remedy(
    tmp_path: Path, edit: tuple[str, str], settings: dict[str, str], told: str
) -> None:
    with socket.socket(socket.AF_UNIX) as libvirtd:
        libvirtd.bind(str(tmp_path / "libvirtd"))
        libvirtd.listen()
        edits = (edit, ("/run/libvirt/libvirt-sock", str(tmp_path / "libvirtd")))
        usual = {"VAGRANT_DEFAULT_PROVIDER": "libvirt", "FTFW_LIBVIRT_DRIVER": "qemu"}
        done = vagrant("up", home=tmp_path, edits=edits, **usual | settings)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert said.count(told) == 1
    assert "report this" not in said


def lab(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ftfw", "lab", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def complaint_of(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def test_without_an_image_the_remedy_is_named(tmp_path: Path) -> None:
    said = complaint_of(lab("--site", "machines", "--image", str(tmp_path)))
    assert said == f"Error: {tmp_path}/vmlinuz is not there: vagrant/box/install makes it"


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ("1,fw1,state,poweroff\\n1,fw2,state,running\\n", "fw1 is poweroff, client is unknown, server is unknown"),
        ("", "fw1 is unknown, fw2 is unknown, client is unknown, server is unknown"),
    ],
)
def test_a_vagrant_lab_that_does_not_stand(tmp_path: Path, states: str, told: str) -> None:
    fake = tmp_path / "bin/vagrant"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\nprintf '{states}'\n")
    fake.chmod(0o755)
    folder = ROOT / "vagrant"
    said = complaint_of(lab("--site", "vagrant", PATH=f"{fake.parent}:{os.environ['PATH']}", VAGRANT_CWD=str(folder)))
    assert said == f"Error: the Vagrant lab does not stand: {told}; `vagrant up` in {folder} builds it"


def test_a_directory_without_a_vagrantfile(tmp_path: Path) -> None:
    said = complaint_of(lab("--site", "vagrant", VAGRANT_CWD=str(tmp_path)))
    assert said.startswith(f"Error: {tmp_path} has no Vagrantfile: go to ftfw's sources")


class Door:
    """Stands for a machine that is reached by ssh."""

    connected = True

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []

    async def run(self, *argv: str, stdin: str = "") -> str:  # noqa: ARG002 - as Host has it
        self.ran.append(argv)
        return ""

    async def disconnect(self) -> None:
        self.connected = False

    async def clear(self) -> None:
        self.ran.append(("clear",))


async def test_a_firewall_that_does_not_come_back_is_told_and_the_others_are_restored(tmp_path: Path) -> None:
    class Site(vagrant_site.VagrantSite):
        async def _vagrant(self, *arguments: str) -> str:
            if arguments[0] == "up":
                raise LabError("vagrant up --no-provision fw1 failed: no space left")
            return ""

    site = Site(tmp_path, tmp_path / "ssh_config")
    doors = {name: Door() for name in plan.HOSTS}
    site._doors = doors  # type: ignore[assignment]
    await site._begin()
    await site.cut(plan.FW1)
    begun = len(doors[plan.FW2].ran)
    assert await site.close() == ["vagrant up --no-provision fw1 failed: no space left"]
    assert ("systemctl", "restart", "ftfw", "keepalived") in doors[plan.FW2].ran[begun:]
    assert all(door.ran[-1] == ("clear",) for name, door in doors.items() if name != plan.FW1)
    assert not any(door.connected for door in doors.values())


def test_the_key_that_a_server_is_told_to_take_is_where_the_lab_puts_it() -> None:
    provision = (ROOT / "vagrant/provision").read_text()
    assert f" {ssh.WORKDIR}/{plan.AUTHORIZED_KEYS_FILE}'" in provision


def test_a_machine_that_does_not_exist_is_refused() -> None:
    done = subprocess.run([ROOT / "vagrant/provision", "fw3"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "packages: no such machine: fw3; it is fw1, fw2, client or server\n"


def test_cleaning_removes_the_image_and_installs_nothing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dev", tmp_path)
    for name in ("image", ".build.Ab12"):
        (tmp_path / "vagrant/box" / name).mkdir(parents=True)
        (tmp_path / "vagrant/box" / name / "disk.raw").touch()
    subprocess.run([tmp_path / "dev", "vm-lab", "--clean"], check=True)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["dev", "vagrant", "box"]


def test_libvirt_needs_root() -> None:
    command = ["setpriv", "--reuid", "65534", "--clear-groups", str(ROOT / "vagrant/with-libvirt"), "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "with-libvirt: it makes a network namespace: run it as root\n"
