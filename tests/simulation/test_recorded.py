"""Recordings have what they are for, the simulated kernel plays them, and they can be made."""

from itertools import count
from random import Random

import pytest
import trio

from ftfw.kernel import expectation, flow_entry, uapi
from ftfw.kernel.flow_entry import Kind
from ftfw.lab import topology
from tests.simulation import record, recording
from tests.simulation.kernel import RECORDINGS, ROUNDS, Kernel, KernelDump, prepared, row_of
from tests.simulation.recording import key_of
from tests.unit.conntrack import is_expectation, walk


def test_every_script_has_its_recording() -> None:
    assert set(RECORDINGS) == set(record.SCRIPTS) == {path.name.split(".")[0] for path in recording.FOLDER.iterdir()}
    for name in RECORDINGS:
        assert recording.load(name).kernel.startswith("Linux ")


def test_the_recordings_have_every_kind_of_event_and_attribute() -> None:
    steps = [step for name in RECORDINGS for step in recording.load(name).steps]
    kinds = {flow_entry.parse(event[:8] + bytes(8) + event[16:]).kind for step in steps for event in step.events}
    assert kinds == {Kind.NEW, Kind.UPDATE, Kind.DESTROY, Kind.EXPECT_NEW, Kind.EXPECT_DESTROY}
    rows = [row for step in steps for row in step.rows if not is_expectation(row)]
    known = {uapi.CTA_MARK, uapi.CTA_LABELS, uapi.CTA_TUPLE_MASTER, uapi.CTA_HELP, uapi.CTA_ZONE}
    assert known | {uapi.CTA_SEQ_ADJ_ORIG, uapi.CTA_SEQ_ADJ_REPLY} <= {kind for row in rows for kind in walk(row[20:])}
    protocols = {uapi.IPPROTO_TCP, uapi.IPPROTO_UDP, uapi.IPPROTO_ICMP, uapi.IPPROTO_ICMPV6, uapi.IPPROTO_GRE}
    assert {flow_entry.protocol_of(key_of(row)) for row in rows} == protocols


def test_sequence_adjustment_comes_without_an_event() -> None:
    """This is a fact of the kernel: without it, a hint would be for nothing."""
    shifted = [
        (step.events, row)
        for step in recording.load("ftp").steps
        for row in step.rows
        if not is_expectation(row) and uapi.CTA_SEQ_ADJ_ORIG in row_of(row)
    ]
    assert shifted
    assert not [event for events, _ in shifted for event in events if uapi.CTA_SEQ_ADJ_ORIG in walk(event[20:])]


def test_rounds_share_no_keys() -> None:
    seen: set[bytes] = set()
    for number in range(ROUNDS):
        keys = {key for name in RECORDINGS for change in prepared(name, number) for key in change.entries}
        assert seen.isdisjoint(keys)
        seen |= keys


def test_the_kernel_answers_with_what_is_there_when_it_is_asked() -> None:
    kernel = Kernel(Random(0), count(), 1.0)
    flows: list[bytes] = []
    while not flows:
        kernel.go_on()
        flows = [key for key in kernel.entries if not expectation.is_key(key)]
    key = flows[0]
    ended = []
    while key in kernel.entries:
        there = kernel.entries[key].row
        assert kernel.get([key]) == [there]
        kernel.go_on()
        ended = [
            event
            for event in kernel.pending
            if flow_entry.parse(event[:8] + bytes(8) + event[16:]).kind is Kind.DESTROY
        ]
    assert kernel.get([key]) == []
    assert key in map(key_of, ended), "nobody has read it yet"


def test_a_dump_has_the_whole_table_flows_first() -> None:
    kernel = Kernel(Random(1), count(), 0.5)
    while not any(map(expectation.is_key, kernel.entries)) or not kernel.rows:
        kernel.go_on()
    dump = KernelDump(kernel)
    while dump.step():
        pass
    keys = [key_of(row) for row in dump.read]
    assert set(keys) == kernel.view().rows.keys()
    assert sorted(keys, key=expectation.is_key) == keys


@pytest.mark.kernel
async def test_a_flow_is_recorded_from_its_first_packet_to_its_end() -> None:
    with trio.fail_after(90):
        async with record.scene() as scene:
            await scene.client.run("ping", "-n", "-c", "1", "-W", "5", "-I", topology.SNAT4, topology.SERVER4)
            await scene.command("conntrack", "-F")
    steps = [step for step in scene.gate.steps if any(flow_entry.protocol_of(key_of(e)) == 1 for e in step.events)]
    kinds = [flow_entry.parse(event[:8] + bytes(8) + event[16:]).kind for step in steps for event in step.events]
    assert kinds == [Kind.NEW, Kind.UPDATE, Kind.DESTROY]
    (new,), (update,), (end,) = ([key_of(row) for row in step.rows] or step.gone for step in steps)
    assert new == update == end
