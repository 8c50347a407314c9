"""Defines the interface of a host of the lab, and functions that run commands on hosts and on this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio


class LabError(Exception):
    """Raised if the lab cannot be built or run; the message names the remedy where one is known."""


class Host(Protocol):
    """Represents one machine of the lab."""

    name: str
    workdir: str
    """A directory on the host for the lab's files, and the current directory of every command; the lab removes it."""
    python: str
    """The path of a Python interpreter on the host that can import ftfw."""

    async def run(self, *argv: str, stdin: str = "") -> str:
        """Run a command to its end and return its output.

        Raises LabError with the command's error output if it fails.
        """

    async def start(self, *argv: str, log: str, talk: bool = False) -> trio.Process:
        """Start a command that keeps running; killing the returned process ends it.

        Its output is appended to the file `log` in the work directory. With `talk`, only its standard error is, and
        its standard input and output are pipes.
        """

    async def write(self, name: str, content: str, *, mode: int = 0o644) -> str:
        """Write a file into the work directory and return its path on the host."""

    async def read(self, name: str) -> str:
        """Return the content of a file in the work directory; an empty string if it does not exist."""


async def run_here(*argv: str, stdin: str = "", cwd: str | None = None) -> str:
    """Run a command on this machine to its end and return its output.

    Raises LabError with the command's error output if it fails or is not installed.
    """
    try:
        done = await trio.run_process(
            argv,
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=cwd,
            start_new_session=True,  # Ctrl-C on the terminal reaches the lab only
        )
    except FileNotFoundError:
        raise LabError(
            f"{argv[0]} is not installed; the lab needs it (in the source tree, ./dev setup installs all it needs)"
        ) from None
    if done.returncode:
        complaint = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise LabError(f"{' '.join(argv)} failed: {complaint or f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")


@asynccontextmanager
async def running(host: Host, *argv: str, log: str) -> AsyncIterator[trio.Process]:
    """Keep a command running on a host while the context lasts."""
    process = await host.start(*argv, log=log)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await end(process)


async def end(process: trio.Process) -> None:
    """Kill a process and wait until it has ended."""
    process.kill()
    await process.wait()
