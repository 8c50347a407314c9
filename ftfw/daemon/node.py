"""The daemon's nursery, and the commands that come through the control socket."""

import faulthandler
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, closing
from pathlib import Path
from typing import Any

import trio

from ftfw.config.schema import AnyLink, Config, MulticastLink
from ftfw.control import server
from ftfw.control.notification_words import STATES, TYPES
from ftfw.control.server import ControlError, Progress
from ftfw.daemon import local_host, requirements
from ftfw.daemon.gate import Gate
from ftfw.daemon.keepalived_task import KeepalivedTask, NodeState
from ftfw.daemon.metrics.metric_families import NodeMetrics
from ftfw.daemon.metrics.scrape_listener import Scrapes
from ftfw.daemon.reload import KeyReload
from ftfw.daemon.role_changer import WAITING_MAX
from ftfw.daemon.role_runner import Roles, first_of
from ftfw.daemon.roles.keepalived_fifo import Notification
from ftfw.daemon.roles.role_table import RoleEvent
from ftfw.daemon.status import NodeStatus
from ftfw.daemon.systemd import SystemdNotifier
from ftfw.daemon.transport import Transport
from ftfw.kernel import helpers
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.flow_filter import compile_filter
from ftfw.kernel.injector import Injector
from ftfw.kernel.netlink import RequestSocket, dump_expectations, dump_flows
from ftfw.link.link_base import Link
from ftfw.link.multicast import Multicast
from ftfw.link.tcp import Tcp
from ftfw.link.udp import Udp
from ftfw.replication import messages
from ftfw.replication.host_facts import Fact
from ftfw.replication.limits import FACTS_S
from ftfw.replication.store import Store
from ftfw.security import key_file
from ftfw.security.frames import OVERHEAD
from ftfw.system import interfaces

log = logging.getLogger(__name__)

# Threads hand batches to the kernel while this one builds the next; they must not wait 5 ms for the interpreter.
SWITCH_INTERVAL_S = 0.0001


class StartError(Exception):
    """The daemon cannot start; the message says what to mend."""


def run(config: Config, role: str, path: Path) -> None:
    """Run the daemon in this first role until SIGINT or SIGTERM; `path` is the configuration's.  Raises StartError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    faulthandler.enable()  # where a hung daemon hangs, when the watchdog ends it
    try:
        requirements.require(config)
        if requirements.ensure_events_mode() != requirements.EVENTS_ALWAYS:
            log.warning(
                "net.netfilter.nf_conntrack_events set to 1; entries that were there before may change without an"
                " event, and reach a backup by snapshots only: let /etc/sysctl.d/ftfw.conf set it to 1 at boot"
            )
        keys = [key_file.read(path) for path in config.security.key_files]
    except (requirements.RequirementError, key_file.KeyFileError) as error:
        raise StartError(str(error)) from None
    links = [_make_link(link, config.node.name) for link in config.link]
    try:
        trio.run(Node(config, Transport(links, keys, name=config.node.name), role, KeyReload(path, config)).run)
    except* ControlError as group:
        raise StartError(str(first_of(group))) from None
    finally:
        for link in links:
            link.close()


def _make_link(link: AnyLink, node: str) -> Link:
    if isinstance(link, MulticastLink):
        return Multicast(link)
    return Udp(link) if link.transport == "udp" else Tcp(link, node=node)


def _gate(config: Config, metrics: NodeMetrics) -> Gate | None:
    """What holds traffic back, if the configuration asks for it."""
    interfaces = config.takeover.gate_interfaces
    if not interfaces:
        return None
    own = [link.bind.packed for link in config.link if not isinstance(link, MulticastLink)]
    return Gate(interfaces, frozenset(own), held=metrics.held.observe)


class Node:
    """One node of the pair or group."""

    def __init__(self, config: Config, transport: Transport, role: str, reload: KeyReload) -> None:
        self._config = config
        self._reload = reload
        self._transport = transport
        self._counts: Counter[str] = Counter()  # events, overruns
        self._dropped: Counter[str] = Counter()
        self._requests = RequestSocket()
        self._injector = Injector(self._requests, local_host.timeouts())
        self._selector = Selector(
            passes=compile_filter(config.replicate),
            expectations=config.replicate.expectations,
            dropped=self._dropped,
            read=self._injector.read,
        )
        self._addresses: frozenset[bytes] = frozenset()  # of this host
        self._metrics = NodeMetrics(lambda: self._status.describe(*self._status.known_counts()))
        listen = config.metrics.listen
        self._scrapes = Scrapes(listen, self._metrics.exposition) if listen is not None else None
        self._gate = _gate(config, self._metrics)
        self._roles = Roles(
            config,
            role,
            gate=self._gate,
            followed=self._shut_gate,
            filled=self._open_gate,
            own_port=self._requests.port,
            injector=self._injector,
            selector=self._selector,
            transport=transport,
            counts=self._counts,
            metrics=self._metrics,
        )
        self._keepalived = KeepalivedTask(config.keepalived, role, want=self._roles.changes.take)
        self._systemd = SystemdNotifier(os.environ)
        self._helpers = helpers.installed_helpers()
        self._status = NodeStatus(
            config=config,
            transport=transport,
            roles=self._roles,
            keepalived=self._keepalived,
            gate=self._gate,
            scrapes=self._scrapes,
            selector=self._selector,
            counts=self._counts,
            dropped=self._dropped,
            facts=self._facts,
        )

    async def run(self) -> None:
        """Run until a signal comes."""
        with ExitStack() as stack:
            stack.enter_context(closing(self._requests))
            if self._gate is not None:
                stack.enter_context(closing(self._gate))
            self._learn_addresses(await trio.to_thread.run_sync(interfaces.addresses))
            await self._live()

    async def _live(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(local_host.watch_addresses, self._learn_addresses)
            if self._gate is not None:
                nursery.start_soon(self._gate.run)
            # Commands wait for the first role; and where another daemon answers them, no frame is sent.
            await nursery.start(server.serve, self._config.control.socket, self._command)
            member, driver = self._roles.member, self._roles.driver
            for link in self._transport.links:
                nursery.start_soon(self._transport.receive_all, link, member.receive, driver.after_batch)
            await nursery.start(self._roles.run)
            nursery.start_soon(driver.run)
            nursery.start_soon(self._keepalived.run, self._state)
            nursery.start_soon(self._tell_facts)
            if self._scrapes is not None:
                nursery.start_soon(self._scrapes.run)
            nursery.start_soon(self._systemd.run, self._status.line)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                async for received in signals:
                    if received != signal.SIGHUP:
                        break
                    with self._systemd.reloading():
                        if keys := self._reload.read_keys():
                            self._transport.rekey(keys)
            self._systemd.stopping()
            nursery.cancel_scope.cancel()

    async def _tell_facts(self) -> None:
        """Tell the other nodes of this host, in frames as long as any: a path that does not take them is found out."""
        while True:
            self._transport.send([messages.facts(self._config.node.name, self._facts(), self._transport.body_limit)])
            await trio.sleep(FACTS_S)

    def _facts(self) -> dict[str, Fact]:
        return local_host.facts(self._config.standby.mode, self._transport.body_limit + OVERHEAD, self._helpers)

    def _learn_addresses(self, own: frozenset[bytes]) -> None:
        groups = frozenset(link.group.packed for link in self._config.link if isinstance(link, MulticastLink))
        self._selector.excluded = own | groups
        self._addresses = own
        had_virtual = self._keepalived.holds_addresses
        self._keepalived.learn_addresses(own)
        if self._gate is not None:
            self._gate.learn_addresses(own)
        if had_virtual and self._roles.lacks_state:
            self._shut_gate()

    def _shut_gate(self) -> None:
        """Another node is active and has the traffic: what comes here from now on comes ahead of a promotion.

        Not before: until then this kernel's table is all that there is, and traffic may still go through it.
        """
        if self._gate is not None and not self._keepalived.holds_addresses:
            self._gate.shut(self._addresses)

    def _open_gate(self) -> None:
        """A hot kernel has what the active has: nothing need wait for a commit."""
        if self._gate is not None:
            self._gate.open()

    def _state(self) -> NodeState:
        now, changes = trio.current_time(), self._roles.changes
        return NodeState(
            role=self._roles.role if changes.at_rest else None,
            ready=self._status.ready(now),
            free=not changes.asked and not self._roles.member.peers.actives(now),
        )

    # Commands

    async def _command(self, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        match request:
            case {"command": "status", **how}:
                status = self._status
                counts = await status.count_entries() if how.get("count", True) else status.known_counts()
                return status.describe(*counts)
            case {"command": "ready"}:
                return {"ready": self._status.ready(trio.current_time())}
            case {"command": "promote" | "demote" as wanted}:
                return await self._roles.change(RoleEvent(wanted), progress)
            case {"command": "resync" | "scrub" as command}:
                return self._resync() if command == "resync" else self._scrub()
            case {"command": "show", "what": "flows" | "expectations" as what}:
                return {"entries": await self._show(what)}
            case {"command": "notify", "type": str(kind), "name": str(name), "state": str(state)}:
                return await self._notify(Notification((kind, name), state), request["arrival"], progress)
        raise ControlError(f"unknown command {request.get('command')!r}; this daemon may be older than its client")

    async def _notify(self, notification: Notification, arrival: int, progress: Progress) -> dict[str, Any]:
        (kind, _), state = notification
        if kind not in TYPES or state not in STATES:
            raise ControlError(
                f"found {kind} and {state}; expected one of {', '.join(TYPES)} and of {', '.join(STATES)}"
            )
        before = self._roles.role
        wanted = self._keepalived.hear_hook(notification, arrival)
        if wanted is None:
            why = (
                f"{' '.join(notification.subject)} changes nothing:"
                " it is not in keepalived.instances, keepalived.fifo tells of it, or a later one has been taken already"
            )
            return self._roles.describe(before) | {"warnings": [why]}
        if await self._roles.changes.reach(wanted, progress) is None:
            why = f"taken, and not waited for: {WAITING_MAX} commands wait for a change of role already"
            return self._roles.describe(before) | {"warnings": [why]}
        return self._roles.describe(before)

    def _resync(self) -> dict[str, Any]:
        standby, streaming = self._roles.standby, self._roles.streaming
        if standby is not None and self._roles.member.backup is None:
            raise ControlError("this node is being promoted; there is nothing to ask for")
        if standby is not None:
            standby.backup.request_snapshot(trio.current_time())
        elif streaming is not None:
            streaming.active.renew(trio.current_time())
        return {"role": self._roles.role}

    def _scrub(self) -> dict[str, Any]:
        standby, streaming = self._roles.standby, self._roles.streaming
        if standby is not None:
            standby.backup.request_comparison(trio.current_time())
        elif streaming is not None:
            streaming.active.request_comparison()
        return {"role": self._roles.role}

    async def _show(self, what: str) -> Iterator[dict[str, Any]]:
        standby = self._roles.standby
        store = standby.store if standby is not None else await self._kernel_store()
        found = store.flows() if what == "flows" else store.decoded_expectations()
        return (each.as_dict() for each in found)

    async def _kernel_store(self) -> Store:
        """What an active streams: its kernel's entries, as a backup would hold them."""
        store = Store()
        store.begin_snapshot()
        for dump in (dump_flows, dump_expectations):
            async with aclosing(dump()) as batches:
                async for batch in batches:
                    store.add_snapshot(self._selector.dumped(batch).messages)
        store.end_snapshot()
        return store
