"""Defines flows of common clients: ping, dig, curl, ssh and lftp."""

# LabFlow describes what the methods promise.
# ruff: noqa: D102

import itertools
import subprocess
from abc import abstractmethod
from collections.abc import AsyncIterator
from functools import partial

import trio

from ftfw.lab import topology
from ftfw.lab.flows.flow_base import FlowLostError, LabFlow, receive_exactly
from ftfw.lab.flows.tcp_flows import BLOCK_SIZE, block

INTERVAL_S = 0.2
FRESH_BLOCKS = 16  # more than can be in flight at the rate of the web server
DNS_SOURCE_PORT = 5353


async def lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    """Yield the lines of a stream as they arrive, without their ends."""
    rest = b""
    async for piece in stream:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")


class ProgramFlow(LabFlow):
    """Runs a program of this host that makes the traffic."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line."""

    @abstractmethod
    async def converse(self, process: trio.Process) -> None:
        """Exchange data with the program until it ends."""

    async def start(self, nursery: trio.Nursery) -> trio.Process:
        """Start the program and the exchange of data with it."""
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                self.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        )
        nursery.start_soon(self.watch, lambda: self.converse(process))
        return process

    async def open(self, nursery: trio.Nursery) -> None:
        await self.start(nursery)
        await self.hear_more(3)

    async def prove(self) -> None:
        await self.hear_more(5)


class Ping(ProgramFlow):
    """Runs one ping with one ICMP id: the firewall accepts no new one."""

    def __init__(self, name: str, title: str, *, source: str, destination: str) -> None:
        super().__init__(name, title)
        self._ends = source, destination

    def command(self) -> list[str]:
        return ["ping", "-n", "-i", str(INTERVAL_S), "-I", *self._ends]

    async def converse(self, process: trio.Process) -> None:
        assert process.stdout is not None
        async for line in lines(process.stdout):
            if " bytes from " in line:
                self.hear()


class DnsQueries(LabFlow):
    """Sends one DNS query after the other from one port, so that all of them are one flow."""

    async def open(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.watch, self._query)
        await self.hear_more(2)

    async def _query(self) -> None:
        source = f"{topology.SNAT4}#{DNS_SOURCE_PORT}"
        query = ["dig", "+short", "+tries=1", "+time=1", "-b", source, f"@{topology.SERVER4}", topology.DNS_NAME]
        while True:
            done = await trio.run_process(query, capture_stdout=True, check=False)
            if done.stdout.decode().strip() == topology.DNS_ANSWER:
                self.hear()
            await trio.sleep(INTERVAL_S)

    async def prove(self) -> None:
        await self.hear_more(3)


class WebDownload(ProgramFlow):
    """Downloads a file by curl; the web server limits the rate."""

    def command(self) -> list[str]:
        return ["curl", "-sS", "--interface", topology.SNAT4, f"http://{topology.SERVER4}/{topology.BIG_FILE}"]

    async def converse(self, process: trio.Process) -> None:
        assert process.stdout is not None
        for number in itertools.count():
            if await receive_exactly(process.stdout, BLOCK_SIZE) != block(number):
                raise FlowLostError(f"block {number} of the download is damaged")
            self.hear()

    async def prove(self) -> None:
        await self.hear_more(FRESH_BLOCKS)


class SshSession(ProgramFlow):
    """Keeps an SSH session that echoes each line."""

    def command(self) -> list[str]:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes")
        return [
            "ssh",
            *itertools.chain.from_iterable(("-o", option) for option in options),
            *("-F", "none", "-i", topology.SSH_KEY_FILE, "-b", topology.SNAT4, f"root@{topology.SERVER4}", "cat"),
        ]

    async def converse(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        replies = lines(process.stdout)
        for number in itertools.count():
            await process.stdin.send_all(b"%d\n" % number)
            if await anext(replies, None) != str(number):
                raise FlowLostError("the SSH session ended")
            self.hear()
            await trio.sleep(INTERVAL_S)


class Lftp(ProgramFlow):
    """Runs an interactive lftp that fetches a file again after each takeover."""

    def __init__(self, name: str, title: str, *, passive: bool) -> None:
        super().__init__(name, title)
        self._passive = passive
        self._process: trio.Process

    def command(self) -> list[str]:
        settings = {
            "cmd:interactive": "false",
            "ftp:passive-mode": "true" if self._passive else "false",
            "ftp:auto-passive-mode": "false",
            "ftp:use-feat": "false",
            "ftp:use-size": "false",  # PORT must be the first command: lftp ignores a damaged SIZE
            "net:socket-bind-ipv4": topology.SNAT4,
            "net:idle": "never",  # a new connection would not pass the firewall
            "net:max-retries": "1",
            "net:timeout": "20",
            "xfer:log": "false",
        }
        script = "; ".join(f"set {key} {value}" for key, value in settings.items())
        return ["lftp", "-e", f"{script}; open ftp://{topology.SERVER4}"]

    async def open(self, nursery: trio.Nursery) -> None:
        self._process = await self.start(nursery)
        await self._fetch()

    async def converse(self, process: trio.Process) -> None:
        assert process.stdout is not None
        async for line in lines(process.stdout):
            if line == topology.SMALL_TEXT:
                self.hear()
        raise FlowLostError("lftp ended")

    async def _fetch(self) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(b"cat %s\n" % topology.SMALL_FILE.encode())
        await self.hear_more(1)

    async def prove(self) -> None:
        await self._fetch()


def flows() -> list[LabFlow]:
    """Return the flows of all programs; those over IPv4 come from the address that the firewall translates."""
    return [
        WebDownload("web-download", "Web download (curl, nginx), IPv4 with SNAT"),
        SshSession("ssh-session", "SSH session (ssh, sshd), IPv4 with SNAT"),
        DnsQueries("dns-queries", "DNS queries from one port (dig, dnsmasq), IPv4 with SNAT"),
        Ping(
            "icmp-echo-v4-snat",
            "ICMP echo (ping), IPv4 with SNAT",
            source=topology.SNAT4,
            destination=topology.SERVER4,
        ),
        Ping("icmp-echo-v6", "ICMP echo (ping), IPv6", source=topology.PLAIN6, destination=topology.SERVER6),
        Lftp("lftp-passive", "lftp, passive, new transfer, IPv4 with SNAT", passive=True),
        Lftp("lftp-active", "lftp, active, new transfer, IPv4 with SNAT", passive=False),
    ]
