"""Hosts that are reached by ssh: all commands on a host share one connection."""

# Host describes what the methods promise.
# ruff: noqa: D102

import shlex
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from ftfw.lab.lab_host import LabError, end, run_here
from ftfw.lab.lab_site import FLOWTABLE_RULES

OPTIONS = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "LogLevel": "ERROR",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "15",
}
POLL_S = 0.5
WORKDIR = "/run/ftfw-lab"
RULES_FILE = "/etc/nftables.d/lab.nft"  # /etc/nftables.conf includes it: see vagrant/provision
# The shell kills the command when its input ends, and its input ends with the ssh process here.
HOLD = 'setsid "$@" </dev/null >>"$log" 2>&1 & child=$!; cat >/dev/null; kill -s KILL -- "-$child"'


class SshHost:
    """Runs commands on a machine with ftfw in /opt/ftfw; call `connect` first, and again after each boot."""

    workdir = WORKDIR
    python = "/opt/ftfw/bin/python"

    def __init__(self, name: str, config: Path, *, prefix: Sequence[str] = (), sudo: bool = False) -> None:
        """Prepare for a host that is named in the ssh_config(5) `config`.

        `prefix` is put before each ssh command, to run it in the network namespace from which the host can be reached.
        """
        self.name = name
        self._socket = config.parent / f"{name}.ssh"
        self._log = config.parent / f"{name}.ssh.log"
        self._ssh = (*prefix, "ssh", "-F", str(config), "-o", f"ControlPath={self._socket}")
        self._shell = ("sudo", "-n", "sh", "-c") if sudo else ("sh", "-c")
        self._master: trio.Process | None = None

    async def connect(self, limit_s: float, alive: Callable[[], bool] = lambda: True) -> None:
        """Wait until the machine answers, and make an empty work directory on it.

        Raises LabError if it does not answer within `limit_s` seconds, or as soon as `alive` returns False.
        """
        with trio.move_on_after(limit_s):
            while alive():
                if await self._open_connection():
                    await self._remote(f"rm -rf {WORKDIR} && install -d -m 755 {WORKDIR}")
                    return
                await trio.sleep(POLL_S)
        await self.disconnect()
        raise LabError(f"{self.name} does not answer over ssh: {self._last_message()}")

    async def _open_connection(self) -> bool:
        """Start the shared connection; return True if the host answers."""
        await self.disconnect()
        with self._log.open("wb") as log:
            self._master = await trio.lowlevel.open_process(
                (*self._ssh, "-M", self.name, "cat"),  # ends with its input, and its input ends with the lab
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while self._master.poll() is None:
            if self._socket.exists():
                with suppress(LabError):
                    await run_here(*self._ssh, "-O", "check", self.name)
                    return True
            await trio.sleep(POLL_S / 5)
        return False

    def _last_message(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return lines[-1] if lines else "nothing came back"

    @property
    def connected(self) -> bool:
        """Tell whether there is a connection."""
        return self._master is not None

    async def clear(self) -> None:
        """Remove the work directory."""
        await self._remote(f"rm -rf {WORKDIR}")

    async def disconnect(self) -> None:
        """Close the connection; commands that were started over it end."""
        if self._master is not None:
            with trio.CancelScope(shield=True):
                await end(self._master)
            self._master = None
        self._socket.unlink(missing_ok=True)

    def _command(self, script: str, *argv: str) -> tuple[str, ...]:
        return (*self._ssh, self.name, shlex.join((*self._shell, script, "sh", *argv)))

    async def _remote(self, script: str, *argv: str, stdin: str = "") -> str:
        try:
            return await run_here(*self._command(script, *argv), stdin=stdin)
        except LabError as error:
            shown = shlex.join(argv) or script
            raise LabError(f"{self.name}: {shown} failed: {str(error).rpartition(' failed: ')[2]}") from None

    async def run(self, *argv: str, stdin: str = "") -> str:
        return await self._remote(f'cd {WORKDIR} && exec "$@"', *argv, stdin=stdin)

    async def start(self, *argv: str, log: str, talk: bool = False) -> trio.Process:
        script = f'exec "$@" 2>>{shlex.quote(log)}' if talk else f"log={shlex.quote(log)}; {HOLD}"
        with self._log.open("ab") as sink:
            return await trio.lowlevel.open_process(
                self._command(f"cd {WORKDIR} && {{ {script}; }}", *argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if talk else sink,
                stderr=sink,
                start_new_session=True,
            )

    async def write(self, name: str, content: str, *, mode: int = 0o644) -> str:
        path = f"{WORKDIR}/{name}"
        await self._remote('install -m "$1" /dev/stdin "$2"', f"{mode:o}", path, stdin=content)
        return path

    async def read(self, name: str) -> str:
        return await self._remote('if [ -e "$1" ]; then cat "$1"; fi', f"{WORKDIR}/{name}")


async def add_rules(host: SshHost, text: str) -> None:
    """Add rules to the ruleset of a firewall, now and at each boot."""
    await host.run("sh", "-c", f"mkdir -p /etc/nftables.d && tee -a {RULES_FILE} | nft -f - && sync", stdin=text)


async def restore_rules(host: SshHost) -> None:
    """Load the ruleset of a firewall again without the added rules."""
    await host.run("sh", "-c", f"rm -f {RULES_FILE}; nft -f /etc/nftables.conf")


async def has_flowtables(host: SshHost) -> bool:
    """Tell whether the kernel of a firewall accepts a flowtable in the house ruleset."""
    try:
        await host.run("nft", "--check", "-f", "-", stdin=FLOWTABLE_RULES)
    except LabError as error:
        if "Error: Could not process rule" not in str(error):
            raise
        return False
    return True
