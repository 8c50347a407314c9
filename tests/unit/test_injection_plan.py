"""Plans of injection, carried out on a model of a kernel."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftfw.kernel import expectation, flow_entry, uapi
from ftfw.kernel.attributes import split
from ftfw.kernel.create_bulk import BATCH
from ftfw.replication.injection_plan import (
    CHANGES_AT_ONCE,
    RESOLVED_AT_ONCE,
    SORTED_AT_ONCE,
    ChangePlanner,
    CreateExpectations,
    CreateFlows,
    CreateGreFlows,
    DeleteExpectations,
    DeleteFlows,
    DeletePinnedFlows,
    Pause,
    Step,
    VerifyHelpers,
    in_master_order,
    plan_commit,
    plan_missing,
)
from ftfw.replication.store import Store
from tests.unit.conntrack import TCP, UDP, Conn, End, Expect, conn, inverse

OWN = End("192.0.2.9", "198.51.100.2", 40001, 22, uapi.IPPROTO_TCP)  # of a host that may be the backup
MASTERS = [conn(replace(TCP, source_port=port), helper=b"ftp", ident=port) for port in (1, 2)]
RELATED = [
    conn(replace(TCP, source_port=port, destination_port=20), master=master.original, ident=port)
    for port, master in ((11, MASTERS[0]), (12, MASTERS[1]))
]
RELATED.append(conn(replace(UDP, source_port=13), master=RELATED[0].original, ident=13))
GRE = conn(End("192.0.2.1", "198.51.100.2", 1, 2, uapi.IPPROTO_GRE), ident=21)
PLAIN = [conn(replace(UDP, source_port=port), ident=port) for port in (31, 32)]
PLAIN += [conn(inverse(PLAIN[0].original), ident=33)]  # has the first one's reply tuple: never at the same time
OWN_FLOWS = [conn(OWN, ident=41), conn(replace(UDP, source=OWN.source), helper=b"sip", ident=42)]
FLOWS = [*MASTERS, *RELATED, GRE, *PLAIN, *OWN_FLOWS]
EXPECTED = [Expect(master.original, replace(UDP, source_port=0, destination_port=port)) for port, master in
            enumerate((*MASTERS, MASTERS[0], OWN_FLOWS[1]), start=50)]  # fmt: skip


class Kernel:
    """Does what a kernel does: tuples are found in both directions, expectations go with their masters."""

    def __init__(self) -> None:
        self.flows: dict[bytes, bytes] = {}
        self.expectations: dict[bytes, bytes] = {}
        self.refused: set[bytes] = set()
        self.recreated: set[bytes] = set()
        self.lost_links: list[bytes] = []

    def carry_out(self, step: Step) -> None:
        match step:
            case DeleteExpectations(ended):
                for key, _ in ended:
                    self.expectations.pop(key, None)
            case DeleteFlows(keys) | DeletePinnedFlows(keys):
                for key in keys:
                    self._delete(key)
            case CreateFlows(flows) | CreateGreFlows(flows):
                assert all(flow_entry.is_gre(key) is isinstance(step, CreateGreFlows) for key, _ in flows)
                for key, value in flows:
                    self._create(key, value)
            case CreateExpectations(expectations):
                assert len(expectations) <= RESOLVED_AT_ONCE
                for key, value, _ in expectations:
                    self._expect(key, value)
            case VerifyHelpers(flows):
                assert all(self.flows[key] == value for key, value in flows if key in self.flows)

    def _expect(self, key: bytes, value: bytes) -> None:
        if expectation.master_of(key) in {flow_entry.tuple_of(flow) for flow in self.flows}:
            self.expectations[key] = value
        else:
            self.refused.add(key)

    def _delete(self, key: bytes) -> None:
        for found, value in list(self.flows.items()):
            if key in (found, _reply_as_key(value)):
                del self.flows[found]
                for expected in list(self.expectations):
                    if expectation.master_of(expected) == flow_entry.tuple_of(found):
                        del self.expectations[expected]

    def _create(self, key: bytes, value: bytes) -> None:
        if self.flows.get(key, value) != value or any(_reply_as_key(other) == key for other in self.flows.values()):
            self._delete(key)
            self.recreated.add(key)
        if flow_entry.has_master(value):
            master = flow_entry.found_by_master(key, value)
            if master not in {flow_entry.found_by(flow) for flow in self.flows}:
                self.lost_links.append(key)
        self.flows[key] = value


def _reply_as_key(value: bytes) -> bytes:
    reply = split(value)[uapi.CTA_TUPLE_REPLY]
    return (uapi.CTA_TUPLE_ORIG | uapi.NLA_F_NESTED).to_bytes(2, "little").join((reply[:2], reply[4:]))


class Active:
    """An active's kernel: tells a store what happens, in an order in which it can happen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._flows: dict[bytes, Conn] = {}
        self._expected: dict[bytes, Expect] = {}

    def toggle(self, flow: Conn, mark: int) -> None:
        """Begin a flow, change its mark, or end it if it has that mark already."""
        before = self._flows.get(flow.key)
        clash = next((each for each in self._flows.values() if each.key == flow.reply.pack(uapi.CTA_TUPLE_ORIG)), None)
        if clash is not None:
            self._end(clash)
        if before is None:
            self._flows[flow.key] = flow = replace(flow, mark=mark)
            self._store.apply([flow.new()])
        elif before.mark != mark:
            self._flows[flow.key] = flow = replace(flow, mark=mark)
            self._store.apply([flow.update()])
        else:
            self._end(before)

    def _end(self, flow: Conn) -> None:
        for key, expected in list(self._expected.items()):
            if expected.master == flow.original:
                del self._expected[key]
                self._store.apply([expected.destroy()])
        del self._flows[flow.key]
        self._store.apply([flow.destroy()])

    def expect(self, expected: Expect) -> None:
        """Begin an expectation whose master is there, or end it."""
        if expected.key in self._expected:
            del self._expected[expected.key]
            self._store.apply([expected.destroy()])
        elif any(flow.original == expected.master for flow in self._flows.values()):
            self._expected[expected.key] = expected
            self._store.apply([expected.new()])


def held(store: Store) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    return store.plain | store.rich, store.expectations


def filled(flows: list[Conn], expected: list[Expect]) -> Store:
    store = Store()
    store.apply([*(flow.new() for flow in flows), *(each.new() for each in expected)])
    assert not store.dropped
    return store


def run(steps: Iterator[Step], kernel: Kernel) -> list[Step]:
    done = []
    for step in steps:
        kernel.carry_out(step)
        done.append(step)
    return done


acts = st.one_of(
    st.tuples(st.just("flow"), st.sampled_from(FLOWS), st.sampled_from((0, 5))),
    st.tuples(st.just("expect"), st.sampled_from(EXPECTED), st.none()),
    st.tuples(st.just("steps"), st.integers(1, 12), st.none()),
    st.tuples(st.just("address"), st.booleans(), st.none()),
)


@given(st.lists(acts, max_size=40))
@example([("flow", OWN_FLOWS[1], 0), ("expect", EXPECTED[-1], None), ("steps", 1, None), ("address", True, None)])
def test_a_kernel_gets_what_the_store_has_whenever_it_is_interrupted(told: list[tuple[str, object, object]]) -> None:
    store, kernel = Store(journal=True), Kernel()
    active, planner = Active(store), ChangePlanner(store, refused=kernel.refused, recreated=kernel.recreated)
    steps: Iterator[Step] = iter(())
    own: frozenset[bytes] = frozenset()

    def go_on(count: int) -> None:
        nonlocal steps
        for _ in range(count):
            if (step := next(steps, None)) is None:
                planner.learn_addresses(own)
                steps = planner.plan_changes()
            else:
                kernel.carry_out(step)

    for what, about, mark in told:
        if isinstance(about, Conn) and isinstance(mark, int):
            active.toggle(about, mark)
        elif isinstance(about, Expect):
            active.expect(about)
        elif what == "address":
            own = frozenset({ip_address(OWN.source).packed} if about else ())
        elif isinstance(about, int):
            go_on(about)
    go_on(200)  # whatever is left of a plan, and whole ones
    flows, expectations = held(store)
    ends_here = {flow.key for flow in OWN_FLOWS} if own else set()
    assert kernel.flows == {key: value for key, value in flows.items() if key not in ends_here}
    assert kernel.expectations == {
        key: value for key, value in expectations.items() if key != EXPECTED[-1].key or not own
    }
    assert planner.held_back == (ends_here & flows.keys()) | (expectations.keys() - kernel.expectations.keys())

    run(steps, kernel)
    run(planner.plan_remaining(), kernel)
    run(planner.plan_held_back(), kernel)
    assert (kernel.flows, kernel.expectations) == held(store), "a promotion puts in what was held back"


@given(st.lists(st.sampled_from([*FLOWS[:-3], *OWN_FLOWS]), unique_by=lambda flow: flow.key), st.data())
def test_a_commit_creates_everything_once_and_masters_first(flows: list[Conn], data: st.DataObject) -> None:
    there = {flow.original for flow in flows}
    expected = data.draw(st.sets(st.sampled_from(EXPECTED)))
    store = filled(flows, [each for each in expected if each.master in there])
    kernel = Kernel()
    run(plan_commit(store), kernel)
    assert (kernel.flows, kernel.expectations) == held(store)
    assert not kernel.refused
    assert {flow.key for flow in flows if flow.master is not None and flow.master not in there} == set(
        kernel.lost_links
    )
    assert len(kernel.lost_links) == len(set(kernel.lost_links))


def test_only_missing_masters_get_their_expectations() -> None:
    """The other ones are in the kernel, or were met: then they must not come back."""
    store = filled(MASTERS, EXPECTED[:3])
    del store.rich[MASTERS[1].key]  # it was found in the kernel
    kernel = Kernel()
    run(plan_missing(store), kernel)
    assert set(kernel.flows) == {MASTERS[0].key}
    assert set(kernel.expectations) == {EXPECTED[0].key, EXPECTED[2].key}
    assert not kernel.refused


def test_what_needs_a_master_waits_while_a_snapshot_comes_in() -> None:
    store, kernel = Store(journal=True), Kernel()
    planner = ChangePlanner(store, refused=kernel.refused, recreated=kernel.recreated)
    store.begin_snapshot()
    store.add_snapshot([RELATED[0].full(), EXPECTED[0].full(), PLAIN[0].full()])
    run(planner.plan_changes(), kernel)
    assert set(kernel.flows) == {PLAIN[0].key}
    store.add_snapshot([MASTERS[0].full()])
    store.end_snapshot()
    run(planner.plan_changes(), kernel)
    assert set(kernel.flows) == {PLAIN[0].key, RELATED[0].key, MASTERS[0].key}
    assert set(kernel.expectations) == {EXPECTED[0].key}
    assert not kernel.lost_links
    assert not kernel.refused


def half_removed(journal: bool) -> tuple[Store, set[bytes]]:
    """A store with a complete snapshot of which stale entries are held still, and the keys that are not stale."""
    store = Store(journal=journal)
    store.apply([flow.new() for flow in (*MASTERS, *RELATED, GRE, *PLAIN[:2])] + [each.new() for each in EXPECTED[:3]])
    store.begin_snapshot()
    store.add_snapshot([MASTERS[0].full(), PLAIN[0].full(), EXPECTED[0].full()])
    store.remove_stale()
    return store, {MASTERS[0].key, PLAIN[0].key, EXPECTED[0].key}


def test_stale_entries_are_not_committed_though_there_was_no_time_to_remove_them() -> None:
    store, named = half_removed(journal=False)
    for plan in (plan_commit, plan_missing):
        kernel = Kernel()
        run(plan(store), kernel)
        assert kernel.flows.keys() | kernel.expectations.keys() == named
        assert not kernel.refused


def test_stale_entries_of_a_hot_kernel_are_deleted_and_not_created() -> None:
    store, named = half_removed(journal=True)
    kernel = Kernel()
    kernel.flows[RELATED[0].key] = RELATED[0].held()
    run(ChangePlanner(store, refused=kernel.refused, recreated=kernel.recreated).plan_remaining(), kernel)
    assert kernel.flows.keys() | kernel.expectations.keys() == named


def test_the_end_of_a_flow_that_was_never_held_takes_no_connection_of_this_host() -> None:
    """Its beginning and its end may come in one plan: then nothing has held it back."""
    store = Store(journal=True)
    planner = ChangePlanner(store, refused=set(), recreated=set())
    planner.learn_addresses(frozenset({ip_address(OWN.source).packed}))
    sip = OWN_FLOWS[1]
    expected = Expect(sip.original, replace(UDP, source_port=0, destination_port=60))
    store.apply([*(each.new() for each in (*OWN_FLOWS, PLAIN[0])), expected.new()])
    store.apply([expected.destroy(), *(each.destroy() for each in (*OWN_FLOWS, PLAIN[0]))])
    steps = list(planner.plan_changes())
    assert [step.keys for step in steps if isinstance(step, DeleteFlows)] == [[PLAIN[0].key]]
    assert not any(step.expectations for step in steps if isinstance(step, DeleteExpectations))
    # What this host has injected before the address was its own has a pinned timer, and goes.
    (injected,) = (set(step.keys) for step in steps if isinstance(step, DeletePinnedFlows))
    assert injected == {each.key for each in OWN_FLOWS}


def test_each_step_is_small_however_much_there_is() -> None:
    """Between two steps a promotion can begin, and others have their turn."""
    many = [conn(replace(TCP, source_port=port), ident=port) for port in range(1, 4000)]
    many += [replace(flow, helper=b"ftp", original=replace(flow.original, destination_port=20)) for flow in many]
    store = Store(journal=True)
    store.apply([flow.new() for flow in many])
    steps = list(plan_commit(store))
    assert len(steps) >= len(many) // 2 // BATCH + len(many) // 2 // SORTED_AT_ONCE
    planner = ChangePlanner(store, refused=set(), recreated=set())
    created = [len(step.flows) for step in planner.plan_changes() if isinstance(step, CreateFlows)]
    assert sum(created) == len(many)
    assert max(created) <= CHANGES_AT_ONCE
    for flow in many:
        store.apply([flow.destroy()])
    ended = [len(step.keys) for step in planner.plan_changes() if isinstance(step, DeleteFlows)]
    assert sum(ended) == len(many)
    assert max(ended) <= SORTED_AT_ONCE


def test_a_pause_divides_what_depends_on_each_other() -> None:
    """Steps of one kind may be carried out together: a master that is in the way is replaced at their end."""
    steps = list(plan_commit(filled([*MASTERS, *RELATED], [])))
    created = [index for index, step in enumerate(steps) if isinstance(step, CreateFlows) and step.flows]
    related = [index for index in created if any(flow_entry.has_master(value) for _, value in _flows(steps[index]))]
    assert any(isinstance(step, Pause) for step in steps[related[0] - 2 : related[0]])


def _flows(step: Step) -> list[tuple[bytes, bytes]]:
    assert isinstance(step, CreateFlows)
    return step.flows


@given(st.permutations(RELATED))
def test_each_related_flow_comes_after_its_master(related: list[Conn]) -> None:
    ordered = [key for flows in in_master_order((flow.key, flow.held()) for flow in related) for key, _ in flows]
    assert sorted(ordered) == sorted(flow.key for flow in related)
    assert ordered.index(RELATED[0].key) < ordered.index(RELATED[2].key)


@pytest.mark.parametrize("related", [False, True])
def test_missing_entries_are_sorted_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, related: bool) -> None:
    """This node is active by then: a million entries sorted at once would keep its heartbeats back for seconds."""
    tuples = [replace(TCP, source_port=port) for port in range(1, 6 * SORTED_AT_ONCE)]
    master = MASTERS[0]
    flows = [conn(each, master=master.original, ident=each.source_port) for each in tuples] if related else []
    expected = [] if related else [Expect(master.original, each) for each in tuples]
    store = filled([master, *flows], expected)
    looked_up = 0

    def counted(real: Callable[..., bytes]) -> Callable[..., bytes]:
        def count(*arguments: bytes) -> bytes:
            nonlocal looked_up
            looked_up += 1
            return real(*arguments)

        return count

    for module, name in ((flow_entry, "found_by"), (flow_entry, "found_by_master"), (expectation, "master_of")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    most = total = 0
    for _ in plan_missing(store):
        most, total, looked_up = max(most, looked_up), total + looked_up, 0
    assert total >= len(tuples)
    assert most <= 3 * SORTED_AT_ONCE
