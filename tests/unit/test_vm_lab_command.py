from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ftfw.lab import lab_session
from vagrant.vm_lab.booting_firewalls import DISK, INITRD, KERNEL
from vagrant.vm_lab.vm_lab_command import vm_lab


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Site and mode of each run of the lab, none of which is done."""
    asked: list[tuple[str, str]] = []

    async def run_lab(*, site_name: str, mode: str, **_: Any) -> None:
        asked.append((site_name, mode))

    monkeypatch.setattr(lab_session, "run_lab", run_lab)
    return asked


def test_without_site_both_labs_of_machines_run(runs: list[tuple[str, str]]) -> None:
    CliRunner().invoke(vm_lab, ["--mode", "warm"])
    assert runs == [("machines", "warm"), ("mixed", "warm")]


def test_each_site_runs_in_each_mode(runs: list[tuple[str, str]]) -> None:
    CliRunner().invoke(vm_lab, ["--site", "vagrant", "--site", "mixed"])
    assert runs == [("vagrant", "warm"), ("vagrant", "hot"), ("mixed", "warm"), ("mixed", "hot")]


def test_a_daemon_that_is_not_installed_there_is_refused(runs: list[tuple[str, str]]) -> None:
    result = CliRunner().invoke(vm_lab, ["--daemon", "conntrackd"])
    assert (result.exit_code, runs) == (2, [])
    assert "'conntrackd' is not one of 'ftfw', 'none'" in result.output


TOOLS = ("qemu-system-x86_64", "qemu-img", "systemd-nspawn")


def complaint(folder: Path, site: str, *, installed: Collection[str]) -> str:
    """Return what the command prints where these tools are installed and no others, whatever this machine has."""
    tools = folder / "bin"
    tools.mkdir()
    for tool in installed:
        (tools / tool).touch(mode=0o755)
    result = CliRunner().invoke(vm_lab, ["--site", site, "--image", str(folder)], env={"PATH": str(tools)})
    assert result.exit_code == 1
    return result.stderr


@pytest.mark.parametrize("installed", [TOOLS, ()], ids=["tools", "no tools"])
@pytest.mark.parametrize("site", ["machines", "mixed"])
def test_without_an_image_the_remedy_is_named(tmp_path: Path, site: str, installed: Collection[str]) -> None:
    said = complaint(tmp_path, site, installed=installed)
    assert said == f"Error: {tmp_path}/vmlinuz is not there: vagrant/box/install makes it\n"


@pytest.mark.parametrize("missing", TOOLS)
def test_without_a_tool_the_remedy_is_named(tmp_path: Path, missing: str) -> None:
    for name in (KERNEL, INITRD, DISK):
        (tmp_path / name).touch()
    said = complaint(tmp_path, "machines", installed=set(TOOLS) - {missing})
    assert said == f"Error: {missing} is not installed: ./dev setup-vm installs what machines need\n"
