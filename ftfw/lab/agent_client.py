"""Connects the lab with an agent: sends commands and receives reports."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from ftfw.lab import agent_messages
from ftfw.lab.lab_host import Host, LabError, end


class AgentClient:
    """Sends commands to one running agent and reads its reports; the caller sends one command at a time."""

    def __init__(self, host: Host, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._host = host
        self._stdin, self._stdout = process.stdin, process.stdout
        self._rest = b""

    async def do(self, operation: str, **arguments: Any) -> list[agent_messages.FlowReport]:
        """Have the agent carry out a command and return its reports.

        Raises LabError if the agent cannot carry it out or has ended.
        """
        return [report async for report in self.reports(operation, **arguments)]

    async def reports(self, operation: str, **arguments: Any) -> AsyncIterator[agent_messages.FlowReport]:
        """Have the agent carry out a command and yield its reports as they come.

        Raises LabError if the agent cannot carry it out or has ended.
        """
        try:
            await self._stdin.send_all(
                agent_messages.encode(agent_messages.AgentCommand(operation=operation, arguments=arguments))
            )
        except trio.BrokenResourceError:
            raise LabError(await self._last_log()) from None
        while True:
            match agent_messages.decode(await self._line()):
                case agent_messages.FlowReport() as report:
                    yield report
                case agent_messages.CommandDone(error=error):
                    if error:
                        raise LabError(f"agent on {self._host.name}: {error}")
                    return

    async def end(self) -> None:
        """Close the connection; the agent ends when its input ends."""
        await self._stdin.aclose()
        await self._stdout.aclose()

    async def _line(self) -> bytes:
        while b"\n" not in self._rest:
            piece = await self._stdout.receive_some()
            if not piece:
                raise LabError(await self._last_log())
            self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    async def _last_log(self) -> str:
        last = (await self._host.read(LOG)).strip()[-2000:]
        return f"the agent on {self._host.name} ended:\n{last}"


LOG = "agent.log"


@asynccontextmanager
async def running_agent(host: Host) -> AsyncIterator[AgentClient]:
    """Run an agent on a host while the context lasts."""
    process = await host.start(host.python, "-m", "ftfw.lab.agent", host.name, log=LOG, talk=True)
    client = AgentClient(host, process)
    try:
        yield client
    finally:
        with trio.CancelScope(shield=True):
            await client.end()
            with trio.move_on_after(2):
                await process.wait()
            await end(process)
