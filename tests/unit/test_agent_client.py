"""The lab's end of the connection to an agent, with a shell script in place of the agent."""

import subprocess
from pathlib import Path

import pytest
import trio

from ftfw.lab.agent_client import running_agent
from ftfw.lab.agent_messages import CommandDone, FlowReport, encode
from ftfw.lab.lab_host import LabError

REPORTS = [FlowReport(flow="udp-v4", alive=True, pause_s=0.5), FlowReport(flow="gre-v4", alive=False, reason="silent")]


class ScriptHost:
    """A host on which every command is the given script."""

    name = "client"
    python = "python3"

    def __init__(self, folder: Path, script: str) -> None:
        self.workdir = str(folder)
        self.script = script

    async def run(self, *argv: str, stdin: str = "") -> str:
        raise NotImplementedError

    async def start(self, *argv: str, log: str, talk: bool = False) -> trio.Process:  # noqa: ARG002 - as Host has it
        with (Path(self.workdir) / log).open("ab") as sink:
            return await trio.lowlevel.open_process(
                ("sh", "-c", self.script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink
            )

    async def write(self, name: str, content: str, *, mode: int = 0o644) -> str:
        raise NotImplementedError

    async def read(self, name: str) -> str:
        await trio.lowlevel.checkpoint()
        return (Path(self.workdir) / name).read_text()


def answering(folder: Path, *messages: FlowReport | CommandDone) -> ScriptHost:
    """Return a host whose agent answers each command with these messages."""
    (folder / "answer").write_bytes(b"".join(map(encode, messages)))
    return ScriptHost(folder, f"while read -r command; do cat {folder}/answer; done")


async def test_a_command_returns_its_reports_and_another_may_follow(tmp_path: Path) -> None:
    async with running_agent(answering(tmp_path, *REPORTS, CommandDone())) as agent:
        assert await agent.do("open", flows=["udp-v4", "gre-v4"], limit_s=1) == REPORTS
        assert await agent.do("prove", flows=["udp-v4", "gre-v4"], limit_s=1) == REPORTS


async def test_a_command_that_cannot_be_carried_out_is_an_error(tmp_path: Path) -> None:
    async with running_agent(answering(tmp_path, CommandDone(error="adopt: no such device"))) as agent:
        with pytest.raises(LabError, match=r"^agent on client: adopt: no such device$"):
            await agent.do("adopt")


async def test_an_agent_that_ends_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    async with running_agent(ScriptHost(tmp_path, "read -r command; echo its last words >&2")) as agent:
        with pytest.raises(LabError, match=r"^the agent on client ended:\nits last words$"):
            await agent.do("serve")
        with pytest.raises(LabError, match=r"^the agent on client ended:\nits last words$"):
            await agent.do("serve")
