"""Putting held flows and expectations into this kernel, and taking them out again.

Order (promise 2): flows without a master, flows with one, masters first; then expectations.  What the kernel refuses
for a reason with a remedy is tried again with it; what stays refused is counted by reason, never raised.
"""

import errno
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from queue import SimpleQueue
from typing import TypeVar

import trio

from . import entry, expectation, rewrite, uapi
from .attributes import BODY, message, split
from .bulk import BATCH, Creator
from .entry import family_of, helper_of
from .netlink import RequestSocket, errno_name
from .rewrite import Timeouts

QUEUED_MAX = 3  # batches put together and not yet with the kernel
QUEUE_LOOK_S = 0.0005
RESOLVE_BATCH = 128  # entries taken care of one by one between two checkpoints

T = TypeVar("T")

Flow = tuple[bytes, bytes]
"""Key and value, as `entry` defines them."""
Report = Callable[[int], Awaitable[None]]
"""Told how many entries have been tried so far."""


@dataclass(slots=True)
class Outcome:
    """What came of it.  `failed` by reason; `remedied` counts what went in otherwise than asked for, by reason."""

    created: int = 0
    updated: int = 0
    deleted: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    remedied: Counter[str] = field(default_factory=Counter)


async def _unheard(_tried: int) -> None:
    await trio.lowlevel.checkpoint()


class Injector:
    """Writes this kernel's table.  One at a time: its socket's answers belong to the request before."""

    def __init__(self, requests: RequestSocket, timeouts: Timeouts) -> None:
        self._requests = requests
        self._timeouts = timeouts
        self._creators = {pinned: Creator(timeouts, pinned=pinned) for pinned in (False, True)}
        self._lock = trio.Lock()

    async def create(
        self, flows: Iterable[Flow], outcome: Outcome, *, pinned: bool = False, report: Report = _unheard
    ) -> None:
        """Create flows, or make existing ones equal to them; `pinned`: with a timeout that does not run out.

        Many flows are a pipeline: a thread hands one batch to the kernel while the next is put together here.
        """
        async with self._lock:
            troubled: list[tuple[int, Flow]] = []
            batches = _batches(flows, BATCH)
            first = next(batches, [])
            if len(first) < BATCH:
                self._send(first, self._joined(first, pinned=pinned), outcome, troubled)
                await report(len(first))
            else:
                await self._pipeline(chain([first], batches), outcome, troubled, pinned=pinned, report=report)
            for group in _batches(troubled, RESOLVE_BATCH):
                self._resolve(group, outcome, pinned=pinned)
                await trio.lowlevel.checkpoint()

    async def _pipeline(
        self,
        batches: Iterable[list[Flow]],
        outcome: Outcome,
        troubled: list[tuple[int, Flow]],
        *,
        pinned: bool,
        report: Report,
    ) -> None:
        waiting: SimpleQueue[tuple[list[Flow], bytes] | None] = SimpleQueue()

        def hand_over() -> None:
            while (work := waiting.get()) is not None:
                self._send(*work, outcome, troubled)

        tried = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, hand_over)
            try:
                for batch in batches:
                    waiting.put((batch, self._joined(batch, pinned=pinned)))
                    tried += len(batch)
                    await report(tried)
                    while waiting.qsize() > QUEUED_MAX:  # noqa: ASYNC110 (a thread empties it, and has no time to tell)
                        await trio.sleep(QUEUE_LOOK_S)
            finally:
                waiting.put(None)

    def _joined(self, batch: list[Flow], *, pinned: bool) -> bytes:
        parts = self._creators[pinned].message_parts
        return b"".join(chain.from_iterable([parts(key, value, index) for index, (key, value) in enumerate(batch)]))

    def _send(self, batch: list[Flow], data: bytes, outcome: Outcome, troubled: list[tuple[int, Flow]]) -> None:
        errors = self._requests.send(data)
        outcome.created += len(batch) - len(errors)
        troubled.extend((code, batch[index]) for index, code in errors)

    def _resolve(self, group: list[tuple[int, Flow]], outcome: Outcome, *, pinned: bool) -> None:
        """Try refused flows again, each with the remedy for its errno."""
        existing = [flow for code, flow in group if code == errno.EEXIST]
        found = self.get([key for key, _ in existing])
        for key, value in existing:
            self._replace((key, value), found.get(key), outcome, pinned=pinned)
        for code, (key, value) in group:
            if code != errno.EEXIST:
                self._create_one((key, value), outcome, pinned=pinned, code=code)

    def _replace(self, flow: Flow, found: dict[int, bytes] | None, outcome: Outcome, *, pinned: bool) -> None:
        """Make an entry that is in the way equal to `flow`: by an update if that can do it, else created anew."""
        key, value = flow
        if found is not None and rewrite.replaceable(value, found):
            expected = rewrite.expected_in(found)
            body = rewrite.update(key, value, timeouts=self._timeouts, expected=expected, pinned=pinned)
            if not self._requests.send(message(uapi.CT_NEW, rewrite.UPDATE, family_of(key), body)):
                outcome.updated += 1
                return
        for removal in (_delete(key), _delete_reply(key, value)):  # two entries may be in the way
            if not self._requests.send(removal):
                outcome.deleted += 1
        self._create_one(flow, outcome, pinned=pinned)

    def _create_one(self, flow: Flow, outcome: Outcome, *, pinned: bool, code: int = 0) -> None:
        """Create one flow; without its master if that is gone, without its helper if this kernel lacks it.

        `code`: the errno of an attempt that was made already.
        """
        key, value = flow
        body = rewrite.create(key, value, timeouts=self._timeouts, pinned=pinned)
        code = code or self._try(key, body)
        if code == errno.EOPNOTSUPP and uapi.CTA_HELP in split(body):  # the kernel looks for it before the master
            outcome.remedied["helper_missing"] += 1
            body = rewrite.without(body, uapi.CTA_HELP)
            code = self._try(key, body)
        if code == errno.ENOENT and uapi.CTA_TUPLE_MASTER in split(body):
            outcome.remedied["master_missing"] += 1
            code = self._try(key, rewrite.without(body, uapi.CTA_TUPLE_MASTER))
        if code:
            outcome.failed[errno_name(code)] += 1
        else:
            outcome.created += 1

    def _try(self, key: bytes, body: bytes) -> int:
        errors = self._requests.send(message(uapi.CT_NEW, rewrite.CREATE, family_of(key), body))
        return errors[0][1] if errors else 0

    async def verify_helpers(self, flows: Iterable[Flow], outcome: Outcome, *, pinned: bool = False) -> None:
        """Read flows with helpers back; one that has lost its helper is created anew, once."""
        async with self._lock:
            for group in _batches(flows, RESOLVE_BATCH):
                for key, value in self._helperless(group):
                    again = Outcome()
                    self._requests.send(_delete(key))
                    self._create_one((key, value), again, pinned=pinned)
                    outcome.created += again.created - 1  # it was counted when it was created first
                    outcome.failed.update(again.failed)
                    if not again.remedied["helper_missing"] and self._helperless([(key, value)]):
                        outcome.remedied["helper_lost"] += 1
                await trio.lowlevel.checkpoint()

    def _helperless(self, flows: list[Flow]) -> list[Flow]:
        """Those of `flows` that are in the kernel without the helper they should have."""
        wanted = [flow for flow in flows if entry.has_helper(flow[1]) and uapi.CTA_HELP in self._created(*flow)]
        found = self.get([key for key, _ in wanted])
        return [
            (key, value) for key, value in wanted if key in found and helper_of(found[key]) != helper_of(split(value))
        ]

    def _created(self, key: bytes, value: bytes) -> dict[int, bytes]:
        return split(rewrite.create(key, value, timeouts=self._timeouts))

    def get(self, keys: list[bytes]) -> dict[bytes, dict[int, bytes]]:
        """What the kernel has under these keys: key → attributes."""
        answers = self._requests.get(_gets(keys))
        return {keys[index]: split(answer, BODY) for index, answer in answers.items()}

    def read(self, keys: list[bytes]) -> list[bytes]:
        """The messages with which the kernel answers when asked for these flows; those it lacks are left out."""
        return list(self._requests.get(_gets(keys)).values())

    async def delete(self, keys: Iterable[bytes], outcome: Outcome) -> None:
        """Delete flows; one that is gone already is no failure."""
        async with self._lock:
            for batch in _batches(keys, BATCH):
                errors = self._requests.send(b"".join(_delete(key, i) for i, key in enumerate(batch)))
                outcome.deleted += len(batch) - len(errors)
                outcome.failed.update(errno_name(code) for _, code in errors if code != errno.ENOENT)
                await trio.lowlevel.checkpoint()

    async def set_timeouts(self, flows: Iterable[Flow], outcome: Outcome, *, pinned: bool = False) -> None:
        """Set only the timers of existing entries."""
        async with self._lock:
            for batch in _batches(flows, BATCH):
                requests = [
                    message(
                        uapi.CT_NEW,
                        rewrite.UPDATE,
                        family_of(key),
                        rewrite.set_timeout(key, value, self._timeouts, pinned=pinned),
                        index,
                    )
                    for index, (key, value) in enumerate(batch)
                ]
                errors = self._requests.send(b"".join(requests))
                outcome.updated += len(batch) - len(errors)
                outcome.failed.update(errno_name(code) for _, code in errors if code != errno.ENOENT)
                await trio.lowlevel.checkpoint()

    async def expect(
        self, expectations: Iterable[tuple[bytes, bytes, bytes]], outcome: Outcome, *, pinned: bool = False
    ) -> None:
        """Create expectations, given as key, value and the master's CTA_ZONE attribute (or nothing)."""
        async with self._lock:
            for batch in _batches(expectations, RESOLVE_BATCH):
                requests = b"".join(
                    chain.from_iterable(
                        expectation.create(key, value, zone, sequence=2 * index, pinned=pinned)
                        for index, (key, value, zone) in enumerate(batch)
                    )
                )
                failed = {sequence // 2: code for sequence, code in reversed(self._requests.send(requests))}
                outcome.created += len(batch) - len(failed)
                outcome.failed.update(f"expectation_{errno_name(code)}" for code in failed.values())
                await trio.lowlevel.checkpoint()

    async def set_expectation_timeouts(self, expectations: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Give expectations their own timeouts; one that has been met since is left gone."""
        async with self._lock:
            for batch in _batches(expectations, RESOLVE_BATCH):
                self._requests.send(b"".join(expectation.set_timeout(*each) for each in batch))
                await trio.lowlevel.checkpoint()

    async def unexpect(self, expectations: Iterable[tuple[bytes, bytes]], outcome: Outcome) -> None:
        """Remove expectations, given as key and zone attribute; one that is gone already is no failure."""
        async with self._lock:
            for batch in _batches(expectations, RESOLVE_BATCH):
                requests = [expectation.delete(key, zone, sequence=i) for i, (key, zone) in enumerate(batch)]
                errors = self._requests.send(b"".join(requests))
                outcome.deleted += len(batch) - len(errors)
                outcome.failed.update(f"expectation_{errno_name(c)}" for _, c in errors if c != errno.ENOENT)
                await trio.lowlevel.checkpoint()


def in_order(related: Iterable[Flow]) -> Iterator[Flow]:
    """Flows with a master, each behind its own master if that is among them."""
    waiting = dict(related)
    keys = {entry.found_by(key): key for key in waiting}
    masters = {
        key: keys.get(entry.master_key(key, split(value)[uapi.CTA_TUPLE_MASTER])) for key, value in waiting.items()
    }
    while waiting:
        free = [key for key in waiting if masters[key] not in waiting or masters[key] == key]
        for key in free or list(waiting):  # a ring cannot be, but must not hang
            yield key, waiting.pop(key)


def _gets(keys: list[bytes]) -> bytes:
    return b"".join(message(uapi.CT_GET, uapi.NLM_F_REQUEST, family_of(key), key, i) for i, key in enumerate(keys))


def _delete(key: bytes, sequence: int = 0) -> bytes:
    return message(uapi.CT_DELETE, uapi.NLM_F_REQUEST, family_of(key), key, sequence)


def _delete_reply(key: bytes, value: bytes) -> bytes:
    """Delete whatever entry has this flow's reply tuple, in its zone."""
    reply = split(value)[uapi.CTA_TUPLE_REPLY]
    zone = split(key).get(uapi.CTA_ZONE, b"")
    return message(uapi.CT_DELETE, uapi.NLM_F_REQUEST, family_of(reply), reply + zone)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
