"""What the lab asks of the machines it runs on: namespaces, virtual machines and Vagrant each answer it."""

from collections.abc import AsyncIterator, Mapping, Sequence
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


class Site(Protocol):
    """The machines, cabled up: client, lan, firewalls, wan, server; and sync between the firewalls."""

    hosts: Mapping[str, Host]

    async def cut(self, name: str) -> None:
        """Take every link of that host down from outside; nobody else's link suffers."""

    async def heal(self, name: str) -> None:
        """Bring the links back."""

    async def describe(self) -> Sequence[str]:
        """Tell how to look around by hand, one command per line."""


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
