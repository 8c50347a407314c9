"""Vagrantfile and the scripts beside it, without a machine."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from ftfw.lab import topology
from vagrant.vm_lab import ssh_host
from vagrant.vm_lab.vagrant_site import SERVICES

ROOT = Path(__file__).parents[2]


def vagrant(
    *arguments: str, home: Path, edits: tuple[tuple[str, str], ...] = (), **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run Vagrant in a copy of the lab's directory, with an empty home, and edits to the Vagrantfile."""
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


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("FTFW_LIBVIRT_DRIVER", "xen", "kvm or qemu"),
        ("FTFW_MANAGEMENT", "home", "a network such as 203.0.113.64/26"),
    ],
)
def test_a_wrong_setting_is_refused(tmp_path: Path, name: str, value: str, expected: str) -> None:
    done = vagrant("validate", home=tmp_path, edits=(), **{name: value})
    assert done.returncode == 1
    assert f'{name}: found "{value}", expected {expected}' in done.stderr + done.stdout


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
            "/nowhere is not there: FTFW_LIBVIRT_DRIVER=qemu has the machines emulated",
        ),
        (
            ("", ""),
            {"FTFW_BOX": "ftfw/debian12"},
            "the box ftfw/debian12 is not there: vagrant/box/build box makes it",
        ),
        (
            ("", ""),
            {"FTFW_MANAGEMENT": "127.0.0.0/26"},
            "127.0.0.0/26 is in use on lo: name another network in FTFW_MANAGEMENT",
        ),
        (
            ("/run/netns/ftfw-vagrant", "/proc/self/ns/uts"),
            {},
            "libvirtd runs in a network namespace of its own: use `vagrant/with-libvirt vagrant up`, or end it by "
            "`vagrant/with-libvirt --stop`",
        ),
    ],
    ids=["libvirtd", "kvm", "box", "range", "namespace"],
)
def test_an_obstacle_is_reported_once_with_its_remedy(
    tmp_path: Path, edit: tuple[str, str], settings: dict[str, str], told: str
) -> None:
    with socket.socket(socket.AF_UNIX) as libvirtd:
        libvirtd.bind(str(tmp_path / "libvirtd"))
        libvirtd.listen()
        edits = (
            edit,
            ("/run/libvirt/libvirt-sock", str(tmp_path / "libvirtd")),
            ("/run/netns/ftfw-vagrant", "/nowhere"),
        )
        usual = {"VAGRANT_DEFAULT_PROVIDER": "libvirt", "FTFW_LIBVIRT_DRIVER": "qemu"}
        done = vagrant("up", home=tmp_path, edits=edits, **usual | settings)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert said.count(told) == 1
    assert "report this" not in said


def test_the_services_that_the_lab_stops_are_those_that_are_provisioned() -> None:
    provision = (ROOT / "vagrant/provision").read_text()
    assert f"\nservers=({' '.join(SERVICES)})\n" in provision


def test_the_sshd_of_the_server_accepts_the_key_that_the_lab_writes() -> None:
    provision = (ROOT / "vagrant/provision").read_text()
    assert f" {ssh_host.WORKDIR}/{topology.AUTHORIZED_KEYS_FILE}'" in provision


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


@pytest.mark.parametrize("script", ["with-libvirt", "box/build"])
def test_scripts_that_need_root_use_sudo(script: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is root's alone
        sudo = Path(folder) / "sudo"
        sudo.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
        for path in (sudo, sudo.parent):
            path.chmod(0o755)
        command = ["setpriv", "--reuid", "65534", "--clear-groups", str(ROOT / "vagrant" / script), "box"]
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"-- {ROOT}/vagrant/{script} box ")
