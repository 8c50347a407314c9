"""The lab's end of the wire to an agent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from ftfw.lab import agent_messages
from ftfw.lab.host import Host, LabError, end


class Remote:
    """One running agent. Commands go one at a time; a second caller waits."""

    def __init__(self, host: Host, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._host = host
        self._stdin, self._stdout = process.stdin, process.stdout
        self._rest = b""

    async def do(self, operation: str, **arguments: Any) -> list[agent_messages.Report]:
        """Have a command carried out and return its reports; LabError if it cannot be."""
        return [report async for report in self.reports(operation, **arguments)]

    async def reports(self, operation: str, **arguments: Any) -> AsyncIterator[agent_messages.Report]:
        """Have a command carried out and yield its reports as they come; LabError if it cannot be."""
        try:
            await self._stdin.send_all(
                agent_messages.encode(agent_messages.Command(operation=operation, arguments=arguments))
            )
        except trio.BrokenResourceError:
            raise LabError(await self._obituary()) from None
        while True:
            match agent_messages.decode(await self._line()):
                case agent_messages.Report() as report:
                    yield report
                case agent_messages.Done(error=error):
                    if error:
                        raise LabError(f"agent on {self._host.name}: {error}")
                    return

    async def end(self) -> None:
        """Close the wire, upon which the agent ends by itself."""
        await self._stdin.aclose()
        await self._stdout.aclose()

    async def _line(self) -> bytes:
        while b"\n" not in self._rest:
            piece = await self._stdout.receive_some()
            if not piece:
                raise LabError(await self._obituary())
            self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    async def _obituary(self) -> str:
        last = (await self._host.read(LOG)).strip()[-2000:]
        return f"the agent on {self._host.name} ended:\n{last}"


LOG = "agent.log"


@asynccontextmanager
async def agent(host: Host) -> AsyncIterator[Remote]:
    """Run an agent on a host."""
    process = await host.start(host.python, "-m", "ftfw.lab.agent", host.name, log=LOG, talk=True)
    remote = Remote(host, process)
    try:
        yield remote
    finally:
        with trio.CancelScope(shield=True):
            await remote.end()
            with trio.move_on_after(2):
                await process.wait()
            await end(process)
