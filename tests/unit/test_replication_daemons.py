from typing import cast

import pytest
import trio

from ftfw.lab.lab_host import LabError
from ftfw.lab.replication_daemons import ConntrackdDaemon, FtfwDaemon


class FakeProcess:
    def __init__(self, code: int | None) -> None:
        self._code = code

    def poll(self) -> int | None:
        return self._code


class FakeHost:
    """A host on which a daemon process runs, or has ended, and whose commands all fail."""

    name = "fw1"
    workdir = "/nowhere"
    python = "python3"

    def __init__(self, *, code: int | None = None) -> None:
        self._code = code

    async def run(self, *argv: str, stdin: str = "") -> str:  # noqa: ARG002 - as Host has it
        await trio.lowlevel.checkpoint()
        if argv[0] == "rm":
            return ""
        raise LabError("connection refused")

    async def start(self, *argv: str, log: str, talk: bool = False) -> trio.Process:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        return cast("trio.Process", FakeProcess(self._code))

    async def write(self, name: str, content: str, *, mode: int = 0o644) -> str:
        raise NotImplementedError

    async def read(self, name: str) -> str:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        return "its last words\n"


@pytest.mark.parametrize("kind", [FtfwDaemon, ConntrackdDaemon])
async def test_a_daemon_that_does_not_answer_is_an_error_with_its_log(
    kind: type[FtfwDaemon | ConntrackdDaemon],
    autojump_clock: object,  # noqa: ARG001
) -> None:
    with pytest.raises(LabError, match=rf"^{kind.name} on fw1 does not answer after 20 s:\nits last words$"):
        await kind("warm", 1.0).start(FakeHost(), "active")


@pytest.mark.parametrize("kind", [FtfwDaemon, ConntrackdDaemon])
async def test_a_daemon_that_has_ended_is_an_error_with_its_log(kind: type[FtfwDaemon | ConntrackdDaemon]) -> None:
    with pytest.raises(LabError, match=rf"^{kind.name} on fw1 ended:\nits last words$"):
        await kind("warm", 1.0).start(FakeHost(code=1), "active")
