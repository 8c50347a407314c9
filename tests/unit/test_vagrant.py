"""The Vagrant lab's own files, without a machine; and what it says when it cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def vagrant(
    *arguments: str, home: Path, edit: tuple[str, str] = ("", ""), **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Vagrant in a copy of the lab's directory, with an empty home: it may write into both."""
    folder = home / "vagrant"
    folder.mkdir(exist_ok=True)
    (folder / "Vagrantfile").write_text((ROOT / "vagrant/Vagrantfile").read_text().replace(*edit, 1))
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


def test_without_libvirtd_the_remedy_is_said_once(tmp_path: Path) -> None:
    settings = {"VAGRANT_DEFAULT_PROVIDER": "libvirt", "FTFW_LIBVIRT_DRIVER": "qemu"}
    done = vagrant("up", home=tmp_path, edit=("LIBVIRT = ", 'LIBVIRT = "/nowhere" # '), **settings)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert said.count("no libvirtd answers: start it, or use `vagrant/with-libvirt vagrant up`") == 1
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
    assert said == f"Error: {tmp_path}/vmlinuz is not there: vagrant/box/build and vagrant/box/install make it"


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


def test_libvirt_needs_root() -> None:
    command = ["setpriv", "--reuid", "65534", "--clear-groups", str(ROOT / "vagrant/with-libvirt"), "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "with-libvirt: it makes a network namespace: run it as root\n"
