"""Network namespaces for tests, and what tests do in them: capture, inject, read back."""

import os
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, closing, contextmanager
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import trio

from ftfw.config.schema import Replicate
from ftfw.daemon import commit
from ftfw.daemon.hot_kernel import HotKernel
from ftfw.kernel import flow_entry, uapi
from ftfw.kernel.attributes import message
from ftfw.kernel.create import Timeouts
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.flow_filter import compile_filter
from ftfw.kernel.flow_model import Flow
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.kernel.netlink import EventSocket, RequestSocket, dump_expectations, dump_flows
from ftfw.replication.store import Store
from tests.kernel import netns
from tests.kernel.entries import ADDRESSES

CREATE = uapi.NLM_F_CREATE | uapi.NLM_F_EXCL
LIMIT_S = 5.0


class Namespace:
    """A network namespace without a name: it ends with this object's descriptor and its sockets, however a test ends.

    Sockets stay in the namespace in which they were made; everything else (programs, dumps, sysctls) is done
    `with` the namespace, which this thread then is in.
    """

    def __init__(self) -> None:
        made: list[int] = []

        def make() -> None:
            netns.leave()
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

        maker = threading.Thread(target=make)
        maker.start()
        maker.join()
        (self._descriptor,) = made
        self._outside: list[int] = []
        self._open: list[RequestSocket | EventSocket] = []
        with self:
            self.requests = RequestSocket()
            self._open.append(self.requests)
            self.injector = Injector(self.requests, Timeouts)
            Path("/proc/sys/net/netfilter/nf_conntrack_events").write_text("1")

    def __enter__(self) -> "Namespace":
        self._outside.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        netns.enter(self._descriptor)
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        outside = self._outside.pop()
        netns.enter(outside)
        os.close(outside)

    def close(self) -> None:
        """Close all sockets that this object has opened, and the namespace."""
        for each in self._open:
            each.close()
        os.close(self._descriptor)

    def run(self, *command: str, stdin: str = "") -> str:
        """A program's standard output; it must succeed."""
        with self:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def nft(self, rules: str) -> None:
        """Load a ruleset in nft's own language."""
        self.run("nft", "-f", "-", stdin=rules)

    def sysctl(self, name: str, value: int) -> None:
        """Set one of net.netfilter's."""
        with self:
            Path("/proc/sys/net/netfilter", name).write_text(str(value))

    def get_sysctl(self, name: str) -> int:
        """One of net.netfilter's."""
        with self:
            return int(Path("/proc/sys/net/netfilter", name).read_text())

    def loop(self, rules: str = "") -> None:
        """Give the loopback all addresses of `entries`, so that packets between them are tracked."""
        flags = {each: " nodad" if ":" in each else "" for each in ADDRESSES}  # so that they can be used at once
        addresses = "".join(f"address add {each} dev lo{flags[each]}\n" for each in ADDRESSES)
        self.run("ip", "-batch", "-", stdin="link set lo up\n" + addresses)
        self._wait_for_routes()
        self.nft("table inet tracked { chain c { type filter hook output priority filter; ct state new accept; }; }")
        if rules:
            self.nft(rules)

    def _wait_for_routes(self) -> None:
        """Wait until the IPv6 addresses of the loopback can be reached: their routes come a moment later."""
        deadline = time.monotonic() + LIMIT_S
        while not all(
            each in self.run("ip", "-6", "route", "show", "table", "local") for each in ADDRESSES if ":" in each
        ):
            assert time.monotonic() < deadline, "no route to the loopback's addresses"
            time.sleep(0.01)

    def bound(self, kind: int, address: str, port: int) -> socket.socket:
        """A bound socket in this namespace."""
        with self:
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(LIMIT_S)
        made.bind((address, port))
        return made

    def tcp_listener(self, address: str, port: int) -> socket.socket:
        """A listening socket."""
        made = self.bound(socket.SOCK_STREAM, address, port)
        made.listen()
        return made

    def tcp(self, source: str, sport: int, destination: str, dport: int) -> socket.socket:
        """A connection."""
        made = self.bound(socket.SOCK_STREAM, source, sport)
        made.connect((destination, dport))
        return made

    def put(self, *attributes: bytes, kind: int = uapi.CT_NEW, flags: int = CREATE) -> None:
        """Send a prepared message, as some other program does: its events carry another port id than ours."""
        assert self.try_put(*attributes, kind=kind, flags=flags) == 0

    def change(self, *attributes: bytes) -> None:
        """Update an existing flow, likewise."""
        self.put(*attributes, flags=0)

    def try_put(self, *attributes: bytes, kind: int = uapi.CT_NEW, flags: int = CREATE) -> int:
        """The errno with which the kernel answers."""
        body = b"".join(attributes)
        with self:
            other = RequestSocket()
        try:
            errors = other.send(message(kind, uapi.NLM_F_REQUEST | flags, flow_entry.family_of(body), body))
        finally:
            other.close()
        return errors[0][1] if errors else 0

    def listen(self, *, buffer_bytes: int = 1 << 20) -> EventSocket:
        """Events but for those of `injector`."""
        with self:
            events = EventSocket(own_port=self.requests.port, buffer_bytes=buffer_bytes)
        self._open.append(events)
        return events

    def streamed_injector(self) -> Injector:
        """An injector whose events `listen` tells."""
        with self:
            requests = RequestSocket()
        self._open.append(requests)
        return Injector(requests, Timeouts)

    async def dump(self) -> list[bytes]:
        """All flows and expectations as they travel in a snapshot."""
        found: list[bytes] = []
        with self:
            for dump in (dump_flows, dump_expectations):
                async with aclosing(dump()) as batches:
                    async for batch in batches:
                        found += map(flow_entry.as_full, batch)
        return found

    async def snapshot(self) -> Store:
        """A store that holds this kernel's table, by the path that a snapshot takes."""
        store = Store()
        store.begin_snapshot()
        store.add_snapshot(selector(self).select(await self.dump()).messages)
        store.end_snapshot()
        assert not store.dropped
        return store

    async def flow(self) -> Flow:
        """The only flow in this kernel."""
        (only,) = (await self.snapshot()).flows()
        return only

    async def commit(self, store: Store) -> InjectionOutcome:
        """Put a store into this kernel, as a promotion does; only for less than a batch that goes to a thread."""
        with self:
            outcome = InjectionOutcome()
            await commit.commit(store, self.injector, outcome, ignore_progress)
            return outcome


class HotBackup:
    """A namespace whose kernel follows a store, as a hot backup's does."""

    def __init__(self, namespace: Namespace, store: Store) -> None:
        self.namespace = namespace
        self.selector = selector()
        self._outcome = InjectionOutcome()
        self.kernel = HotKernel(store, namespace.injector, self.selector, self._outcome)

    async def apply(self) -> InjectionOutcome:
        """Apply what has changed; return what that did."""
        outcome = self._outcome
        outcome.created = outcome.updated = outcome.deleted = 0
        outcome.failed.clear()
        outcome.remedied.clear()
        with self.namespace:
            await self.kernel.apply_to_kernel()
        return outcome

    async def commit_remaining(self) -> InjectionOutcome:
        """Do what a promotion does; return what that did."""
        outcome = InjectionOutcome()
        with self.namespace:
            await self.kernel.commit_remaining(outcome)
        return outcome


async def table(namespace: Namespace) -> dict[object, Flow]:
    """The kernel's flows by source port (or GRE key)."""
    flows = (await namespace.snapshot()).flows()
    return {flow.original.get("sport", flow.original.get("src_key")): flow for flow in flows}


def left(flow: Flow) -> int:
    """Seconds until the flow runs out."""
    assert flow.timeout is not None
    return flow.timeout


class Capture:
    """A store that holds what a kernel's events say, by the path that they take through an active."""

    def __init__(self, namespace: Namespace, *, journal: bool = False, only: Replicate | None = None) -> None:
        self.store = Store(journal=journal)
        self.events = namespace.listen()
        self.selector = selector(namespace, only)

    def take(self) -> Store:
        """The store after the events that are there."""
        return self.apply(self.events.drain(100_000))

    def apply(self, events: list[bytes]) -> Store:
        """The store after these events."""
        selected = self.selector.select(events)
        answers = self.selector.read_hinted(selected.hints)
        for part in chain(selected.parts, *(answer.parts for answer in answers)):
            self.store.apply(part)
        assert not self.store.dropped
        return self.store

    async def until(self, true: Callable[[Store], bool]) -> Store:
        """The store when events have made it so."""
        with trio.fail_after(LIMIT_S):
            while not true(self.take()):
                await self.events.wait()
        return self.store


def selector(namespace: Namespace | None = None, only: Replicate | None = None) -> Selector:
    """A selector as the active in `namespace` has it; without `only` it lets everything through."""
    return Selector(
        passes=None if only is None else compile_filter(only),
        expectations=True,
        dropped=Counter(),
        read=(lambda _: []) if namespace is None else namespace.injector.read,
    )


async def ignore_progress(_told: dict[str, Any]) -> None:
    """Nobody is waiting at a terminal."""


@contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    """So many namespaces, gone afterwards."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Namespace())) for _ in range(count)]
