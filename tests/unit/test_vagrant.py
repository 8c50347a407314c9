"""The Vagrant lab's own files, without a machine; and what it says when it cannot be."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ftfw.lab import plan
from ftfw.lab.host import LabError
from ftfw.lab.sites import netns, ssh
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
def test_what_is_in_the_way_is_said_once_with_its_remedy(
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


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that is asked instead of Vagrant, to be written; no libvirtd of vagrant/with-libvirt."""
    fake = tmp_path / "bin/vagrant"
    fake.parent.mkdir()
    answer(fake, "")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    folder = tmp_path / "vagrant"
    folder.mkdir()
    (folder / "Vagrantfile").touch()
    monkeypatch.setenv("VAGRANT_CWD", str(folder))
    monkeypatch.setattr(vagrant_site, "LIBVIRT", tmp_path / "namespace")
    return fake


def answer(fake: Path, text: str, then: str = "") -> None:
    fake.write_text(f"#!/bin/sh\nprintf '{text}'\n{then}\n")


async def refusal() -> str:
    with pytest.raises(LabError) as refused:
        async with vagrant_site.site():
            pass
    return str(refused.value)


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ("1,fw1,state,poweroff\\n1,fw2,state,running\\n", "fw1 is poweroff, client is unknown, server is unknown"),
        ("", "fw1 is unknown, fw2 is unknown, client is unknown, server is unknown"),
    ],
)
async def test_a_lab_that_does_not_stand(asked: Path, states: str, told: str) -> None:
    answer(asked, states)
    up = f"cd {os.environ['VAGRANT_CWD']} && vagrant up"
    assert await refusal() == f"the Vagrant lab does not stand: {told}; `{up}` builds it"


async def test_without_libvirtd_the_lab_says_what_starts_one(asked: Path) -> None:
    answer(asked, "", "echo Failed to connect socket >&2; exit 1")
    told = await refusal()
    assert told.startswith("Vagrant cannot tell of the lab: ")
    assert told.endswith(
        "Failed to connect socket; where no libvirtd runs, "
        f"`{os.environ['VAGRANT_CWD']}/with-libvirt ./failover` starts one"
    )


async def test_a_lab_that_another_one_uses(asked: Path) -> None:
    answer(asked, "")
    with netns.claimed("ftfw-lab-vagrant" + os.environ["VAGRANT_CWD"].replace("/", "-")):
        assert (await refusal()).endswith("-vagrant is under way")
    assert "does not stand" in await refusal()


@pytest.mark.usefixtures("asked")
async def test_a_lab_in_a_namespace_is_entered_from_there() -> None:
    vagrant_site.LIBVIRT.touch()
    enter = f"{os.environ['VAGRANT_CWD']}/with-libvirt ./failover"
    told = f"the machines are in a network namespace of their own: use `{enter}`"
    assert await refusal() == told


async def test_a_directory_without_a_vagrantfile(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAGRANT_CWD", str(asked.parent))
    assert (await refusal()).startswith(f"{asked.parent} has no Vagrantfile: go to ftfw's sources")


async def test_a_shutdown_is_no_power_cut(asked: Path) -> None:
    answer(asked, "")
    site = vagrant_site.VagrantSite(asked.parent, asked.parent / "ssh_config")
    door = Door(said="removed '/var/lib/ftfw-lab-shut-down'\n")
    site._doors = {plan.FW1: door}  # type: ignore[dict-item]
    await site.cut(plan.FW1)
    with pytest.raises(LabError, match="`vagrant halt --force fw1` has shut it down"):
        await site.heal(plan.FW1)
    await site.cut(plan.FW1)
    assert await site.close() == [vagrant_site.NO_CUT.format(name=plan.FW1)]


class Door:
    """Stands for a machine that is reached by ssh."""

    connected = True

    def __init__(self, said: str = "") -> None:
        self.ran: list[tuple[str, ...]] = []
        self._said = said

    async def run(self, *argv: str, stdin: str = "") -> str:  # noqa: ARG002 - as Host has it
        self.ran.append(argv)
        return self._said

    async def connect(self, limit_s: float) -> None:  # noqa: ARG002 - likewise
        self.connected = True

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
    (told,) = await site.close()
    assert told.startswith("fw1 is not as it was: vagrant up --no-provision fw1 failed: no space left; `")
    assert told.endswith("vagrant up --provision` mends it")
    assert ("systemctl", "restart", "ftfw", "keepalived") in doors[plan.FW2].ran[begun:]
    assert all(door.ran[-1] == ("clear",) for name, door in doors.items() if name != plan.FW1)
    assert not any(door.connected for door in doors.values())


def test_the_servers_that_make_room_are_those_that_are_provisioned() -> None:
    provision = (ROOT / "vagrant/provision").read_text()
    assert f"\nservers=({' '.join(vagrant_site.SERVICES)})\n" in provision


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


@pytest.mark.parametrize("script", ["with-libvirt", "box/build"])
def test_what_needs_root_asks_for_it(script: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is root's alone
        sudo = Path(folder) / "sudo"
        sudo.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
        for path in (sudo, sudo.parent):
            path.chmod(0o755)
        command = ["setpriv", "--reuid", "65534", "--clear-groups", str(ROOT / "vagrant" / script), "box"]
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"-- {ROOT}/vagrant/{script} box ")
