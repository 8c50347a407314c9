"""The daemon's nursery, its roles, and the commands that come through the control socket."""

import logging
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, closing
from typing import Any, Final

import trio

from ftfw import control, keyfile
from ftfw.check import requirements
from ftfw.config import Config, MulticastLink
from ftfw.config import Link as LinkConfig
from ftfw.control import ControlError, Progress
from ftfw.daemon import host, takeover
from ftfw.daemon.gate import Gate
from ftfw.daemon.standby import Standby
from ftfw.daemon.streaming import Streaming
from ftfw.daemon.wire import Wire
from ftfw.filter import compile_filter
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
from ftfw.replication.member import Member
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
        for line in requirements.not_yet(config):
            log.warning("%s", line)
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


def _gate(config: Config) -> Gate | None:
    """What holds traffic back, if the configuration asks for it: a hot node has nothing to wait for."""
    interfaces = config.takeover.gate_interfaces
    if not interfaces or config.standby.mode == "hot":
        return None
    own = [link.bind.packed for link in config.link if not isinstance(link, MulticastLink)]
    return Gate(interfaces, frozenset(own))


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
            read=self._injector.read,
        )
        self._member = Member()
        self._standby: Standby | None = None
        self._streaming: Streaming | None = None
        self._last_commit: dict[str, Any] | None = None
        self._unsettled: Store | None = None  # between a promotion and what follows it
        self._switching = trio.Lock()
        self._end_role: Callable[[], Awaitable[None]] | None = None
        self._kernel_counts = (float("-inf"), 0, 0)  # when, flows, expectations
        self._addresses: frozenset[bytes] = frozenset()  # of this host
        self._holds_addresses = False  # whether the virtual ones are among them; unknown is no
        self._gate = _gate(config)

    @property
    def role(self) -> str:
        """The role that this node has, until a change of it is complete."""
        return self._member.role

    async def run(self, role: str) -> None:
        """Run until a signal comes."""
        with ExitStack() as stack:
            stack.enter_context(closing(self._requests))
            if self._gate is not None:
                stack.enter_context(closing(self._gate))
            self._learn_addresses(await trio.to_thread.run_sync(host.addresses))
            await self._live(role)

    async def _live(self, role: str) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(host.watch_addresses, self._learn_addresses)
            if self._gate is not None:
                nursery.start_soon(self._gate.run)
            async with self._switching:  # commands wait; and where another daemon answers them, no frame is sent
                await nursery.start(control.serve, self._config.control.socket, self._command)
                for link in self._wire.links:
                    nursery.start_soon(self._wire.receive_all, link, self._member.receive, self._after_batch)
                if role == "active":
                    self._begin_active()
                else:
                    self._begin_standby()
            log.info("%s is %s", self._config.node.name, self.role)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                async for received in signals:
                    if received != signal.SIGHUP:
                        break
                    self._reload_keys()
            nursery.cancel_scope.cancel()

    def _reload_keys(self) -> None:
        """Read the key files again; whoever rotates keys changes one node after the other."""
        try:
            keys = [keyfile.read(path) for path in self._config.security.key_files]
        except keyfile.KeyFileError as error:
            log.warning("SIGHUP: the keys stay as they are: %s", error)
            return
        self._wire.rekey(keys)
        log.info("SIGHUP: %d keys read", len(keys))

    def _learn_addresses(self, own: frozenset[bytes]) -> None:
        groups = frozenset(link.group.packed for link in self._config.link if isinstance(link, MulticastLink))
        self._selector.excluded = own | groups
        self._addresses = own
        if self._gate is not None:
            self._gate.learn_addresses(own)

    def _shut_gate(self) -> None:
        """Another node is active and has the traffic: what comes here from now on comes ahead of a promotion.

        Not before: until then this kernel's table is all that there is, and traffic may still go through it.
        """
        if self._gate is not None and not self._holds_addresses:
            self._gate.shut(self._addresses)

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
            followed=self._shut_gate,
        )
        self._streaming = None
        self._member.active, self._member.backup = None, backup
        self._begin(self._standby.run)

    def _begin_active(self) -> None:
        self._wire.conversation.begin_epoch()
        events = EventSocket(own_port=self._requests.port, buffer_bytes=self._config.kernel.event_buffer_bytes)
        active = Active(
            name=self._config.node.name,
            epoch=self._wire.conversation.epoch,
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
        self._member.active, self._member.backup = active, None

        async def work() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(streaming.run)
                nursery.start_soon(self._finish_commit)

        self._begin(work)

    async def _finish_commit(self) -> None:
        """What need not be done before traffic flows; the store is let go then, an active's is the kernel's table.

        After a start as active as well: an earlier daemon may have left what needs it.
        """
        unsettled, self._unsettled = self._unsettled, None
        if self._hot or unsettled is not None:
            await self._settle(unsettled or Store())
        del unsettled
        await takeover.GreKeeper(self._injector, self._selector, Outcome(failed=self._inject_failed)).run()

    async def _settle(self, committed: Store) -> None:
        outcome = Outcome()
        try:
            await takeover.settle(committed, self._injector, self._selector, outcome)
        finally:
            self._inject_failed.update(outcome.failed)
            if self._last_commit is not None:
                self._last_commit["created"] += outcome.created

    async def _promote(self, progress: Progress) -> dict[str, Any]:
        async with self._switching:
            standby = self._standby
            if standby is None:
                return self._change(changed=False, warnings=[])
            warnings = self._out_of_sync(standby)
            assert self._end_role is not None
            await self._end_role()
            self._inject_failed.update(standby.outcome.failed)
            outcome = Outcome()
            begun = trio.current_time()
            whole = await self._commit_behind_gate(standby, outcome, progress, warnings)
            seconds = trio.current_time() - begun
            self._log_commit(outcome, seconds)
            self._inject_failed.update(outcome.failed)
            self._last_commit = {
                "seconds": round(seconds, 6),
                "created": outcome.created,
                "updated": outcome.updated,
                "deleted": outcome.deleted,
                "failed": dict(outcome.failed),
                "otherwise": dict(outcome.remedied),
            }
            self._unsettled = standby.store if self._hot or not whole else None
            self._begin_active()
            log.info("%s is active", self._config.node.name)
            return self._change(changed=True, warnings=warnings)

    async def _commit_behind_gate(
        self, standby: Standby, outcome: Outcome, progress: Progress, warnings: list[str]
    ) -> bool:
        if self._gate is None:
            return await self._commit(standby, outcome, progress, warnings)
        self._gate.wait_for_commit()
        try:
            return await self._commit(standby, outcome, progress, warnings)
        finally:
            self._gate.open()

    async def _commit(self, standby: Standby, outcome: Outcome, progress: Progress, warnings: list[str]) -> bool:
        """Put the store into the kernel, and be heard meanwhile; whether all of it was tried."""
        self._member.backup = None  # what the stream says from here on comes too late
        standby.backup.unfollow(trio.current_time())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stay_heard)
                if self._hot:
                    await takeover.commit_rest(standby.store, self._injector, outcome, standby.outcome.refused)
                else:
                    await takeover.commit(standby.store, self._injector, outcome, progress)
                nursery.cancel_scope.cancel()
        except* Exception as failure:
            outcome.failed["commit_broke_off"] += 1
            warnings.append(f"the commit broke off, what is missing is put in behind it: {_first(failure)}")
            log.exception("promote: the commit broke off; this node goes on as active, and puts in what is missing")
        return "commit_broke_off" not in outcome.failed

    def _log_commit(self, outcome: Outcome, seconds: float) -> None:
        log.info(
            "commit: %d created, %d updated, %d replaced, failed: %s, otherwise than asked for: %s, %.3f s",
            outcome.created,
            outcome.updated,
            outcome.deleted,
            dict(outcome.failed) or "none",
            dict(outcome.remedied) or "none",
            seconds,
        )

    async def _stay_heard(self) -> None:
        while True:
            self._wire.send([messages.heartbeat(self._config.node.name, "backup", 0, 0)])
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
            self._wire.conversation.begin_epoch()
            self._begin_standby()
            log.info("%s is backup", self._config.node.name)
            return self._change(changed=True, warnings=[])

    def _change(self, *, changed: bool, warnings: list[str]) -> dict[str, Any]:
        return {"role": self.role, "changed": changed, "last_commit": self._last_commit, "warnings": warnings}

    # What comes over the links

    def _after_batch(self) -> None:
        if self._standby is not None:
            self._standby.after_batch()
        elif self._streaming is not None:
            self._streaming.after_batch()

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
        if self._standby is not None and self._member.backup is None:
            raise ControlError("this node is being promoted; there is nothing to ask for")
        if self._standby is not None:
            self._standby.backup.request_snapshot(trio.current_time())
        elif self._streaming is not None:
            self._streaming.active.lose(trio.current_time())
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
                    store.add_snapshot(self._selector.dumped(batch).messages)
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
                    counted.append(sum([len(self._selector.dumped(b).messages) async for b in batches]))
            flows, expectations = counted
            self._kernel_counts = (trio.current_time(), flows, expectations)
        return flows, expectations

    async def _status(self) -> dict[str, Any]:
        flows, expectations = await self._count_entries()
        now = trio.current_time()
        link, links = self._wire.status(now)
        standby, streaming = self._standby, self._streaming
        dropped = self._dropped + self._member.dropped + (standby.store.dropped if standby else Counter[str]())
        failed = self._inject_failed + (standby.outcome.failed if standby is not None else Counter[str]())
        return {
            "node": self._config.node.name,
            "role": self.role,
            "synced": standby.backup.synced(now) if standby else streaming.active.synced(now) if streaming else False,
            "why_not_synced": self._why_not_synced(now),
            "ready": standby.backup.was_synced if standby is not None else streaming is not None,
            "conflict": self._member.peers.conflict(self.role, now),
            "flows": flows,
            "expectations": expectations,
            "peers": self._peer_status(now),
            "link": link,
            "links": links,
            "kernel": {
                "events": self._counts["events"],
                "overruns": self._counts["overruns"],
                "inject_failed": dict(failed),
                "dropped": dict(dropped),
            },
            "stream": self._stream_status(),
            "last_commit": self._last_commit,
            "gate": self._gate.status(now) if self._gate is not None else None,
        }

    def _why_not_synced(self, now: float) -> str | None:
        if self._standby is not None:
            return self._standby.backup.why_not(now)
        return self._streaming.active.why_not(now) if self._streaming is not None else None

    def _stream_status(self) -> dict[str, Any]:
        if self._standby is not None:
            backup = self._standby.backup
            return {
                "behind": backup.behind,
                "gaps": backup.gaps,
                "repeated": backup.repeated,
                "snapshots": backup.snapshots,
                "stale": backup.stale,
            }
        if self._streaming is not None:
            return {"resent": self._streaming.active.resent, "outrun": self._streaming.active.outrun}
        return {}

    def _peer_status(self, now: float) -> list[dict[str, Any]]:
        active = self._streaming.active if self._streaming is not None else None
        described = []
        for peer in sorted(self._member.peers.known.values(), key=lambda peer: peer.name):
            backup = active.backups.get(peer.name) if active else None
            described.append(
                {
                    "name": peer.name,
                    "role": peer.role,
                    "last_seen_s": round(now - peer.heard_at, 3),
                    "lag_s": round(active.lag_s(backup, now), 6) if active and backup else None,
                    "acked": backup.acked if backup else None,
                }
            )
        return described
