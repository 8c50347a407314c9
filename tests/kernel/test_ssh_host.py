"""Hosts that are reached by ssh: with a real sshd in a namespace of its own."""

import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ftfw.lab.lab_host import LabError
from tests.kernel.pair import run, until
from vagrant.vm_lab import ssh_host
from vagrant.vm_lab.ssh_host import SshHost

pytestmark = pytest.mark.kernel

ADDRESS = "192.0.2.10"
SSHD = """\
ListenAddress {address}
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """An ssh_config with the host `there`, and the namespace from which it can be reached."""
    namespace = f"ftfw-{secrets.token_hex(3)}-sshd"
    monkeypatch.setattr(ssh_host, "WORKDIR", str(tmp_path / "work"))
    monkeypatch.setattr(SshHost, "workdir", ssh_host.WORKDIR)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key"))
    (tmp_path / "sshd").write_text(SSHD.format(address=ADDRESS, folder=tmp_path))
    (tmp_path / "config").write_text(
        f"Host there\n  HostName {ADDRESS}\nHost nobody\n  HostName 192.0.2.99\n"
        f"Host *\n  User root\n  IdentityFile {tmp_path}/key\n"
        + "".join(f"  {option} {value}\n" for option, value in ssh_host.OPTIONS.items())
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    run("ip", "netns", "add", namespace)
    try:
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "-n", namespace, "address", "add", f"{ADDRESS}/24", "dev", "lo")
        sshd = subprocess.Popen(
            ["ip", "netns", "exec", namespace, "/usr/sbin/sshd", "-D", "-e", "-f", str(tmp_path / "sshd")],
            stderr=subprocess.DEVNULL,
        )
        try:
            yield tmp_path / "config", namespace
        finally:
            sshd.kill()
            sshd.wait()
    finally:
        run("sh", "-c", f"ip netns pids {namespace} | xargs -r kill -KILL", check=False)
        run("ip", "netns", "delete", namespace)


@asynccontextmanager
async def connected(config: tuple[Path, str]) -> AsyncIterator[SshHost]:
    host = SshHost("there", config[0], prefix=("ip", "netns", "exec", config[1]))
    await host.connect(20)
    try:
        yield host
    finally:
        await host.disconnect()


async def test_commands_and_files(config: tuple[Path, str]) -> None:
    async with connected(config) as host:
        assert await host.run("echo", "a  b", "$HOME", "'") == "a  b $HOME '\n"
        assert await host.run("cat", stdin="two\nlines\n") == "two\nlines\n"
        assert await host.run("pwd") == f"{host.workdir}\n"
        with pytest.raises(LabError, match=r"^there: sh -c 'echo no >&2; exit 3' failed: no$"):
            await host.run("sh", "-c", "echo no >&2; exit 3")
        path = await host.write("secret", "text", mode=0o600)
        file = trio.Path(path)
        assert (await file.read_text(), (await file.stat()).st_mode & 0o777) == ("text", 0o600)
        assert (await host.read("secret"), await host.read("missing")) == ("text", "")
        await host.clear()
        assert not await file.parent.exists()


async def test_what_was_started_ends_with_the_process_here(config: tuple[Path, str]) -> None:
    async with connected(config) as host:
        process = await host.start("sh", "-c", "echo $$; exec sleep 1000", log="log")
        log = config[0].parent / "work/log"
        number = until(lambda: log.exists() and log.read_text().strip(), "it has begun")
        process.kill()
        await process.wait()
    until(lambda: not Path(f"/proc/{number}").exists(), "it has ended")


async def test_one_that_talks_has_pipes_and_complains_into_its_log(config: tuple[Path, str]) -> None:
    async with connected(config) as host:
        process = await host.start("sh", "-c", "cat; echo done >&2", log="log", talk=True)
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send_all(b"hello\n")
        assert await process.stdout.receive_some() == b"hello\n"
        await process.stdin.aclose()
        await process.wait()
        assert await host.read("log") == "done\n"


async def test_a_connection_comes_back_after_it_was_lost(config: tuple[Path, str]) -> None:
    async with connected(config) as host:
        await host.disconnect()
        assert not host.connected
        await host.connect(20)
        assert await host.run("echo", "back") == "back\n"


async def test_who_does_not_answer_is_named(config: tuple[Path, str]) -> None:
    host = SshHost("nobody", config[0], prefix=("ip", "netns", "exec", config[1]))
    with pytest.raises(LabError, match=r"^nobody does not answer over ssh: "):
        await host.connect(1)
    await host.disconnect()
    with pytest.raises(LabError, match=r"^nobody does not answer over ssh: "):
        await host.connect(20, alive=lambda: False)
