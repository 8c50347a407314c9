"""`./dev record`: real traffic through the lab's firewall, written down for the simulated kernel."""

import argparse
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from ftfw.kernel import create, flow_entry, uapi
from ftfw.kernel.attributes import BODY, MESSAGE_SIZE, message, pack, split
from ftfw.lab import failover_run, topology
from ftfw.lab.agent_client import AgentClient, running_agent
from ftfw.lab.flows import catalogue
from ftfw.lab.lab_host import Host
from ftfw.lab.namespace_site import NamespaceSite
from ftfw.lab.namespaces import SWITCH
from ftfw.lab.namespaces import network as lab_network
from ftfw.lab.real_servers import real_servers
from tests.simulation.gate import Gate
from tests.simulation.recording import Recording

OPEN_LIMIT_S = 20.0
QUIET_S = 1.0
END_LIMIT_S = 60.0
# Short, so that a recording has the ends of its flows.
SYSCTLS = {
    "tcp_timeout_time_wait": 4, "tcp_timeout_fin_wait": 4, "tcp_timeout_last_ack": 4, "tcp_timeout_close": 2,
    "tcp_timeout_close_wait": 4, "udp_timeout": 9, "udp_timeout_stream": 15, "icmp_timeout": 4, "icmpv6_timeout": 4,
    "gre_timeout": 4, "gre_timeout_stream": 8,
}  # fmt: skip


@dataclass
class Scene:
    """The lab while it is recorded."""

    gate: Gate
    client: Host
    firewall: Host
    remotes: dict[str, AgentClient]

    async def flows(self, *names: str, phases: Sequence[str] = ("open", "arm", "prove")) -> None:
        """Take flows of the lab through their phases; those of the last call end when the next one opens others."""
        near = {flow.name: flow.near for flow in catalogue()}
        for phase in phases:
            for host, remote in self.remotes.items():
                chosen = [name for name in names if near[name] == host]
                for report in await remote.do(phase, flows=chosen, limit_s=OPEN_LIMIT_S):
                    if not report.alive:
                        raise RuntimeError(f"{report.flow}, {phase}: {report.reason}")
            await self.quiet(QUIET_S)

    async def command(self, *argv: str) -> None:
        """Have the firewall's administrator do something."""
        await self.firewall.run(*argv)
        await self.step()

    async def step(self) -> None:
        """Wait until the gate has seen what was done before; what is done next is another step."""
        seen = self.gate.looks + 2  # one may be under way
        while self.gate.looks < seen:
            self.gate.check()
            await trio.sleep(0.01)

    async def clear_labels(self) -> None:
        """Take the labels off every flow that has some, as a program may; `nft` cannot."""
        for row in list(self.gate.table.values()):
            attributes = split(row, BODY)
            if uapi.CTA_LABELS in attributes:
                body = (
                    flow_entry.key_of(attributes) + attributes[uapi.CTA_TUPLE_REPLY] + pack(uapi.CTA_LABELS, bytes(16))
                )
                self.gate.requests.send(message(uapi.CT_NEW, create.UPDATE, row[MESSAGE_SIZE], body))
                await self.step()

    async def quiet(self, seconds: float) -> None:
        """Wait until the table has been the same for so long, but not for ever: some flows never rest."""
        with trio.move_on_after(2 * seconds):
            while time.monotonic() - self.gate.changed_at < seconds:  # noqa: ASYNC110 (a thread changes it)
                await trio.sleep(0.01)


async def ftp(scene: Scene) -> None:
    """Every way to open a data connection, expectations met and taken away, a control connection that ends first."""
    await scene.flows(
        *("ftp-pasv-new-v4-snat", "ftp-port-new-v4-snat", "ftp-port-pending-v4-snat", "ftp-epsv-pending-v4"),
        *("ftp-port-transfer-v4-snat", "ftp-eprt-new-v6", "ftp-port-new-v4-zone", "ftp-pasv-pending-v4-dnat"),
    )
    await scene.flows("lftp-active", "lftp-passive", phases=("open", "prove"))
    await scene.flows("ftp-eprt-pending-v4-snat", "ftp-pasv-pending-v4", phases=("open", "arm"))
    await scene.command("conntrack", "-F", "expect")
    await scene.flows("ftp-port-pending-v4", "ftp-port-pending-v4-zone", phases=("open", "arm"))
    await scene.command("conntrack", "-D", "-s", topology.PLAIN4)


async def mixed(scene: Scene) -> None:
    """Every protocol and path; marks, labels and timers changed by an administrator, by a rule and by a program."""
    await scene.flows(
        *(f"tcp-idle-{path}" for path in ("v4", "v4-snat", "v4-dnat", "v6", "v6-snat")),
        *("tcp-idle-v4-zone", "tcp-idle-v4-half-zone", "tcp-idle-v4-mark"),
        *("udp-v4", "udp-v4-snat", "udp-v6", "udp-v6-snat", "udp-v4-zone"),
        *("icmp-echo-v4-snat", "icmp-echo-v6", "gre-v4", "gre-v4-snat", "gre-call-v4"),
        *("tftp-pending-v4-snat", "tftp-transfer-v4-snat", "tftp-transfer-v4-zone"),
        phases=("open",),
    )
    udp = ("-p", "udp", "-s", topology.PLAIN4, "--orig-port-dst", str(topology.SPEAK_PORT))
    await scene.command("conntrack", "-U", "-p", "tcp", "-s", topology.PLAIN4, "--mark", "5")
    await scene.command("conntrack", "-U", *udp, "--mark", "9")
    await scene.command("conntrack", "-U", *udp, "--mark", "0")
    await scene.command("conntrack", "-U", "-f", "ipv6", "-p", "tcp", "-s", topology.PLAIN6, "--timeout", "77")
    await scene.command("nft", "insert rule inet house forward ct label set 5")
    await scene.flows("tcp-idle-v4-mark", "tcp-idle-v4", phases=("open", "prove"))
    await scene.command("nft", "flush", "chain", "inet", "house", "helpers")
    await scene.clear_labels()
    await scene.command("conntrack", "-D", "-w", "7")
    await scene.command("conntrack", "-D", "-p", "gre")
    await scene.command("conntrack", "-F")


async def churn(scene: Scene) -> None:
    """Short flows that begin and end, some under a tuple that was used just before."""
    await scene.client.run("sysctl", "-q", "-w", "net.ipv4.tcp_max_tw_buckets=0")  # its ports are free again at once
    fetch = ("curl", "-s", "--interface", topology.SNAT4, f"http://{topology.SERVER4}/{topology.SMALL_FILE}")
    query = ("dig", "+short", "+tries=1", "+time=1", f"@{topology.SERVER4}", topology.DNS_NAME)
    for number in range(20):
        port = 42000 + number % 6
        await scene.client.run(*fetch, "--local-port", str(port))
        await scene.client.run(*query, "-b", f"{topology.PLAIN4}#{port}")
        await scene.client.run("ping", "-n", "-c", "1", "-W", "1", "-I", topology.SNAT4, topology.SERVER4)
        if number % 6 == 5:
            await scene.command("conntrack", "-D", "-p", "tcp", "-s", topology.SNAT4)
        elif number % 6 == 2:
            await scene.command("conntrack", "-F")


SCRIPTS: dict[str, Callable[[Scene], Awaitable[None]]] = {each.__name__: each for each in (ftp, mixed, churn)}


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """Build the lab with one firewall, whose packets pass the gate."""
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(lab_network())
        site = NamespaceSite(network)
        await site.build()
        firewall = site.hosts[topology.FW1]
        await site.add_rules(topology.FW1, site.missing_rules + failover_run.RULES)
        await firewall.run("sysctl", "-q", "-w", *(f"net.netfilter.nf_conntrack_{k}={v}" for k, v in SYSCTLS.items()))
        lab, pairs = Path(firewall.workdir).parent.name, []
        for segment in (topology.LAN, topology.WAN):
            near, far = f"{topology.FW1}-{segment}", f"gate-{segment}"
            await network.batch(
                SWITCH,
                [
                    f"link set {near} nomaster promisc on",
                    f"link add {far} type veth peer name {far}-in",
                    f"link set {far}-in master {segment} up",
                    f"link set {far} up promisc on",
                ],
            )
            pairs.append((near, far))
        gate = Gate(firewall=f"{lab}-{topology.FW1}", switch=f"{lab}-{SWITCH}", pairs=pairs)
        gate.start()
        stack.callback(gate.stop)
        await trio.to_thread.run_sync(gate.ready.wait)
        adopter = await stack.enter_async_context(running_agent(firewall))
        await adopter.do("adopt")
        async with AsyncExitStack() as ends:
            remotes = {name: await ends.enter_async_context(running_agent(site.hosts[name])) for name in HOSTS}
            for remote in remotes.values():
                await remote.do("publish")
                await remote.do("serve")
            await stack.enter_async_context(real_servers(site.hosts))
            yield Scene(gate, site.hosts[topology.CLIENT], firewall, remotes)
        with trio.fail_after(END_LIMIT_S):  # the flows' programs have ended
            while gate.table:
                gate.check()
                await trio.sleep(0.1)


HOSTS = (topology.CLIENT, topology.SERVER)


async def record(name: str) -> Recording:
    """Play a script and return what the firewall's kernel did."""
    async with scene() as lab:
        await SCRIPTS[name](lab)
        await lab.quiet(QUIET_S)
    return Recording(name, f"{platform.system()} {platform.release()}", lab.gate.steps)


def main() -> int:
    """Make the recordings that are asked for."""
    parser = argparse.ArgumentParser(prog="./dev record", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"which to make anew: {', '.join(SCRIPTS)} (all)")
    chosen = parser.parse_args()
    if os.geteuid():
        parser.error("it makes network namespaces: run it as root")
    if unknown := set(chosen.name) - SCRIPTS.keys():
        parser.error(f"no recording is called {', '.join(unknown)}; there are {', '.join(SCRIPTS)}")
    for name in chosen.name or SCRIPTS:
        recording = trio.run(record, name)
        events = sum(len(step.events) for step in recording.steps)
        size = recording.save()
        print(f"{name}: {len(recording.steps)} steps, {events} events, {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
