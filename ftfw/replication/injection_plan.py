"""Plan how the entries of a store are put into a kernel: bounded steps, masters before related flows.  Pure.

Order: entries that ended are deleted first.  Then flows without a master are created, flows with a master (each after
its own master), and GRE flows.  Then the helpers are verified, and expectations are created.

A plan is an iterator of steps.  Each step is computed when it is asked for, after the steps before it, and takes about
a millisecond to compute.  `daemon/plan_executor` and the simulation carry out the steps in their order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ftfw.kernel import expectation, flow_entry
from ftfw.kernel.create_bulk import BATCH, batches
from ftfw.kernel.expectation import HeldExpectation
from ftfw.kernel.flow_entry import HeldFlow
from ftfw.replication.store import Store

SORTED_AT_ONCE: Final = 256  # entries sorted for one step: about a millisecond
CHANGES_AT_ONCE: Final = 256  # flows of a hot backup in one step, which is not interrupted: 15 ms if all of them exist
RESOLVED_AT_ONCE: Final = 128  # entries that the kernel is asked about one by one, or that take two requests each


@dataclass(frozen=True, slots=True)
class DeleteExpectations:
    """Remove expectations, given as key and the CTA_ZONE attribute of the master (or nothing)."""

    expectations: list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class DeleteFlows:
    """Remove flows."""

    keys: list[bytes]


@dataclass(frozen=True, slots=True)
class DeletePinnedFlows:
    """Remove the flows among these whose timers are pinned: a hot backup created them, and no packet has used them."""

    keys: list[bytes]


@dataclass(frozen=True, slots=True)
class CreateFlows:
    """Create flows, at most BATCH.  An empty list only ends a step, if it takes longer to find the next flows."""

    flows: list[HeldFlow]


@dataclass(frozen=True, slots=True)
class CreateGreFlows:
    """Create GRE flows.  Their entries must count packets: `daemon/gre_keeper` sees by that which are in use."""

    flows: list[HeldFlow]


@dataclass(frozen=True, slots=True)
class VerifyHelpers:
    """Read flows back from the kernel, and recreate the ones that lost their helper."""

    flows: list[HeldFlow]


@dataclass(frozen=True, slots=True)
class CreateExpectations:
    """Create expectations."""

    expectations: list[HeldExpectation]


@dataclass(frozen=True, slots=True)
class Pause:
    """Complete all steps before this one: the next one depends on their outcome."""


Step = (
    DeleteExpectations
    | DeleteFlows
    | DeletePinnedFlows
    | CreateFlows
    | CreateGreFlows
    | VerifyHelpers
    | CreateExpectations
    | Pause
)


def plan_commit(store: Store) -> Iterator[Step]:
    """Plan to create everything in `store` except stale entries; `store` must not change until that is done."""
    yield from _create_everything(store)
    yield from _create_expectations(store, store.expectations)


def plan_missing(store: Store) -> Iterator[Step]:
    """Plan to create all flows in `store`, and the expectations whose masters are among them.

    The caller has removed from `store` the flows that the kernel has; their expectations are in the kernel, or were
    met.
    """
    wanted: list[bytes] = []
    for keys in batches(store.expectations, SORTED_AT_ONCE):
        wanted += [key for key in keys if any(master in store.rich for master in store.masters_of(key))]
        yield CreateFlows([])
    yield from _create_everything(store)
    yield from _create_expectations(store, wanted)


def _create_everything(store: Store) -> Iterator[Step]:
    for flows in batches(store.plain.items(), BATCH):
        yield CreateFlows(_without_stale(store, flows))
    rich = _RichFlows()
    for flows in batches(store.rich.items(), SORTED_AT_ONCE):  # few: each takes 25 us to rewrite for injection
        yield CreateFlows(rich.sort(_without_stale(store, flows)))
    yield from rich.steps()


def _without_stale(store: Store, flows: list[HeldFlow]) -> list[HeldFlow]:
    """Leave out flows that a complete snapshot has not named: there was no time yet to remove them from the store."""
    stale = set(store.stale(key for key, _ in flows))
    return [flow for flow in flows if flow[0] not in stale] if stale else flows


class _RichFlows:
    """Sorts out the flows that need a later step: related flows, GRE flows and flows with a helper."""

    def __init__(self) -> None:
        self._related: list[HeldFlow] = []
        self._gre: list[HeldFlow] = []
        self._helped: list[HeldFlow] = []

    def sort(self, flows: list[HeldFlow]) -> list[HeldFlow]:
        """Remember the flows that need a later step; return the ones that can be created at once."""
        alone = []
        for key, value in flows:
            if flow_entry.has_helper(value):
                self._helped.append((key, value))
            if flow_entry.is_gre(key):
                self._gre.append((key, value))
            elif flow_entry.has_master(value):
                self._related.append((key, value))
            else:
                alone.append((key, value))
        return alone

    def steps(self) -> Iterator[Step]:
        """Plan the later steps; the flows that `sort` returned must have been created before."""
        if self._related or self._gre or self._helped:
            yield Pause()
        for flows in in_master_order(self._related):
            yield CreateFlows(flows)
        for flows in batches(self._gre, RESOLVED_AT_ONCE):
            yield CreateGreFlows(flows)
        for flows in batches(self._helped, RESOLVED_AT_ONCE):
            yield VerifyHelpers(flows)


def in_master_order(related: Iterable[HeldFlow]) -> Iterator[list[HeldFlow]]:
    """Yield flows with a master in lists, each flow after its own master if the master is among them.

    An empty list only ends a step, so that other tasks can run.
    """
    waiting: dict[bytes, HeldFlow] = {}
    for flows in batches(related, SORTED_AT_ONCE):
        waiting.update((flow_entry.found_by(key), (key, value)) for key, value in flows)
        yield []
    ordered = (flow for name in list(waiting) for flow in reversed(_with_masters(name, waiting)))
    yield from batches(ordered, SORTED_AT_ONCE)


def _with_masters(name: bytes, waiting: dict[bytes, HeldFlow]) -> list[HeldFlow]:
    """Remove a flow, its master, the master's master and so on from `waiting`, and return them in this order."""
    path = []
    while (flow := waiting.pop(name, None)) is not None:
        path.append(flow)
        name = flow_entry.found_by_master(*flow)
    return path


def _create_expectations(store: Store, keys: Iterable[bytes]) -> Iterator[Step]:
    for some in batches(keys, RESOLVED_AT_ONCE):
        stale = set(store.stale(some))
        held = [
            (key, value, store.zone_of(key))
            for key in some
            if key not in stale and (value := store.expectations.get(key)) is not None
        ]
        yield CreateExpectations(held)


class ChangePlanner:
    """Plans the changes by which a hot backup's kernel becomes equal to its store.

    The executor of the plans fills `refused` and `recreated`: keys that the kernel refused, and keys of flows that were
    deleted and created again, so that the kernel has forgotten their expectations.

    Flows that end at this host are held back: the backup's own connections may go through the active, which then
    streams them translated.  The kernel keeps the entries that this host made.  `held_back` has the keys of the
    streamed ones.
    """

    def __init__(self, store: Store, *, refused: set[bytes], recreated: set[bytes]) -> None:
        self.held_back: set[bytes] = set()
        self._store = store
        self._refused = refused
        self._recreated = recreated
        self._own: frozenset[bytes] = frozenset()
        self._own_starts: frozenset[bytes] = frozenset()  # the first bytes of these addresses (`source_start`)
        self._added: frozenset[bytes] = frozenset()  # own addresses for which the kernel may have older flows
        self._again: dict[bytes, None] = {}  # keys to plan again although they did not change
        # Keys of related flows and expectations that are not in the kernel yet.
        self._need_master: dict[bytes, None] = {}

    def learn_addresses(self, own: frozenset[bytes]) -> None:
        """Record this host's addresses, packed."""
        if own != self._own:
            self._added |= own - self._own
            self._own = own
            self._own_starts = frozenset(address[:4] for address in own)
            self._again.update(dict.fromkeys(self.held_back))

    def plan_changes(self) -> Iterator[Step]:
        """Plan for the entries that have changed since the last plan was begun.

        While a snapshot is under way, entries that need a master wait for its end, because the master may come later.
        """
        yield from self._withdraw_own()
        keys = self._store.take_changes()
        if self._again:
            keys |= self._again
            self._again = {}
        self._refused -= self._refused & keys.keys()
        changed: list[bytes] = []
        for some in batches(_popped(keys), SORTED_AT_ONCE):
            if self._are_plain(some):
                changed += some
                yield Pause()
            else:
                yield from self._delete_ended(some, changed)
        rich = _RichFlows()
        for some in batches(changed, CHANGES_AT_ONCE):
            yield CreateFlows(self._flows_without_master(some, rich))
        expectations: list[bytes] = []
        if not self._store.in_snapshot:
            waiting, self._need_master = self._need_master, {}
            for some in batches(_popped(waiting), SORTED_AT_ONCE):
                self._sort_dependent(some, rich, expectations)
                yield Pause()
        yield from rich.steps()
        yield Pause()
        yield from self._create_expectations(expectations)

    def plan_remaining(self) -> Iterator[Step]:
        """Plan for changed entries and for entries that the kernel refused before: this node becomes active."""
        self._again.update(dict.fromkeys(sorted(self._refused)))
        yield from self.plan_changes()

    def plan_held_back(self) -> Iterator[Step]:
        """Plan to create the flows that were held back: this node becomes active."""
        rich = _RichFlows()
        for some in batches(self.held_back, SORTED_AT_ONCE):
            yield CreateFlows(rich.sort([(key, value) for key in some if (value := self._store.get_flow(key))]))
        yield from rich.steps()
        yield from _create_expectations(self._store, self.held_back)

    def _are_plain(self, keys: list[bytes]) -> bool:
        """Return True if all `keys` belong to plain flows, none stale or held back, at a tenth of the full cost."""
        values = [value for value in map(self._store.plain.get, keys) if value is not None]
        return (
            len(values) == len(keys)
            and not self.held_back
            and not self._store.stale(keys)
            and self._own_starts.isdisjoint(map(flow_entry.source_start, keys))
            and self._own_starts.isdisjoint(map(flow_entry.source_start, values))
        )

    def _delete_ended(self, keys: list[bytes], changed: list[bytes]) -> Iterator[Step]:
        """Plan to delete the entries of `keys` that are no longer held; append the keys of held flows to `changed`.

        A flow that ends and has an own address as its source may be this host's: it is deleted only if it is pinned.
        """
        store = self._store
        stale = set(store.stale(keys))
        ended: list[bytes] = []
        ended_own: list[bytes] = []
        ended_expectations: list[tuple[bytes, bytes]] = []
        for key in keys:
            if key not in stale and (value := store.value(key)) is not None:
                if self._is_held_back(key, value):
                    continue
                if expectation.is_key(key):
                    self._need_master[key] = None
                else:
                    changed.append(key)
                continue
            self._need_master.pop(key, None)
            if key in self.held_back:
                self.held_back.discard(key)
            elif expectation.is_key(key):
                if self._own.isdisjoint(_sources(key, key)):
                    ended_expectations.append((key, store.zone_of(key)))
            elif self._own.isdisjoint(_sources(key, key)):
                ended.append(key)
            else:
                ended_own.append(key)
        yield DeleteExpectations(ended_expectations)
        yield DeleteFlows(ended)
        if ended_own:
            yield DeletePinnedFlows(ended_own)

    def _is_held_back(self, key: bytes, value: bytes) -> bool:
        if self._own.isdisjoint(_sources(key, value)):
            if self.held_back:
                self.held_back.discard(key)
            return False
        self.held_back.add(key)
        return True

    def _flows_without_master(self, keys: list[bytes], rich: _RichFlows) -> list[HeldFlow]:
        """Return flows to create at once; a flow that changes again before it is created is in the next plan, too."""
        plain = self._store.plain
        flows = [(key, value) for key in keys if (value := plain.get(key)) is not None]
        if len(flows) == len(keys):
            return flows
        flows = []
        for key in keys:
            if (value := plain.get(key)) is not None:
                flows.append((key, value))
            elif (value := self._store.rich.get(key)) is not None:
                if flow_entry.has_master(value):
                    self._need_master[key] = None
                else:
                    flows += rich.sort([(key, value)])
        return flows

    def _sort_dependent(self, keys: list[bytes], rich: _RichFlows, expectations: list[bytes]) -> None:
        for key in keys:
            if expectation.is_key(key):
                expectations.append(key)
            elif (value := self._store.rich.get(key)) is not None:
                rich.sort([(key, value)])

    def _create_expectations(self, changed: list[bytes]) -> Iterator[Step]:
        """Plan for changed expectations, and for expectations that the kernel forgot with their masters."""
        yield from _create_expectations(self._store, changed)
        if not self._recreated:
            return
        masters = self._recreated.copy()
        self._recreated.clear()
        for keys in batches(list(self._store.expectations), SORTED_AT_ONCE):
            forgotten = [key for key in keys if not masters.isdisjoint(self._store.masters_of(key))]
            yield from _create_expectations(self._store, forgotten)
            yield Pause()

    def _withdraw_own(self) -> Iterator[Step]:
        """Plan to delete flows that were created before their source became an address of this host.

        Their expectations go with them.
        """
        added, self._added = self._added, frozenset()
        if not added:
            return
        for held in (self._store.plain, self._store.rich):
            for keys in batches(list(held), SORTED_AT_ONCE):
                own = [key for key in keys if not added.isdisjoint(_sources(key, held.get(key, key)))]
                own = [key for key in own if key not in self.held_back]
                self.held_back.update(own)
                yield DeletePinnedFlows(own)
        for keys in batches(list(self._store.expectations), SORTED_AT_ONCE):
            self.held_back.update(key for key in keys if not added.isdisjoint(_sources(key, key)))
            yield Pause()


def _popped(keys: dict[bytes, None]) -> Iterator[bytes]:
    """Remove and yield keys one by one, the last one first: to free a million keys at once takes 60 ms."""
    while keys:
        yield keys.popitem()[0]


def _sources(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    if expectation.is_key(key):
        source = flow_entry.source_of(expectation.master_of(key))
        return source, source
    return flow_entry.source_of(key), flow_entry.source_of(value)
