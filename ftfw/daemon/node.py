"""The daemon's nursery, its roles, and the commands that come through the control socket."""

import logging
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, Final

import trio

from ftfw import control, keyfile
from ftfw.check import requirements
from ftfw.config import Config, MulticastLink
from ftfw.config import Link as LinkConfig
from ftfw.control import ControlError, Progress
from ftfw.daemon import host, takeover
from ftfw.daemon.peers import Peers
from ftfw.daemon.standby import Standby
from ftfw.daemon.streaming import Streaming
from ftfw.daemon.wire import Wire
from ftfw.filter import compile_filter
from ftfw.kernel import entry
from ftfw.kernel.inject import Injector, Outcome
from ftfw.kernel.netlink import EventSocket, RequestSocket, dump_expectations, dump_flows
from ftfw.kernel.select import Selector
from ftfw.link.base import Link
from ftfw.link.multicast import Multicast
from ftfw.link.tcp import Tcp
from ftfw.link.udp import Udp
from ftfw.replication import messages
from ftfw.replication.active import Active
from ftfw.replication.backup import HEARTBEAT_S, Backup
from ftfw.replication.messages import Heartbeat, Message, Stream
from ftfw.store import Store

log = logging.getLogger(__name__)

COUNTS_AGE_S = 1.0  # how old an active's counts of its kernel's entries may be
# Threads hand batches to the kernel while this one builds the next; they must not wait 5 ms for the interpreter.
SWITCH_INTERVAL_S = 0.0001
KEEPALIVED_STATES: Final = {
    "MASTER": "promote",
    "BACKUP": "demote",
    "FAULT": "demote",
    "STOP": "demote",
    "DELETED": "demote",
}


class StartError(Exception):
    """The daemon cannot start; the message says what to mend."""


def run(config: Config, role: str) -> None:
    """Run the daemon in this first role until SIGINT or SIGTERM.  Raises StartError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        requirements.require(config)
        if requirements.ensure_events_mode() != requirements.EVENTS_ALWAYS:
            log.warning(
                "net.netfilter.nf_conntrack_events set to 1; entries that were there before may change without an"
                " event, and reach a backup by snapshots only: let /etc/sysctl.d/ftfw.conf set it to 1 at boot"
            )
        keys = [keyfile.read(path) for path in config.security.key_files]
    except (requirements.RequirementError, keyfile.KeyFileError) as error:
        raise StartError(str(error)) from None
    links = _open_links(config)
    try:
        node = Node(config, Wire(links, keys, name=config.node.name))
        trio.run(node.run, role)
    except* ControlError as group:
        raise StartError(str(_first(group))) from None
    finally:
        for link in links:
            link.close()


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _open_links(config: Config) -> list[Link]:
    links: list[Link] = []
    for index, link in enumerate(config.link):
        try:
            links.append(_open_link(link, config.node.name))
        except OSError as error:
            for opened in links:
                opened.close()
            raise StartError(f"link[{index}]: {_link_trouble(link, error)}") from None
    return links


def _open_link(link: LinkConfig, node: str) -> Link:
    if isinstance(link, MulticastLink):
        return Multicast(link)
    return Udp(link) if link.transport == "udp" else Tcp(link, node=node)


def _link_trouble(link: LinkConfig, error: OSError) -> str:
    if isinstance(link, MulticastLink):
        return (
            f"{link.group} on {link.interface}: {error.strerror};"
            " check that the interface exists, is up and has an address"
        )
    place = f"{link.bind} port {link.port}" + (f" on {link.interface}" if link.interface else "")
    return (
        f"{link.transport} at {place}: {error.strerror};"
        " check that the address is one of this host's and nobody else has the port"
    )


class Node:
    """One node of the pair or group."""

    def __init__(self, config: Config, wire: Wire) -> None:
        self._config = config
        self._wire = wire
        self._hot = config.standby.mode == "hot"
        self._counts: Counter[str] = Counter()  # events, overruns
        self._dropped: Counter[str] = Counter()
        self._inject_failed: Counter[str] = Counter()
        self._requests = RequestSocket()
        self._injector = Injector(self._requests, host.timeouts())
        self._selector = Selector(
            passes=compile_filter(config.replicate),
            expectations=config.replicate.expectations,
            dropped=self._dropped,
        )
        self._peers = Peers()
        self._standby: Standby | None = None
        self._streaming: Streaming | None = None
        self._last_commit: dict[str, Any] | None = None
        self._committed: Store | None = None  # between a promotion and what follows it
        self._switching = trio.Lock()
        self._committing = False
        self._end_role: Callable[[], Awaitable[None]] | None = None
        self._kernel_counts = (float("-inf"), 0, 0)  # when, flows, expectations
        self.role = "backup"

    async def run(self, role: str) -> None:
        """Run until a signal comes."""
        self._learn_addresses(await trio.to_thread.run_sync(host.addresses))
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(host.watch_addresses, self._learn_addresses)
            for link in self._wire.links:
                nursery.start_soon(self._wire.receive_all, link, self._receive, self._after_batch)
            async with self._switching:  # commands wait; and where another daemon answers them, no frame is sent
                await nursery.start(control.serve, self._config.control.socket, self._command)
                if role == "active":
                    self._begin_active()
                else:
                    self._begin_standby()
            log.info("%s is %s", self._config.node.name, self.role)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await anext(aiter(signals))
            nursery.cancel_scope.cancel()

    def _learn_addresses(self, own: frozenset[bytes]) -> None:
        groups = frozenset(link.group.packed for link in self._config.link if isinstance(link, MulticastLink))
        self._selector.excluded = own | groups

    # Roles

    def _begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a role's work until `_end_role` is called, which returns when it has ended."""
        scope, ended = trio.CancelScope(), trio.Event()

        async def live() -> None:
            try:
                with scope:
                    await work()
            finally:
                ended.set()

        async def end() -> None:
            scope.cancel()
            await ended.wait()

        self._end_role = end
        self._nursery.start_soon(live)

    def _begin_standby(self) -> None:
        store = Store(journal=self._hot)
        backup = Backup(name=self._config.node.name, store=store, now=trio.current_time())
        self._standby = Standby(
            backup=backup,
            store=store,
            hot=self._hot,
            injector=self._injector,
            selector=self._selector,
            wire=self._wire,
        )
        self._streaming = None
        self.role = "backup"
        self._begin(self._standby.run)

    def _begin_active(self) -> None:
        self._wire.begin_epoch()
        events = EventSocket(own_port=self._requests.port, buffer_bytes=self._config.kernel.event_buffer_bytes)
        active = Active(
            name=self._config.node.name,
            epoch=self._wire.epoch,
            limit=self._wire.body_limit,
            compress=self._config.replication.compress,
            now=trio.current_time(),
        )
        streaming = Streaming(
            active=active,
            events=events,
            selector=self._selector,
            injector=self._injector,
            wire=self._wire,
            counts=self._counts,
        )
        self._streaming, self._standby = streaming, None
        self._kernel_counts = (float("-inf"), 0, 0)
        self.role = "active"

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(streaming.run)
                nursery.start_soon(self._finish_commit)

        self._begin(work)

    async def _finish_commit(self) -> None:
        """What need not be done before traffic flows; the store is let go then, an active's is the kernel's table."""
        committed, self._committed = self._committed, None
        if committed is None:
            return
        if self._hot:
            await takeover.settle(committed, self._injector, self._selector)
        keeper = takeover.GreKeeper(committed, self._injector)
        del committed
        await keeper.run()

    async def _promote(self, progress: Progress) -> dict[str, Any]:
        async with self._switching:
            standby = self._standby
            if standby is None:
                return self._change(changed=False, warnings=[])
            warnings = self._out_of_sync(standby)
            assert self._end_role is not None
            await self._end_role()
            outcome, seconds = await self._commit(standby, progress, warnings)
            self._inject_failed.update(outcome.failed)
            self._last_commit = {
                "seconds": round(seconds, 6),
                "created": outcome.created,
                "updated": outcome.updated,
                "deleted": outcome.deleted,
                "failed": dict(outcome.failed),
                "otherwise": dict(outcome.remedied),
            }
            self._committed = standby.store
            self._begin_active()
            log.info("%s is active", self._config.node.name)
            return self._change(changed=True, warnings=warnings)

    async def _commit(self, standby: Standby, progress: Progress, warnings: list[str]) -> tuple[Outcome, float]:
        """Put the store into the kernel, and be heard meanwhile; whatever happens, what is held is not given up."""
        self._committing = True  # what the stream says from here on comes too late
        begun = trio.current_time()
        outcome = Outcome()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stay_heard)
                if self._hot:
                    outcome = (await takeover.commit_rest(standby.store, self._injector, standby.outcome)).outcome
                else:
                    outcome = (await takeover.commit(standby.store, self._injector, progress)).outcome
                nursery.cancel_scope.cancel()
        except* Exception as failure:
            outcome.failed["commit_broke_off"] += 1
            warnings.append(f"the commit broke off, not every entry is in the kernel: {_first(failure)}")
            log.exception("promote: the commit broke off; this node goes on as active with what its kernel has")
        finally:
            self._committing = False
        return outcome, trio.current_time() - begun

    async def _stay_heard(self) -> None:
        while True:
            self._wire.send([messages.heartbeat(self._config.node.name, "backup", 0)])
            await trio.sleep(HEARTBEAT_S)

    def _out_of_sync(self, standby: Standby) -> list[str]:
        if standby.backup.was_synced:
            return []
        store = standby.store
        warning = (
            f"the store was not in sync: {store.flow_count()} flows and {len(store.expectations)} expectations are"
            " what there is" + (", a snapshot was under way" if store.in_snapshot else "")
        )
        log.warning("promote: %s", warning)
        return [warning]

    async def _demote(self) -> dict[str, Any]:
        async with self._switching:
            if self.role == "backup":
                return self._change(changed=False, warnings=[])
            assert self._end_role is not None
            await self._end_role()
            self._wire.begin_epoch()
            self._begin_standby()
            log.info("%s is backup", self._config.node.name)
            return self._change(changed=True, warnings=[])

    def _change(self, *, changed: bool, warnings: list[str]) -> dict[str, Any]:
        return {"role": self.role, "changed": changed, "last_commit": self._last_commit, "warnings": warnings}

    # What comes over the links

    def _receive(self, epoch: bytes, message: Message, now: float) -> None:
        if isinstance(message, Stream):
            if self._standby is None:
                return
            if self._committing:
                self._dropped["committing"] += 1
            elif epoch == self._standby.backup.epoch:
                self._standby.backup.receive(epoch, message, now)
            else:
                self._dropped["not_followed"] += 1
            return
        if isinstance(message, Heartbeat):
            if not self._peers.fits(message):
                self._dropped["byte_order"] += 1
                return
            self._peers.hear(message.name, message.role, epoch, now)
            self._peers.conflict(self.role, now)
            if self._standby is not None and not self._committing:
                self._follow(self._standby.backup, epoch, message, now)
        else:
            self._peers.hear(message.name, "backup", epoch, now)
        if self._streaming is not None and not (isinstance(message, Heartbeat) and message.role == "active"):
            self._streaming.receive(message, now)

    def _follow(self, backup: Backup, epoch: bytes, heartbeat: Heartbeat, now: float) -> None:
        """A backup follows one active at a time, as long as that one is heard; a heartbeat introduces it."""
        if heartbeat.role != "active":
            if heartbeat.name == backup.active_name:
                backup.unfollow()
            return
        other = epoch != backup.epoch and heartbeat.name != backup.active_name
        if other and backup.epoch is not None and backup.heard(now):
            return  # a second active: the conflict is reported, the first one goes on being followed
        backup.receive(epoch, heartbeat, now)

    def _after_batch(self) -> None:
        if self._standby is not None:
            self._standby.after_batch()

    # Commands

    async def _command(self, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        match request:
            case {"command": "status"}:
                return await self._status()
            case {"command": "promote"}:
                return await self._promote(progress)
            case {"command": "demote"}:
                return await self._demote()
            case {"command": "resync"}:
                return self._resync()
            case {"command": "show", "what": "flows" | "expectations" as what}:
                return {"entries": await self._show(what)}
            case {"command": "notify", "state": str(state)}:
                return await self._notify(state, progress)
        raise ControlError(f"unknown command {request.get('command')!r}; this daemon may be older than its client")

    async def _notify(self, state: str, progress: Progress) -> dict[str, Any]:
        action = KEEPALIVED_STATES.get(state.upper())
        if action is None:
            accepted = ", ".join(KEEPALIVED_STATES)
            raise ControlError(f"unknown state {state!r} in a notification; expected one of {accepted}")
        return await (self._promote(progress) if action == "promote" else self._demote())

    def _resync(self) -> dict[str, Any]:
        if self._committing:
            raise ControlError("this node is being promoted; there is nothing to ask for")
        if self._standby is not None:
            self._standby.backup.request_snapshot(trio.current_time())
        elif self._streaming is not None:
            self._streaming.active.lose()
        return {"role": self.role}

    async def _show(self, what: str) -> Iterator[dict[str, Any]]:
        store = self._standby.store if self._standby is not None else await self._kernel_store()
        found = store.flows() if what == "flows" else store.decoded_expectations()
        return (each.as_dict() for each in found)

    async def _kernel_store(self) -> Store:
        """What an active streams: its kernel's entries, as a backup would hold them."""
        store = Store()
        store.begin_snapshot()
        for dump in (dump_flows, dump_expectations):
            async with aclosing(dump()) as batches:
                async for batch in batches:
                    store.add_snapshot(self._selector.select(list(map(entry.as_full, batch))).messages)
        store.end_snapshot()
        return store

    async def _count_entries(self) -> tuple[int, int]:
        if self._standby is not None:
            return self._standby.store.flow_count(), len(self._standby.store.expectations)
        counted_at, flows, expectations = self._kernel_counts
        if trio.current_time() - counted_at > COUNTS_AGE_S:
            counted = []
            for dump in (dump_flows, dump_expectations):
                async with aclosing(dump()) as batches:
                    counted.append(
                        sum([len(self._selector.select(list(map(entry.as_full, b))).messages) async for b in batches])
                    )
            flows, expectations = counted
            self._kernel_counts = (trio.current_time(), flows, expectations)
        return flows, expectations

    async def _status(self) -> dict[str, Any]:
        flows, expectations = await self._count_entries()
        now = trio.current_time()
        link, links = self._wire.status(now)
        standby, streaming = self._standby, self._streaming
        failed = self._inject_failed + (standby.outcome.failed if standby is not None else Counter[str]())
        return {
            "node": self._config.node.name,
            "role": self.role,
            "synced": standby.backup.synced(now) if standby else streaming.active.synced(now) if streaming else False,
            "ready": standby.backup.was_synced if standby is not None else streaming is not None,
            "conflict": self._peers.conflict(self.role, now),
            "flows": flows,
            "expectations": expectations,
            "peers": self._peer_status(now),
            "link": link,
            "links": links,
            "kernel": {
                "events": self._counts["events"],
                "overruns": self._counts["overruns"],
                "inject_failed": dict(failed),
                "dropped": dict(self._dropped + (standby.store.dropped if standby is not None else Counter[str]())),
            },
            "stream": {"gaps": standby.backup.gaps, "snapshots": standby.backup.snapshots} if standby else {},
            "last_commit": self._last_commit,
        }

    def _peer_status(self, now: float) -> list[dict[str, Any]]:
        backups = self._streaming.active.backups if self._streaming is not None else {}
        described = []
        for peer in sorted(self._peers.known.values(), key=lambda peer: peer.name):
            backup = backups.get(peer.name)
            described.append(
                {
                    "name": peer.name,
                    "role": peer.role,
                    "last_seen_s": round(now - peer.heard_at, 3),
                    "lag_s": round(backup.lag_s, 6) if backup else None,
                    "acked": backup.acked if backup else None,
                }
            )
        return described
