"""Runs services and flows on one host, and moves addresses, as the lab commands: one agent process on each host.

`python -m ftfw.lab.agent HOST` speaks `agent_messages` over standard input and output, and ends when its input ends.
"""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from ftfw.lab import agent_messages, topology
from ftfw.lab.agent_services import AgentServices
from ftfw.lab.announcements import announce
from ftfw.lab.flows import catalogue
from ftfw.lab.flows.flow_base import LOSSES, LabFlow, now
from ftfw.lab.flows.program_flows import lines
from ftfw.lab.flows.tcp_flows import block
from ftfw.lab.verdicts import longest_silence

BIG_FILE_BLOCKS = 8192


class Agent:
    """Carries out commands one after the other; flows continue in the background nursery."""

    def __init__(
        self, host: str, nursery: trio.Nursery, send: Callable[[agent_messages.Message], Awaitable[None]]
    ) -> None:
        self._host = host
        self._nursery = nursery
        self._send = send
        self._services = AgentServices(nursery)
        self._flows: dict[str, LabFlow] = {}
        self._cut = 0.0

    async def carry_out(self, command: agent_messages.AgentCommand) -> None:
        """Carry out a command and send its end, with the error if there is one."""
        operation = OPERATIONS.get(command.operation)
        if operation is None:
            await self._send(agent_messages.CommandDone(error=f"unknown operation {command.operation!r}"))
            return
        try:
            await operation(self, **command.arguments)
        except (OSError, subprocess.CalledProcessError) as error:
            await self._send(agent_messages.CommandDone(error=f"{command.operation}: {error}"))
        else:
            await self._send(agent_messages.CommandDone())

    async def publish(self) -> None:
        """Write the files that the real servers offer into `topology.FILES` in the work directory."""
        folder = trio.Path(topology.FILES)
        await folder.mkdir()
        await (folder / topology.SMALL_FILE).write_text(topology.SMALL_TEXT + "\n")
        await (folder / topology.BIG_FILE).write_bytes(b"".join(map(block, range(BIG_FILE_BLOCKS))))

    async def serve(self) -> None:
        """Start the lab's own services."""
        await self._services.start(self._host)

    async def open(self, flows: list[str], limit_s: float) -> None:
        """Open flows, and report which of them work."""
        self._flows = {flow.name: flow for flow in catalogue() if flow.name in flows}
        await self._phase(lambda flow: flow.open(self._nursery), flows, limit_s)

    async def arm(self, flows: list[str], limit_s: float) -> None:
        """Prepare flows for the takeover."""
        await self._phase(lambda flow: flow.arm(), flows, limit_s)

    async def cut(self) -> None:
        """Note that the active has been cut off now."""
        self._cut = now()

    async def prove(self, flows: list[str], limit_s: float) -> None:
        """Report which flows have survived the takeover."""
        self._services.takeover_done()
        await self._phase(lambda flow: flow.prove(), flows, limit_s)

    async def adopt(self) -> None:
        """Add the virtual addresses to this host and announce them to the neighbours."""
        await self._addresses("replace")
        for interface, addresses in topology.VIRTUAL.items():
            announce(interface, addresses)

    async def release(self) -> None:
        """Delete the virtual addresses from this host."""
        await self._addresses("delete")

    async def _addresses(self, action: str) -> None:
        batch = [
            f"address {action} {address}/{64 if ':' in address else 24} dev {interface} nodad"
            for interface, addresses in topology.VIRTUAL.items()
            for address in addresses
        ]
        await trio.run_process(("ip", "-batch", "-"), stdin="\n".join(batch).encode())

    async def _phase(self, work: Callable[[LabFlow], Awaitable[None]], flows: list[str], limit_s: float) -> None:
        async with trio.open_nursery() as nursery:
            for name in flows:
                nursery.start_soon(self._one, work, self._flows[name], limit_s)

    async def _one(self, work: Callable[[LabFlow], Awaitable[None]], flow: LabFlow, limit_s: float) -> None:
        reason = ""
        try:
            with trio.fail_after(limit_s):
                await work(flow)
        except trio.TooSlowError:
            reason = f"{flow.trouble or 'nothing heard'} for {limit_s:g} s"
        except LOSSES as error:
            reason = str(error) or type(error).__name__
        pause_s = None if reason else longest_silence(flow.heard, self._cut)
        await self._send(agent_messages.FlowReport(flow=flow.name, alive=not reason, pause_s=pause_s, reason=reason))


OPERATIONS: dict[str, Callable[..., Awaitable[None]]] = {
    operation.__name__: operation
    for operation in (
        Agent.publish,
        Agent.serve,
        Agent.open,
        Agent.arm,
        Agent.cut,
        Agent.prove,
        Agent.adopt,
        Agent.release,
    )
}


async def main(host: str) -> None:
    """Run until the lab closes the standard input."""
    output = trio.lowlevel.FdStream(sys.stdout.fileno())
    one_at_a_time = trio.Lock()

    async def send(message: agent_messages.Message) -> None:
        async with one_at_a_time:
            await output.send_all(agent_messages.encode(message))

    async with trio.open_nursery() as nursery:
        agent = Agent(host, nursery, send)
        async for line in lines(trio.lowlevel.FdStream(sys.stdin.fileno())):
            command = agent_messages.decode(line.encode())
            assert isinstance(command, agent_messages.AgentCommand)
            await agent.carry_out(command)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))
