"""Create, update and delete flows and expectations in this kernel.

The caller decides the order (`ftfw.replication.injection_plan`). A request that the kernel refuses for a reason with a
remedy is tried again with the remedy. Requests that stay refused are counted by reason, and never raise an exception.
"""

import errno
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from queue import SimpleQueue

import trio

from ftfw.kernel import create, expectation, uapi
from ftfw.kernel.attributes import BODY, message, split
from ftfw.kernel.create import Timeouts
from ftfw.kernel.create_bulk import BATCH, Creator, batches
from ftfw.kernel.expectation import HeldExpectation
from ftfw.kernel.flow_entry import HeldFlow, family_of, helper_kind, helper_of, reply_name
from ftfw.kernel.netlink import CutShortError, RequestSocket, errno_name

QUEUED_MAX = 3  # rewritten batches that wait for the thread that hands them to the kernel
QUEUE_LOOK_S = 0.0005
RESOLVE_BATCH = 128  # entries handled one by one between two checkpoints

Report = Callable[[int], Awaitable[None]]
"""Receives the number of entries that have been tried since the last report."""


@dataclass(slots=True)
class InjectionOutcome:
    """Counts the results of an injection.

    `failed` counts by reason the entries that the kernel refused, `remedied` by reason the entries that needed a
    remedy: most of them lack an attribute that was wanted (`one_by_one`: none). `refused` has the keys of the refused
    entries. `recreated` has the keys of flows that existed, and were deleted and created again: the kernel has
    forgotten the expectations of which they were the masters.
    """

    created: int = 0
    updated: int = 0
    deleted: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    remedied: Counter[str] = field(default_factory=Counter)
    refused: set[bytes] = field(default_factory=set)
    recreated: set[bytes] = field(default_factory=set)


async def report_to_nobody(_tried: int) -> None:
    """Report to nobody."""
    await trio.lowlevel.checkpoint()


class Injector:
    """Writes the conntrack table of this kernel, for one caller at a time: a socket's answers belong to one request.

    `read_timeouts` returns the timeouts that the host is configured with.
    """

    def __init__(self, requests: RequestSocket, read_timeouts: Callable[[], Timeouts]) -> None:
        self._requests = requests
        self._read_timeouts = read_timeouts
        self._timeouts = read_timeouts()
        self._creators = {pinned: Creator(self._timeouts, pinned=pinned) for pinned in (False, True)}
        self._lock = trio.Lock()
        self._lacking: set[tuple[str | None, int, int]] = set()  # helpers that this kernel does not have

    def refresh_timeouts(self) -> None:
        """Read the host's timeouts again: they may have been configured since the start."""
        timeouts = self._read_timeouts()
        if timeouts != self._timeouts:
            self._timeouts = timeouts
            self._creators = {pinned: Creator(timeouts, pinned=pinned) for pinned in (False, True)}

    async def create(
        self,
        parts: Iterable[list[HeldFlow]],
        outcome: InjectionOutcome,
        *,
        pinned: bool = False,
        replace: bool = True,
        overwrite: bool = False,
        report: Report = report_to_nobody,
    ) -> None:
        """Create flows, given in lists of at most BATCH, or make existing entries equal to them.

        `pinned`: with a timeout that does not run out. `replace` False: existing entries stay as they are.
        `overwrite`: existing entries are deleted and created without a look at them, and not counted in `recreated`.
        This takes a third of the time, for when no traffic misses them, and expectations are created afterwards.
        Many flows are a pipeline: a thread hands one list to the kernel while the next one is rewritten here.
        """
        async with self._lock:
            troubled: list[tuple[int, HeldFlow]] = []
            rest = iter(parts)
            few: list[HeldFlow] = []
            for part in rest:
                if len(few) + len(part) > BATCH:
                    await self._pipeline(chain([few, part], rest), outcome, troubled, pinned=pinned, report=report)
                    break
                few += part
                if not part:
                    await trio.lowlevel.checkpoint()
            else:
                self._send(few, await self._joined(few, pinned=pinned), outcome, troubled, pinned=pinned)
                await report(len(few))
            if overwrite:
                troubled = await self._overwrite(troubled, outcome, pinned=pinned)
            for group in batches(troubled, RESOLVE_BATCH):
                existing = [flow for code, flow in group if code == errno.EEXIST]
                if replace:
                    self._replace_all(existing, outcome, pinned=pinned)
                else:
                    self._leave(existing, outcome)
                for code, flow in group:
                    if code != errno.EEXIST:
                        self._create_one(flow, outcome, pinned=pinned, code=code)
                await trio.lowlevel.checkpoint()

    async def _pipeline(
        self,
        parts: Iterable[list[HeldFlow]],
        outcome: InjectionOutcome,
        troubled: list[tuple[int, HeldFlow]],
        *,
        pinned: bool,
        report: Report,
    ) -> None:
        waiting: SimpleQueue[tuple[list[HeldFlow], bytes] | None] = SimpleQueue()

        def hand_over() -> None:
            while (work := waiting.get()) is not None:
                self._send(*work, outcome, troubled, pinned=pinned)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, hand_over)
            try:
                for batch in parts:
                    if batch:
                        waiting.put((batch, await self._joined(batch, pinned=pinned)))
                    await report(len(batch))
                    while waiting.qsize() > QUEUED_MAX:  # noqa: ASYNC110 (a thread empties it, and has no time to tell)
                        await trio.sleep(QUEUE_LOOK_S)
            finally:
                waiting.put(None)

    async def _joined(self, batch: list[HeldFlow], *, pinned: bool) -> bytes:
        """Return the messages that create a batch; flows that are rewritten one by one take 20 us each."""
        creator = self._creators[pinned]
        parts, made, paused_at = creator.message_parts, [], creator.slow
        for start in range(0, len(batch), RESOLVE_BATCH):
            some = batch[start : start + RESOLVE_BATCH]
            made += [parts(key, value, index) for index, (key, value) in enumerate(some, start)]
            if creator.slow - paused_at >= RESOLVE_BATCH:
                paused_at = creator.slow
                await trio.lowlevel.checkpoint()
        return b"".join(chain.from_iterable(made))

    def _send(
        self,
        batch: list[HeldFlow],
        data: bytes,
        outcome: InjectionOutcome,
        troubled: list[tuple[int, HeldFlow]],
        *,
        pinned: bool,
    ) -> None:
        try:
            errors = self._requests.send(data)
        except CutShortError:
            errors = self._one_by_one(batch, outcome, pinned=pinned)
        outcome.created += len(batch) - len(errors)
        troubled.extend((code, batch[index]) for index, code in errors)

    def _one_by_one(self, batch: list[HeldFlow], outcome: InjectionOutcome, *, pinned: bool) -> list[tuple[int, int]]:
        """Create the flows of a batch that the kernel did not read to its end; return errors as `send` does."""
        outcome.remedied["one_by_one"] += len(batch)
        bodies = [create.create(key, value, timeouts=self._timeouts, pinned=pinned) for key, value in batch]
        codes = [self._try(key, body) for (key, _), body in zip(batch, bodies, strict=True)]
        return [(index, code) for index, code in enumerate(codes) if code]

    async def _overwrite(
        self, troubled: list[tuple[int, HeldFlow]], outcome: InjectionOutcome, *, pinned: bool
    ) -> list[tuple[int, HeldFlow]]:
        """Delete and create the flows that were refused because they exist; return the flows that are refused still."""
        still = [each for each in troubled if each[0] != errno.EEXIST]
        for batch in batches((flow for code, flow in troubled if code == errno.EEXIST), BATCH):
            again = InjectionOutcome()
            self._requests.send(b"".join(_delete(key, index) for index, (key, _) in enumerate(batch)))
            self._send(batch, await self._joined(batch, pinned=pinned), again, still, pinned=pinned)
            outcome.updated += again.created
            outcome.remedied += again.remedied
            await trio.lowlevel.checkpoint()
        return still

    def _replace_all(self, flows: list[HeldFlow], outcome: InjectionOutcome, *, pinned: bool) -> None:
        """Make entries that are in the way equal to `flows`."""
        found = self._found([key for key, _ in flows])
        bodies = {
            flow[0]: body
            for flow in flows
            if flow[0] in found and (body := self._update_body(flow, found[flow[0]], pinned=pinned)) is not None
        }
        updated = self._update_all(bodies, outcome)
        for key, value in flows:
            if key in updated:
                continue
            for removal in (_delete(key), _delete(reply_name(key, value))):  # two entries may be in the way
                if not self._requests.send(removal):
                    outcome.deleted += 1
            self._create_one((key, value), outcome, pinned=pinned)
            if key in found:
                outcome.recreated.add(key)

    def _leave(self, flows: list[HeldFlow], outcome: InjectionOutcome) -> None:
        """Leave existing flows unchanged; count a flow as refused if the kernel has another flow in its place."""
        found = self._found([key for key, _ in flows])
        for key, _ in flows:
            if key not in found:
                outcome.refused.add(key)
                outcome.failed[errno_name(errno.EEXIST)] += 1

    def _update_body(self, flow: HeldFlow, found: dict[int, bytes], *, pinned: bool) -> bytes | None:
        """Return the attributes that make an existing entry equal to `flow`, or None if no update can do that."""
        key, value = flow
        if helper_kind(flow) in self._lacking:
            value = create.without(value, uapi.CTA_HELP)
        if not create.updatable(value, found):
            return None
        return create.update(key, value, found, timeouts=self._timeouts, pinned=pinned)

    def _update_all(self, bodies: dict[bytes, bytes], outcome: InjectionOutcome) -> set[bytes]:
        """Update existing entries; return the keys of the updated ones."""
        keys = list(bodies)
        requests = [_update(key, bodies[key], index) for index, key in enumerate(keys)]
        errors = dict(self._requests.send(b"".join(requests)))
        for index, code in errors.copy().items():
            key = keys[index]
            if code == errno.ENOSPC and uapi.CTA_LABELS in split(
                bodies[key]
            ):  # an entry has room for labels from its creation, or never
                outcome.remedied["labels_missing"] += 1
                if not self._requests.send(_update(key, create.without(bodies[key], uapi.CTA_LABELS))):
                    del errors[index]
        outcome.updated += len(keys) - len(errors)
        return {key for index, key in enumerate(keys) if index not in errors}

    def _create_one(self, flow: HeldFlow, outcome: InjectionOutcome, *, pinned: bool, code: int = 0) -> None:
        """Create one flow; without its master if the master is missing, without its helper if this kernel lacks it.

        `code`: the errno of an attempt that was made already.
        """
        key, value = flow
        body = create.create(key, value, timeouts=self._timeouts, pinned=pinned)
        code = code or self._try(key, body)
        if code == errno.EOPNOTSUPP and uapi.CTA_HELP in split(body):  # the kernel looks for it before the master
            outcome.remedied["helper_missing"] += 1
            body = create.without(body, uapi.CTA_HELP)
            code = self._try(key, body)
            if code != errno.EOPNOTSUPP:
                self._lacking.add(helper_kind(flow))
        if code == errno.ENOENT and uapi.CTA_TUPLE_MASTER in split(body):
            outcome.remedied["master_missing"] += 1
            code = self._try(key, create.without(body, uapi.CTA_TUPLE_MASTER))
        if code:
            outcome.refused.add(key)
            outcome.failed[errno_name(code)] += 1
        else:
            outcome.created += 1

    def _try(self, key: bytes, body: bytes) -> int:
        """Create one flow; return the errno, 0 if it was created."""
        try:
            errors = self._requests.send(message(uapi.CT_NEW, create.CREATE, family_of(key), body))
        except CutShortError:
            return errno.EINVAL
        return errors[0][1] if errors else 0

    async def verify_helpers(
        self, flows: Iterable[HeldFlow], outcome: InjectionOutcome, *, pinned: bool = False
    ) -> None:
        """Read flows with helpers back; delete a flow that has lost its helper, and create it once more."""
        async with self._lock:
            for group in batches(flows, RESOLVE_BATCH):
                for key, value in self._helperless(group):
                    again = InjectionOutcome()
                    self._requests.send(_delete(key))
                    self._create_one((key, value), again, pinned=pinned)
                    outcome.recreated.add(key)
                    outcome.created += again.created - 1  # it was counted when it was created first
                    outcome.failed.update(again.failed)
                    outcome.refused |= again.refused
                    if not again.remedied["helper_missing"] and self._helperless([(key, value)]):
                        outcome.remedied["helper_lost"] += 1
                await trio.lowlevel.checkpoint()

    def _helperless(self, flows: list[HeldFlow]) -> list[HeldFlow]:
        """Return the flows that exist without their helper, although this kernel has that helper."""
        wanted = [(flow, helper) for flow in flows if (helper := create.created_helper(split(flow[1]))) is not None]
        found = self._found([key for (key, _), _ in wanted])
        helperless = []
        for flow, helper in wanted:
            if flow[0] not in found:
                continue
            if helper_of(found[flow[0]]) == helper:
                self._lacking.discard(helper_kind(flow))
            elif helper_kind(flow) not in self._lacking:
                helperless.append(flow)
        return helperless

    def _found(self, keys: list[bytes]) -> dict[bytes, dict[int, bytes]]:
        answers = self._requests.get(_gets(keys))
        return {keys[index]: split(answer, BODY) for index, answer in answers.items()}

    async def get(self, keys: Iterable[bytes]) -> dict[bytes, dict[int, bytes]]:
        """Return the attributes of the flows with these keys, by key; missing flows are left out."""
        found: dict[bytes, dict[int, bytes]] = {}
        for batch in batches(keys, RESOLVE_BATCH):
            found |= self._found(batch)
            await trio.lowlevel.checkpoint()
        return found

    def read(self, keys: list[bytes]) -> list[bytes]:
        """Return the kernel's messages about the flows with these keys; missing flows are left out."""
        return list(self._requests.get(_gets(keys)).values())

    async def delete(self, keys: Iterable[bytes], outcome: InjectionOutcome) -> None:
        """Delete flows; a missing flow is no failure."""
        async with self._lock:
            for batch in batches(keys, BATCH):
                errors = self._requests.send(b"".join(_delete(key, i) for i, key in enumerate(batch)))
                outcome.deleted += len(batch) - len(errors)
                outcome.failed.update(errno_name(code) for _, code in errors if code != errno.ENOENT)
                await trio.lowlevel.checkpoint()

    async def set_timeouts(self, flows: Iterable[HeldFlow], outcome: InjectionOutcome, *, pinned: bool = False) -> None:
        """Set the timers of existing flows, and change nothing else; a missing flow is no failure."""
        async with self._lock:
            for batch in batches(flows, BATCH):
                requests = [
                    _update(key, create.set_timeout(key, value, self._timeouts, pinned=pinned), index)
                    for index, (key, value) in enumerate(batch)
                ]
                errors = self._requests.send(b"".join(requests))
                outcome.updated += len(batch) - len(errors)
                outcome.failed.update(errno_name(code) for _, code in errors if code != errno.ENOENT)
                await trio.lowlevel.checkpoint()

    async def disable_window_tracking(self, keys: Iterable[bytes]) -> None:
        """Disable window tracking for existing TCP flows; a missing flow is no failure."""
        async with self._lock:
            for batch in batches(keys, BATCH):
                requests = [_update(key, create.disable_window_tracking(key), index) for index, key in enumerate(batch)]
                self._requests.send(b"".join(requests))
                await trio.lowlevel.checkpoint()

    async def create_expectations(
        self, expectations: Iterable[HeldExpectation], outcome: InjectionOutcome, *, pinned: bool = False
    ) -> None:
        """Create expectations, or set the timeouts of existing ones."""
        async with self._lock:
            for batch in batches(expectations, RESOLVE_BATCH):
                requests = b"".join(
                    chain.from_iterable(
                        expectation.create(key, value, zone, sequence=2 * index, pinned=pinned)
                        for index, (key, value, zone) in enumerate(batch)
                    )
                )
                failed = {sequence // 2: code for sequence, code in reversed(self._requests.send(requests))}
                outcome.refused.update(batch[index][0] for index in failed)
                outcome.created += len(batch) - len(failed)
                outcome.failed.update(f"expectation_{errno_name(code)}" for code in failed.values())
                await trio.lowlevel.checkpoint()

    async def set_expectation_timeouts(
        self, expectations: Iterable[HeldExpectation], outcome: InjectionOutcome
    ) -> None:
        """Set the timeouts of existing expectations; an expectation that has been met is not created again."""
        async with self._lock:
            for batch in batches(expectations, RESOLVE_BATCH):
                errors = self._requests.send(b"".join(expectation.set_timeout(*each) for each in batch))
                outcome.updated += len(batch) - len(errors)
                outcome.failed.update(f"expectation_{errno_name(c)}" for _, c in errors if c != errno.ENOENT)
                await trio.lowlevel.checkpoint()

    async def delete_expectations(self, expectations: Iterable[tuple[bytes, bytes]], outcome: InjectionOutcome) -> None:
        """Delete expectations, given as key and zone attribute of the master; a missing one is no failure."""
        async with self._lock:
            for batch in batches(expectations, RESOLVE_BATCH):
                requests = [expectation.delete(key, zone, sequence=i) for i, (key, zone) in enumerate(batch)]
                errors = self._requests.send(b"".join(requests))
                outcome.deleted += len(batch) - len(errors)
                outcome.failed.update(f"expectation_{errno_name(c)}" for _, c in errors if c != errno.ENOENT)
                await trio.lowlevel.checkpoint()


def _gets(keys: list[bytes]) -> list[bytes]:
    return [message(uapi.CT_GET, uapi.NLM_F_REQUEST, family_of(key), key) for key in keys]


def _update(key: bytes, body: bytes, sequence: int = 0) -> bytes:
    return message(uapi.CT_NEW, create.UPDATE, family_of(key), body, sequence)


def _delete(key: bytes, sequence: int = 0) -> bytes:
    return message(uapi.CT_DELETE, uapi.NLM_F_REQUEST, family_of(key), key, sequence)
