"""The two programs under test, with one interface."""

import re
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import procfs
from bench.errors import BenchError
from bench.lab import FW1, SYNC_ADDRESS, command
from ftfw.control.client import ControlError, call

START_S = 20.0
STOP_S = 10.0


def wait_until(condition: Callable[[], bool], seconds: float, *, every_s: float = 0.05) -> bool:
    """Call `condition` every `every_s` seconds until it is true; return False if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


class Daemon(ABC):
    """Runs one daemon in one namespace: active in fw1, backup in fw2.

    `directory` is an empty directory for this daemon alone.
    """

    name: str

    def __init__(self, namespace: str, directory: Path, *, hot: bool = False) -> None:
        self.namespace = namespace
        self.directory = directory
        self.hot = hot
        self._log = directory / "output.log"
        self.prepare()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *self.command()],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @abstractmethod
    def prepare(self) -> None:
        """Write the configuration."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the daemon in the foreground."""

    @abstractmethod
    def in_sync(self) -> bool:
        """Tell whether the daemon is ready for events. Raises BenchError if it does not answer."""

    @abstractmethod
    def entries(self) -> int:
        """Return the number of the active's flows that this backup holds."""

    @abstractmethod
    def promote(self) -> None:
        """Ask the backup to commit its flows; may return before that is done."""

    @abstractmethod
    def lost(self) -> int:
        """Return the number of overruns of the netlink socket by the daemon's own count; each may hide many events."""

    def wait_in_sync(self) -> None:
        """Wait until the daemon is in sync. Raises BenchError with the end of its log if it is not within START_S."""
        if not wait_until(lambda: self._process.poll() is not None or self._answers_in_sync(), START_S):
            raise BenchError(f"{self.name} in {self.namespace} is not in sync after {START_S:.0f} s:\n{self._tail()}")
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} in {self.namespace} ended with {self._process.returncode}:\n{self._tail()}")

    def _answers_in_sync(self) -> bool:
        try:
            return self.in_sync()
        except BenchError:
            return False

    def cpu(self) -> procfs.Cpu:
        """Return the CPU time of the process tree so far."""
        return procfs.tree_cpu(self._process.pid)

    def rss(self) -> int:
        """Return the resident memory of the process tree in bytes."""
        return procfs.tree_rss(self._process.pid)

    def kill(self) -> None:
        """Kill the daemon with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Terminate the daemon, and kill it if that takes longer than STOP_S; do nothing if it has ended."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


class Conntrackd(Daemon):
    """Runs Debian's conntrackd with bench/conntrackd.conf.in."""

    name = "conntrackd"

    def prepare(self) -> None:
        """Write the configuration from the template."""
        if not shutil.which("conntrackd"):
            raise BenchError("conntrackd is not installed: run `./dev setup`")
        text = Path(__file__).with_name("conntrackd.conf.in").read_text()
        text = text.replace("@ADDRESS@", SYNC_ADDRESS[self.namespace])
        text = text.replace("@DIRECTORY@", str(self.directory)).replace("@HOT@", "yes" if self.hot else "no")
        self._config = self.directory / "conntrackd.conf"
        self._config.write_text(text)

    def command(self) -> list[str]:
        """Return the same command for both sides: conntrackd has no roles."""
        return ["conntrackd", "-C", str(self._config)]

    def in_sync(self) -> bool:
        """Tell whether the control socket answers: conntrackd does not report whether it is in sync."""
        self._ask("-s")
        return True

    def entries(self) -> int:
        """Return the number of flows in the external cache."""
        return parse_statistics(self._ask("-s"))

    def promote(self) -> None:
        """Run `conntrackd -c`, as its primary-backup.sh does."""
        self._ask("-c")

    def lost(self) -> int:
        """Return the number of overruns of the netlink socket."""
        return parse_overruns(self._ask("-s", "runtime"))

    def _ask(self, *words: str) -> str:
        return command("ip", "netns", "exec", self.namespace, "conntrackd", "-C", str(self._config), *words)


class Ftfw(Daemon):
    """Runs ftfw from this source tree."""

    name = "ftfw"

    def prepare(self) -> None:
        """Write one key for both nodes into their parent directory, and a configuration with defaults."""
        key = self.directory.parent / "link.key"
        self._program = str(Path(sys.executable).with_name("ftfw"))
        if not key.exists():
            command(self._program, "keygen", str(key))
        self._socket = self.directory / "control.sock"
        self._config = self.directory / "ftfw.toml"
        self._config.write_text(
            f'[node]\nname = "{self.namespace}"\n'
            '[[link]]\ntransport = "multicast"\ninterface = "sync"\ngroup = "225.0.0.50"\nport = 3780\n'
            f'[security]\nkey_files = ["{key}"]\n'
            f'[standby]\nmode = "{"hot" if self.hot else "warm"}"\n[control]\nsocket = "{self._socket}"\n'
        )

    def command(self) -> list[str]:
        """Return the command for an active in fw1 and a backup in fw2."""
        role = "active" if self.namespace == FW1 else "backup"
        return [self._program, "--role", role, "--config", str(self._config)]

    def in_sync(self) -> bool:
        """Tell whether a backup reports to be in sync, or an active answers."""
        return bool(self._call("status")["synced"]) or self.namespace == FW1

    def entries(self) -> int:
        """Return the number of flows in the backup's store."""
        return int(self._call("status")["flows"])

    def promote(self) -> None:
        """Send the command of `ftfw promote` to the control socket; returns when every entry has been tried."""
        self._call("promote")

    def lost(self) -> int:
        """Return the number of overruns of the netlink socket."""
        return int(self._call("status")["kernel"]["overruns"])

    def _call(self, command: str) -> dict[str, Any]:
        try:
            return call(self._socket, command)
        except ControlError as error:
            raise BenchError(f"ftfw in {self.namespace}: {error}\n{self._tail()}") from None


DAEMONS: dict[str, type[Daemon]] = {each.name: each for each in (Conntrackd, Ftfw)}


def parse_statistics(text: str) -> int:
    """Return the number of connections in the external cache from the output of `conntrackd -s`."""
    _, _, external = text.partition("cache external:")
    found = re.search(r"current active connections:\s+(\d+)", external)
    if not found:
        raise BenchError(f"`conntrackd -s` printed no external cache:\n{text}")
    return int(found[1])


def parse_overruns(text: str) -> int:
    """Return the number of overruns of the netlink socket from the output of `conntrackd -s runtime`."""
    found = re.search(r"netlink overrun:\s+(\d+)", text)
    if not found:
        raise BenchError(f"`conntrackd -s runtime` printed no overruns:\n{text}")
    return int(found[1])
