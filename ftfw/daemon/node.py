"""Builds the parts of the daemon, and runs them in one nursery."""

import faulthandler
import logging
import os
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import trio

from ftfw.config.schema import AnyLink, Config, MulticastLink
from ftfw.control import server
from ftfw.control.client import ControlError
from ftfw.daemon import local_host, requirements
from ftfw.daemon.command_handler import CommandHandler
from ftfw.daemon.facts_sender import FactsSender
from ftfw.daemon.gate import Gate
from ftfw.daemon.keepalived_task import KeepalivedTask, NodeState
from ftfw.daemon.metrics.metric_families import NodeMetrics
from ftfw.daemon.metrics.scrape_listener import ScrapeListener
from ftfw.daemon.reload import KeyReload
from ftfw.daemon.role_runner import RoleRunner, first_of
from ftfw.daemon.status import NodeStatus
from ftfw.daemon.systemd import SystemdNotifier
from ftfw.daemon.transport import Transport
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.flow_filter import compile_filter
from ftfw.kernel.injector import Injector
from ftfw.kernel.netlink import RequestSocket
from ftfw.link.link_base import Link
from ftfw.link.multicast import Multicast
from ftfw.link.tcp import Tcp
from ftfw.link.udp import Udp
from ftfw.security import key_file
from ftfw.system import interfaces

log = logging.getLogger(__name__)

# Threads hand batches to the kernel while this one builds the next; they must not wait 5 ms for the interpreter.
SWITCH_INTERVAL_S = 0.0001


class StartError(Exception):
    """Raised if the daemon cannot start; the message gives the reason and the remedy."""


def run(config: Config, role: str, path: Path) -> None:
    """Run the daemon, first in `role`, until SIGINT or SIGTERM; `path` is the configuration's.  Raises StartError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    faulthandler.enable()  # when the watchdog aborts a hung daemon, the log shows where it hung
    try:
        requirements.require(config)
        if requirements.ensure_events_mode() != requirements.EVENTS_ALWAYS:
            log.warning(
                "net.netfilter.nf_conntrack_events is now 1; entries that were created before may change without an"
                " event, and then reach a backup by snapshots only; set it to 1 at boot in /etc/sysctl.d/ftfw.conf"
            )
        keys = [key_file.read(path) for path in config.security.key_files]
    except (requirements.RequirementError, key_file.KeyFileError) as error:
        raise StartError(str(error)) from None
    links = [_make_link(link, config.node.name) for link in config.link]
    refusal: BaseException | None = None
    try:
        trio.run(NodeDaemon(config, Transport(links, keys, name=config.node.name), role, KeyReload(path, config)).run)
    except* ControlError as group:
        refusal = first_of(group)  # not raised here: Python before 3.11.4 wraps what is raised in an except* clause
    finally:
        for link in links:
            link.close()
    if refusal is not None:
        raise StartError(str(refusal)) from None


def _make_link(link: AnyLink, node: str) -> Link:
    if isinstance(link, MulticastLink):
        return Multicast(link)
    return Udp(link) if link.transport == "udp" else Tcp(link, node=node)


def _make_gate(config: Config, metrics: NodeMetrics) -> Gate | None:
    """Return the gate; None if the configuration has no gate interfaces."""
    if not config.takeover.gate_interfaces:
        return None
    own = frozenset(link.bind.packed for link in config.link if not isinstance(link, MulticastLink))
    return Gate(config.takeover.gate_interfaces, own, held=metrics.held.observe)


class NodeDaemon:
    """Holds all parts of one node, and runs them."""

    def __init__(self, config: Config, transport: Transport, role: str, reload: KeyReload) -> None:
        self._config = config
        self._reload = reload
        self._transport = transport
        self._counts: Counter[str] = Counter()  # events, overruns
        self._dropped: Counter[str] = Counter()
        self._requests = RequestSocket(self._dropped)
        self._injector = Injector(self._requests, local_host.timeouts)
        self._selector = Selector(
            passes=compile_filter(config.replicate),
            expectations=config.replicate.expectations,
            dropped=self._dropped,
            read=self._injector.read,
        )
        self._addresses: frozenset[bytes] = frozenset()  # of this host
        self._metrics = NodeMetrics(lambda: self._status.describe(*self._status.known_counts()))
        listen = config.metrics.listen
        self._scrapes = ScrapeListener(listen, self._metrics.exposition) if listen is not None else None
        self.gate = _make_gate(config, self._metrics)
        self.roles = RoleRunner(
            config,
            role,
            gate=self.gate,
            followed=self._shut_gate,
            filled=self._open_gate,
            own_port=self._requests.port,
            injector=self._injector,
            selector=self._selector,
            transport=transport,
            counts=self._counts,
            metrics=self._metrics,
        )
        self.keepalived = KeepalivedTask(config.keepalived, role, want=self.roles.changer.accept)
        self._systemd = SystemdNotifier(os.environ)
        self._facts = FactsSender(config, transport)
        self._status = NodeStatus(
            config=config,
            transport=transport,
            roles=self.roles,
            keepalived=self.keepalived,
            gate=self.gate,
            scrapes=self._scrapes,
            selector=self._selector,
            counts=self._counts,
            dropped=self._dropped,
            facts=self._facts.facts,
        )
        self._commands = CommandHandler(
            roles=self.roles, keepalived=self.keepalived, status=self._status, selector=self._selector
        )

    async def run(self) -> None:
        """Run until SIGINT or SIGTERM."""
        with ExitStack() as stack:
            stack.enter_context(closing(self._requests))
            if self.gate is not None:
                stack.enter_context(closing(self.gate))
            self._learn_addresses(await trio.to_thread.run_sync(interfaces.addresses))
            await self._live()

    async def _live(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(local_host.watch_addresses, self._learn_addresses)
            if self.gate is not None:
                nursery.start_soon(self.gate.run)
            # Commands wait for the first role.  If another daemon has the socket, this one sends no frame and ends.
            await nursery.start(server.serve, self._config.control.socket, self._commands.execute)
            member, driver = self.roles.member, self.roles.driver
            for link in self._transport.links:
                nursery.start_soon(self._transport.receive_all, link, member, driver.after_batch)
            await nursery.start(self.roles.run)
            nursery.start_soon(driver.run)
            nursery.start_soon(self.keepalived.run, self._state)
            nursery.start_soon(self._facts.run)
            if self._scrapes is not None:
                nursery.start_soon(self._scrapes.run)
            nursery.start_soon(self._systemd.run, self._status.line)
            await self._reload.reload_until_end(self._transport, self._systemd)
            self._systemd.stopping()
            nursery.cancel_scope.cancel()

    def _learn_addresses(self, own: frozenset[bytes]) -> None:
        groups = frozenset(link.group.packed for link in self._config.link if isinstance(link, MulticastLink))
        self._selector.excluded = own | groups
        self._addresses = own
        had_virtual = self.keepalived.holds_addresses
        self.keepalived.learn_addresses(own)
        if self.gate is not None:
            self.gate.learn_addresses(own)
        if had_virtual and self.roles.lacks_state:
            self._shut_gate()

    def _shut_gate(self) -> None:
        """Shut the gate, as another node is active: traffic that arrives here from now on is ahead of a promotion.

        Before that the gate is open: this kernel's table may be the only one, and traffic may use it.
        """
        if self.gate is not None and not self.keepalived.holds_addresses:
            self.gate.shut(self._addresses)

    def _open_gate(self) -> None:
        """Open the gate, as a hot kernel has the active's entries: traffic does not need to wait for a commit."""
        if self.gate is not None:
            self.gate.open()

    def _state(self) -> NodeState:
        now, changes = trio.current_time(), self.roles.changer
        return NodeState(
            role=self.roles.role if changes.at_rest else None,
            ready=self._status.ready(now),
            free=not changes.asked and not self.roles.member.peers.actives(now),
        )
