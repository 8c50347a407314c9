"""What the lab asks of the machines that it runs on: namespaces and virtual machines each answer it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio


class LabError(Exception):
    """The lab cannot be built or run; the message says what to do about it."""


class Host(Protocol):
    """One machine of the lab."""

    name: str
    workdir: str
    """A directory there for the lab's own files, and every command's current one; the lab removes it."""
    python: str
    """The interpreter there that can import ftfw."""

    async def run(self, *argv: str, stdin: str = "") -> str:
        """Run a command to its end and return its output; LabError with its complaint if it fails."""

    async def start(self, *argv: str, log: str, talk: bool = False) -> trio.Process:
        """Start a command that stays, and that killing the returned process ends.

        Its output goes to the file `log`; with `talk`, only standard error, and the rest is pipes.
        """

    async def write(self, name: str, content: str, *, mode: int = 0o644) -> str:
        """Write a file into the work directory and return its path there."""

    async def read(self, name: str) -> str:
        """Return a file of the work directory; empty if there is none."""


async def run_here(*argv: str, stdin: str = "", cwd: str | None = None) -> str:
    """Run a command of this machine to its end and return its output; LabError with its complaint if it fails."""
    try:
        done = await trio.run_process(
            argv,
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=cwd,
            start_new_session=True,  # Ctrl-C at the terminal is for the lab
        )
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed; ./dev setup installs what the lab needs") from None
    if done.returncode:
        complaint = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise LabError(f"{' '.join(argv)} failed: {complaint or f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")


@asynccontextmanager
async def running(host: Host, *argv: str, log: str) -> AsyncIterator[trio.Process]:
    """Keep a command running on a host for as long as the context lasts."""
    process = await host.start(*argv, log=log)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await end(process)


async def end(process: trio.Process) -> None:
    """Kill a process and see it gone."""
    process.kill()
    await process.wait()
