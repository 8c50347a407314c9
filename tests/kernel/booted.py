"""A node under a systemd of its own: a container on a copy of this host's files, in the node's network namespace."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ftfw.control import client
from tests.kernel.pair import LIMIT_S, Node, run, until
from vagrant.vm_lab import control_groups

ROOT = Path(__file__).parents[2]
# What the tests run on may lie in a home, which the unit does not see.
PLACES = {Path(sys.base_prefix): "/opt/python", Path(sysconfig.get_path("purelib")): "/opt/packages", ROOT: "/opt/ftfw"}
COMMAND = f"""#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/ftfw:/opt/packages
exec /opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor} -m ftfw "$@"
"""
LOGIN = ("HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
# The mounts are this shell's own, and go with it. A container that reboots ends with 133, and is to be started again.
BOOT = """
set -e
mkdir -p /run/systemd/nspawn
mount -t tmpfs none /run/systemd/nspawn
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay none -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
rm -f "$1"/root/etc/systemd/system/*.wants/*
: > "$1/root/etc/machine-id"
rm -f "$1/root/etc/hostname"
shift
trap 'kill "$container"' TERM
code=133
while [ "$code" = 133 ]; do
    setpriv --pdeathsig KILL systemd-nspawn "$@" &
    container=$!
    code=0
    wait "$container" || code=$?
done
wait "$container" || exit "$code"
"""


class Machine:
    """What runs in the container, and what can be done there."""

    def __init__(self, container: "subprocess.Popen[bytes]", console: Path) -> None:
        self._container = container
        self._console = console
        self._leader = 0

    def wait_until_up(self) -> None:
        """Wait for the end of its first boot, or of another one."""
        before = self._leader
        found = until(lambda: self._leaders() - {before}, "the container begins")
        (self._leader,) = found
        until(self._is_up, "systemd is up")

    def reboot(self) -> None:
        self.run("systemctl", "reboot", check=False)
        self.wait_until_up()

    def _leaders(self) -> set[int]:
        """The container's first process, once it is systemd."""
        assert self._container.poll() is None, self._console.read_text()
        return {pid for outer in _children(self._container.pid) for pid in _children(outer) if _is_systemd(pid)}

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-active", "multi-user.target", check=False).returncode == 0

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("nsenter", "--all", f"--target={self._leader}", "env", "-i", *LOGIN, *argv, check=check)

    def install(self, page: str, config: str) -> None:
        """Do what the administrator is told to in a page of docs/, with ftfw itself and its configuration in place."""
        self.write("/usr/bin/ftfw", COMMAND, 0o755)
        self.write("/etc/ftfw/ftfw.toml", config)
        section = (ROOT / "docs" / page).read_text().partition("## Install\n")[2].partition("\n## ")[0]
        for command in re.findall(r"^    (.+)$", section, flags=re.MULTILINE):
            if not command.startswith("apt-get"):
                self.run("sh", "-c", f"cd /opt/ftfw && {command}")

    def property(self, name: str) -> str:
        """A property of ftfw.service."""
        return self.run("systemctl", "show", "--value", f"--property={name}", "ftfw").stdout.strip()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Make a file, and its directory."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def path(self, path: str) -> Path:
        """Where a file of the container is seen from outside."""
        return Path(f"/proc/{self._leader}/root{path}")

    def status(self) -> dict[str, Any]:
        """What `ftfw status --json` prints, without a process for each look at it."""
        return client.call(self.path("/run/ftfw/control.sock"), "status")

    def log(self) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", "ftfw").stdout


def usual(node: Node, more: str = "") -> str:
    """The node's configuration with files where they usually are."""
    config = re.sub(r"^(\[control\]|(key_files|socket) = .*)\n", "", node.config.read_text(), flags=re.MULTILINE)
    return config.replace("[security]", '[security]\nkey_files = ["/etc/ftfw/link.key"]') + more


@contextmanager
def booted(node: Node, places: Mapping[Path, str] = PLACES) -> Iterator[Machine]:
    """A machine in `node`'s network namespace, of its name; it ends with this context, and leaves nothing.

    `places` tells where directories of this host are seen in it.
    """
    name = node.namespace
    top = node.workdir / "machine"
    top.mkdir(parents=True)
    console = node.workdir / "console"
    with console.open("wb") as written:
        container = subprocess.Popen(
            [
                *control_groups.entering(name),
                *("unshare", "--mount", "sh", "-c", BOOT, "boot", str(top)),
                *(
                    "--quiet",
                    f"--directory={top}/root",
                    f"--machine={name}",
                    f"--hostname={node.name}",
                    "--register=no",
                    "--keep-unit",
                ),
                *(f"--network-namespace-path=/run/netns/{name}", "--capability=CAP_NET_ADMIN", "--link-journal=no"),
                *(f"--bind-ro={outside.resolve()}:{inside}" for outside, inside in places.items()),
                *("--console=pipe", "--boot", "systemd.unit=multi-user.target"),
            ],
            env=os.environ | {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},  # sysctls
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
        )
    try:
        machine = Machine(container, console)
        machine.wait_until_up()
        yield machine
    finally:
        container.terminate()
        with suppress(subprocess.TimeoutExpired):
            container.wait(LIMIT_S)
        container.kill()
        container.wait()
        until(lambda: control_groups.remove(name), "nothing is left in its control group")


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _is_systemd(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text() == "systemd\n"
    return False
