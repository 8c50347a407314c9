import sys
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftfw.config.schema import Replicate
from ftfw.kernel import event_selector, flow_entry, message_run, uapi
from ftfw.kernel.attributes import MalformedError
from ftfw.kernel.event_selector import KEYS_PER_REQUEST, Selected, Selector
from ftfw.kernel.flow_filter import compile_filter
from ftfw.kernel.message_run import Run
from ftfw.kernel.message_shapes import SHAPES
from ftfw.kernel.validate import Checker
from ftfw.replication.store import Store
from tests.unit.conntrack import (
    TCP,
    UDP,
    Conn,
    End,
    Expect,
    attribute,
    conn,
    connections,
    expectations,
    flow_messages,
    inverse,
    nest,
    netlink,
    seq_adjust,
    tcp_info,
    walk,
)

ICMP = End("192.0.2.1", "198.51.100.2", 7, 0, uapi.IPPROTO_ICMP, icmp=(8, 0))
SIX = End("2001:db8::1", "2001:db8::2", 7, 8, uapi.IPPROTO_TCP)
any_message = flow_messages() | st.builds(Expect.new, expectations()) | st.builds(Expect.destroy, expectations())


def selector(
    *excluded: str, only: Replicate | None = None, expectations: bool | tuple[str, ...] = True
) -> tuple[Selector, Counter[str]]:
    dropped: Counter[str] = Counter()
    made = Selector(passes=compile_filter(only) if only else None, expectations=expectations, dropped=dropped)
    made.excluded = frozenset(ip_address(address).packed for address in excluded)
    return made, dropped


def selected(*messages: bytes, excluded: tuple[str, ...] = (), only: Replicate | None = None) -> list[bytes]:
    made, dropped = selector(*excluded, only=only)
    found = made.select(messages).messages
    assert not dropped
    return found


def about(message: bytes) -> bytes:
    """Return what a message is about: its first attribute, a flow's or an expectation's tuple, and its zone."""
    return next(iter(walk(message).items()))[1] + walk(message).get(uapi.CTA_ZONE, b"")


@given(st.lists(any_message, max_size=12))
def test_everything_is_selected_by_default_and_what_is_about_one_flow_in_its_order(messages: list[bytes]) -> None:
    found = selected(*messages)
    assert sorted(found) == sorted(messages)
    for flow in set(map(about, messages)):
        assert [m for m in found if about(m) == flow] == [m for m in messages if about(m) == flow]


@settings(max_examples=300)
@given(st.data())
def test_a_batch_in_any_order_leaves_a_store_as_one_by_one(data: st.DataObject) -> None:
    """Few tuples, so that flows end and begin again, with and without marks, in one batch."""
    ends = [replace(end, source_port=port) for end in (TCP, UDP) for port in (1, 2)]
    there = dict.fromkeys(ends, True)
    messages = []
    for _ in range(data.draw(st.integers(1, 25))):
        end = data.draw(st.sampled_from(ends))
        zone = 4 if end.source_port == 1 else None
        each = conn(end, mark=data.draw(st.sampled_from((0, 5))), zone=zone, timeout=data.draw(st.integers(1, 99)))
        if not there[end]:
            messages.append(each.new())
        elif data.draw(st.booleans()):
            messages.append(each.update("protoinfo"))
            continue
        else:
            messages.append(each.destroy(timeout=data.draw(st.booleans())))
        there[end] = not there[end]
    one_by_one, batch = Store(), Store()
    one_by_one.apply(messages)
    made, _ = selector()
    for part in made.select(messages).parts:
        batch.apply(part)
    assert (batch.plain, batch.rich) == (one_by_one.plain, one_by_one.rich)


def test_plain_messages_are_gathered_into_runs() -> None:
    made, _ = selector()
    flows = [conn(replace(TCP, source_port=port)) for port in range(8)]
    [new, ended] = made.select([m for each in flows for m in (each.new(), conn(UDP).destroy())]).parts
    assert isinstance(new, Run)
    assert isinstance(ended, Run)
    assert new.split() == [each.new() for each in flows]


@given(st.lists(connections(), min_size=1, max_size=6), st.sets(st.integers(1, 8)))
def test_flows_from_excluded_sources_are_not(some: list[Conn], numbers: set[int]) -> None:
    excluded = tuple(f"192.0.2.{n}" for n in numbers) + tuple(f"2001:db8::{n:x}" for n in numbers)
    messages = [m for each in some for m in (each.new(), each.update(), each.full(), each.destroy())]
    flows = [each for each in some for _ in range(4)]
    expected = [
        message
        for message, each in zip(messages, flows, strict=True)
        if each.original.source not in excluded and each.reply.source not in excluded
    ]
    assert sorted(selected(*messages, excluded=excluded)) == sorted(expected)


@pytest.mark.parametrize("end", [TCP, SIX, replace(UDP, zone=3)])
def test_original_and_reply_source_count_and_destinations_do_not(end: End) -> None:
    each = conn(end)
    assert selected(each.new(), excluded=(end.source,)) == []
    assert selected(each.new(), excluded=(end.destination,)) == []  # untranslated, it is the reply's source
    public, inside = ("203.0.113.1", "192.0.2.80") if ":" not in end.source else ("2001:db8::99", "2001:db8::80")
    snat = conn(end, reply=replace(inverse(end), destination=public))
    assert selected(snat.new(), excluded=(public,)) == [snat.new()]
    dnat = conn(end, reply=replace(inverse(end), source=inside))
    assert selected(dnat.new(), excluded=(end.destination,)) == [dnat.new()]
    assert selected(dnat.new(), excluded=(inside,)) == []


@pytest.mark.parametrize("zone", [None, 3])
def test_the_end_of_a_flow_is_selected_that_was_before_its_source_became_an_address_of_this_host(
    zone: int | None,
) -> None:
    """Without it a backup would hold the flow for ever."""
    made, _ = selector("192.0.2.99")
    flows = [conn(replace(TCP, source_port=port), zone=zone) for port in range(6)]
    awaited = Expect(TCP, UDP)
    store = Store()
    store.apply(made.select([*(each.new() for each in flows), awaited.new()]).messages)
    assert (store.flow_count(), len(store.expectations)) == (6, 1)
    made.excluded = frozenset(ip_address(address).packed for address in ("192.0.2.99", TCP.source))
    assert made.select([each.update("protoinfo") for each in flows]).messages == []
    store.apply(made.select([*(each.destroy() for each in flows), awaited.destroy()]).messages)
    assert (store.flow_count(), len(store.expectations)) == (0, 0)


def test_the_end_of_a_flow_that_was_always_this_host_s_is_not_selected() -> None:
    made, _ = selector(TCP.source, "192.0.2.99")
    flows = [conn(replace(TCP, source_port=port)) for port in range(6)]
    assert made.select([each.new() for each in flows]).messages == []
    made.excluded = frozenset({ip_address(TCP.source).packed})
    assert made.select([each.destroy() for each in flows]).messages == []
    made.excluded = frozenset()
    made.excluded = frozenset({ip_address(TCP.source).packed})
    assert len(made.select([each.destroy() for each in flows]).messages) == 6, "some may have begun meanwhile"


LOOPBACK = replace(TCP, source="127.0.0.2", destination="127.0.0.3")
LOOPBACK6 = replace(SIX, source="::1", destination="::1")


@pytest.mark.parametrize("count", [1, 8])  # one by one, and as a run
@pytest.mark.parametrize("end", [LOOPBACK, LOOPBACK6])
def test_loopback_is_never_selected_whatever_its_addresses(end: End, count: int) -> None:
    flows = [conn(replace(end, source_port=port)) for port in range(count)]
    marked = [replace(each, helper=b"ftp") for each in flows]  # no plain shape
    assert selected(*(each.new() for each in flows + marked)) == []


def test_a_run_loses_its_loopback_and_nothing_else() -> None:
    inside = [conn(replace(LOOPBACK, source_port=port)) for port in range(4)]
    redirected = [conn(TCP, reply=replace(inverse(TCP), source="127.0.0.1", source_port=port)) for port in range(4)]
    others = [conn(replace(end, source_port=port)) for end in (TCP, SIX) for port in range(4)]
    alike = [conn(replace(TCP, source="127.0.0.2".replace("127", "126"), source_port=port)) for port in range(4)]
    seven = [conn(replace(SIX, source="7f00::1", source_port=port)) for port in range(4)]
    kept = [each.new() for each in others + alike + seven]
    assert sorted(selected(*(each.new() for each in inside + redirected), *kept)) == sorted(kept)


def test_an_expectation_is_excluded_with_its_master() -> None:
    awaited = Expect(TCP, UDP)
    assert selected(awaited.new(), awaited.destroy(), excluded=(TCP.source,)) == []


def test_what_an_administrator_does_is_streamed_under_no_port_id() -> None:
    foreign = bytearray(conn().destroy())
    foreign[8:16] = b"\x01\0\0\0\x02\0\0\0"
    assert selected(bytes(foreign)) == [conn().destroy()]


# Hints


def hints(*messages: bytes) -> set[bytes]:
    made, _ = selector()
    return made.select(messages).hints


@given(connections(plain=True))
def test_plain_flows_hint_at_nothing(each: Conn) -> None:
    assert hints(each.new(), each.update("protoinfo"), each.full(), each.destroy()) == set()


def test_a_related_flow_hints_at_its_master() -> None:
    assert hints(conn(UDP, master=TCP).new()) == {conn(TCP).key}
    assert hints(conn(UDP, master=TCP, zone=3).new()) == {conn(TCP, zone=3).key}
    assert hints(conn(UDP, master=TCP).full()) == set()


def test_shifted_sequence_numbers_hint_at_their_flow() -> None:
    shifted = conn(helper=b"ftp", status=8 | uapi.IPS_SEQ_ADJUST)
    assert hints(shifted.update()) == {shifted.key}
    assert hints(shifted.destroy(), replace(shifted, sequence=seq_adjust(15)).full()) == set()


def test_what_a_process_has_changed_hints_at_its_flow() -> None:
    """The event of labels that were taken off does not differ from one about something else."""
    new, update, destroy = (
        told[:12] + (4242).to_bytes(4, sys.byteorder) + told[16:]
        for told in (conn().new(), conn().update(), conn().destroy())
    )
    assert hints(update) == {conn().key}
    assert hints(new, destroy) == set()


def test_follow_asks_about_so_many_flows_at_a_time() -> None:
    asked: list[int] = []

    def read(keys: list[bytes]) -> list[bytes]:
        asked.append(len(keys))
        return [conn(replace(TCP, source_port=int.from_bytes(key, "big"))).full() for key in keys]

    made = Selector(passes=None, expectations=True, dropped=Counter(), read=read)
    answers = list(made.read_hinted({number.to_bytes(2, "big") for number in range(KEYS_PER_REQUEST + 1)}))
    assert asked == [KEYS_PER_REQUEST, 1]
    assert [len(answer.messages) for answer in answers] == asked


def test_an_expectation_hints_at_its_master_in_every_zone_that_has_helpers() -> None:
    awaited = Expect(TCP, UDP)
    assert hints(awaited.new()) == {conn(TCP).key}
    assert hints(conn(SIX, zone=3, helper=b"ftp").new(), awaited.new()) == {conn(TCP).key, conn(TCP, zone=3).key}
    assert hints(awaited.destroy()) == set()


def test_what_is_not_selected_hints_at_nothing() -> None:
    made, _ = selector(UDP.source)
    assert made.select([conn(UDP, master=SIX).new(), Expect(UDP, TCP).new()]) == Selected()


# Expectations and their masters


FTP = conn(TCP, helper=b"ftp")


def expected(*known: Conn, excluded: str = "", only: Replicate | None = None) -> list[bytes]:
    """Return what is selected of an expectation's beginning and end, with a kernel that has these flows."""
    dropped: Counter[str] = Counter()
    kernel = {each.key: each.full() for each in known}
    made = Selector(
        passes=compile_filter(only) if only else None,
        expectations=True,
        dropped=dropped,
        read=lambda keys: [kernel[key] for key in keys if key in kernel],
    )
    made.excluded = frozenset(ip_address(address).packed for address in excluded.split())
    made.select([each.new() for each in known])
    awaited = Expect(TCP, UDP)
    found = made.select([awaited.new(), awaited.destroy()]).messages
    assert not dropped
    return [message for message in found if message == awaited.new()]


def test_an_expectation_is_selected_by_its_master_s_reply_too() -> None:
    inside = replace(FTP, reply=replace(inverse(TCP), source="192.0.2.80"))
    assert expected(FTP)
    assert expected(inside, excluded=TCP.destination), "behind this address, not at it"
    assert not expected(FTP, excluded=TCP.destination)
    assert not expected(inside, excluded="192.0.2.80")


def test_an_expectation_is_filtered_with_its_master() -> None:
    for keys, passes in (
        ({"protocols": ["tcp"]}, True),
        ({"protocols": ["udp"]}, False),
        ({"addresses": [TCP.destination]}, True),
        ({"addresses": ["203.0.113.77"]}, False),
        ({"mark": "1"}, False),
        ({"zones": [3]}, False),
        ({"zones": [0]}, True),
    ):
        assert bool(expected(FTP, only=Replicate.model_validate(keys))) is passes, keys


def test_the_master_is_the_flow_with_the_helper_whatever_its_zone() -> None:
    zoned = conn(TCP, zone=3, helper=b"ftp")
    bare = conn(TCP)
    assert expected(bare, zoned, only=Replicate.model_validate({"zones": [3]}))
    assert not expected(bare, zoned, only=Replicate.model_validate({"zones": [0]}))
    assert expected(FTP, zoned, only=Replicate.model_validate({"zones": [3]})), "one of two that may be meant"


def test_an_expectation_whose_master_is_not_found_is_selected() -> None:
    assert expected(only=Replicate.model_validate({"zones": [3]}))


def test_a_master_is_looked_for_in_so_many_zones_at_a_time() -> None:
    """One request for all of them would overflow the socket's buffer with answers."""
    zones = range(1, 3 * KEYS_PER_REQUEST)
    master = conn(TCP, zone=zones[-1], helper=b"ftp")
    asked: list[int] = []

    def read(keys: list[bytes]) -> list[bytes]:
        asked.append(len(keys))
        return [master.full()] if master.key in keys else []

    made = Selector(
        passes=compile_filter(Replicate.model_validate({"zones": [1]})),
        expectations=True,
        dropped=Counter(),
        read=read,
    )
    made.select([conn(SIX, zone=zone, helper=b"ftp").new() for zone in zones])
    assert made.select([Expect(TCP, UDP).new()]).messages == []
    assert sum(asked) == len(zones) + 1
    assert max(asked) <= KEYS_PER_REQUEST


# The filter


TCP_ONLY = Replicate(protocols=("tcp",))  # type: ignore[arg-type]


def test_flows_that_do_not_pass_are_left_out() -> None:
    tcp, udp = conn(TCP), conn(UDP)
    assert selected(tcp.new(), udp.new(), tcp.full(), udp.full(), only=TCP_ONLY) == [tcp.new(), tcp.full()]


def test_what_becomes_of_a_flow_that_never_passes_is_left_out_too() -> None:
    assert selected(conn(UDP).update(), conn(UDP).destroy(), only=TCP_ONLY) == []
    assert selected(conn(UDP, zone=3).update(), conn(UDP, zone=3).destroy(), only=TCP_ONLY) == []


@pytest.mark.parametrize("keys", [{"protocols": ["tcp"], "mark": "1"}, {"protocols": [17], "tcp_states": ["CLOSE"]}])
@pytest.mark.parametrize("zone", [None, 3])
def test_a_protocol_that_never_passes_is_left_out_whatever_else_may_change(keys: Any, zone: int | None) -> None:
    only = Replicate.model_validate(keys)
    out = conn(UDP if "mark" in keys else TCP, zone=zone)
    assert selected(out.update("protoinfo"), out.destroy(), only=only) == []


def test_ends_pass_where_the_flow_may_have_passed_once() -> None:
    marked, closed = Replicate(mark="1"), Replicate(tcp_states=("CLOSE",))  # type: ignore[arg-type]
    for zone in (None, 3):
        tcp, udp = conn(TCP, zone=zone).destroy(), conn(UDP, zone=zone).destroy()
        assert selected(tcp, udp, only=marked) == [tcp, udp]
        assert selected(tcp, udp, only=closed) == [tcp, udp]


@pytest.mark.parametrize(
    "keys",
    [
        {"protocols": ["tcp", "icmpv6"]},
        {"addresses": ["192.0.2.0/30", "2001:db8::/126"]},
        {"ports": ["1-2000", "40000-65535"]},
        {"zones": [0, 1]},
        {"zones": [65535]},
        {"mark": "1/1"},
        {"mark": "0"},
        {"tcp_states": ["ESTABLISHED", "CLOSE"]},
        {"protocols": ["tcp"], "mark": "1/1"},
        {"protocols": ["tcp", "udp"], "addresses": ["192.0.2.0/29", "::/0"], "mark": "0/2", "tcp_states": ["SYN_SENT"]},
    ],
)
@given(st.lists(flow_messages(connections(plain=True)) | flow_messages(), max_size=12))
def test_a_filter_does_the_same_to_plain_messages_and_to_all_others(keys: Any, messages: list[bytes]) -> None:
    """By the bytes that it is about, or decoded."""
    only = Replicate.model_validate(keys)
    by_shape = selector(only=only)[0].select(messages)
    with patch.dict(SHAPES, clear=True):
        decoded = selector(only=only)[0].select(messages)
    assert sorted(by_shape.messages) == sorted(decoded.messages)
    assert by_shape.hints == decoded.hints
    for flow in set(map(about, decoded.messages)):
        assert [m for m in by_shape.messages if about(m) == flow] == [m for m in decoded.messages if about(m) == flow]


@pytest.mark.parametrize("end", [TCP, SIX, UDP, ICMP])
def test_plain_messages_are_not_decoded_for_a_filter(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter on what cannot change decodes no plain message; another filter decodes only updates."""
    monkeypatch.setattr(flow_entry, "parse", None)
    fixed = {
        "protocols": ["tcp"],
        "addresses": ["192.0.2.0/24", "::/0"],
        "ports": [7, 1024, "40000-65535"],
        "zones": [0],
    }
    each = conn(end)
    told = [each.new(), each.update("protoinfo"), each.full(), each.destroy()]
    for only in (fixed, {"protocols": [end.protocol]}):
        found = selected(*told, only=Replicate.model_validate(only))
        assert found == (told if end.protocol == uapi.IPPROTO_TCP or only is not fixed else [])
    changing = {"mark": "0/1", "tcp_states": ["ESTABLISHED"]}
    told = [each.new(), each.full(), each.destroy()]
    assert selected(*told, only=Replicate.model_validate(changing)) == told


def test_an_update_that_passes_no_more_ends_the_flow_for_the_peer() -> None:
    marked = Replicate(mark="1")  # type: ignore[arg-type]
    for zone in (None, 3):
        before, after = conn(mark=1, zone=zone), conn(mark=0, zone=zone)
        first, second = selected(before.update(), after.update("mark"), only=marked)
        assert first == before.update()
        store = Store()
        store.apply([first])
        assert store.flow_count() == 1
        store.apply([second])
        assert store.flow_count() == 0
        assert not store.dropped


def test_tcp_states() -> None:
    established = Replicate(tcp_states=("ESTABLISHED",))
    opening, opened = conn(protoinfo=tcp_info(1)), conn(protoinfo=tcp_info(3))
    silent = opened.update()
    assert selected(opening.new(), opened.update("protoinfo"), silent, only=established) == [
        opened.update("protoinfo"),
        silent,
    ]


@pytest.mark.parametrize(
    ("keys", "hinted"),
    [
        ({"tcp_states": ["ESTABLISHED"]}, {TCP}),
        ({"mark": "0x10/0x10"}, {TCP, UDP}),
        ({"protocols": ["tcp", "udp"], "addresses": ["0.0.0.0/0"], "ports": ["0-65535"], "zones": [0]}, set()),
    ],
)
def test_an_update_that_may_be_the_first_to_pass_hints_at_its_flow(keys: dict[str, Any], hinted: set[End]) -> None:
    only = Replicate.model_validate(keys)
    made, _ = selector(only=only)
    flows = [conn(TCP, protoinfo=tcp_info(3), mark=0x10), conn(UDP, mark=0x10)]
    assert made.select([each.new() for each in flows]).hints == set(), "a beginning tells all"
    assert made.select([each.update("protoinfo", "mark") for each in flows]).hints == {conn(end).key for end in hinted}
    assert made.select([each.full() for each in flows]).hints == set()


def test_an_answer_that_does_not_pass_ends_the_flow_for_the_peer() -> None:
    """An UPDATE that does not tell the state passes: only the answer knows that it should not have."""
    made, _ = selector(only=Replicate.model_validate({"tcp_states": ["ESTABLISHED"]}))
    closing = conn(protoinfo=tcp_info(7))
    store = Store()
    update = made.select([closing.update("mark")])
    store.apply(update.messages)
    assert update.hints == {closing.key}
    assert store.flow_count() == 1
    store.apply(made.answers([closing.full()]).messages)
    assert store.flow_count() == 0
    assert made.select([closing.full()]).messages == [], "a snapshot names what passes, and nothing else"


@pytest.mark.parametrize(
    ("wanted", "streamed"), [(True, ["ftp", "sip"]), (False, []), (("sip",), ["sip"]), (("tftp",), [])]
)
def test_expectations_by_helper(wanted: bool | tuple[str, ...], streamed: list[str]) -> None:
    made, _ = selector(expectations=wanted)
    found = {name: Expect(TCP, replace(UDP, source_port=0), helper=name.encode()) for name in ("ftp", "sip")}
    messages = made.select([m for each in found.values() for m in (each.new(), each.full(), each.destroy())]).messages
    assert messages == [m for name in streamed for m in (found[name].new(), found[name].full(), found[name].destroy())]


# Bad input


def has_shape(message: bytes) -> bool:
    shapes = SHAPES.get(message_run.prefix_of(message))
    return shapes is not None and message_run.of_kernel(shapes, [message]) is not None


def is_valid(message: bytes) -> bool:
    try:
        Checker().check(message, flow_entry.parse(message))
    except MalformedError:
        return False
    return True


@settings(max_examples=25)
@given(any_message, st.integers(0, 1 << 32), st.booleans())
def test_damaged_messages_are_counted_unless_they_are_whole_still(message: bytes, seed: int, filtered: bool) -> None:
    """In messages that have a shape only some bytes are looked at: they are the kernel's."""
    random = Random(seed)
    for _ in range(20):
        damaged = bytearray(message)
        for _ in range(random.randrange(1, 4)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        if random.random() < 0.3:
            del damaged[random.randrange(len(damaged)) :]
        made, dropped = selector("192.0.2.1", only=TCP_ONLY if filtered else None, expectations=("ftp",))
        found = made.select([bytes(damaged)]).messages
        told = bytes(damaged[:8]) + bytes(len(damaged[8:16])) + bytes(damaged[16:])
        is_whole = has_shape(bytes(damaged)) or is_valid(told)
        assert dropped == ({} if is_whole else {"malformed": 1})
        assert found in ([], [told] if is_whole else [])


@pytest.mark.parametrize("short", [b"", b"\0", conn().new()[:15], conn().new()[:18], conn().new()[:60]])
@pytest.mark.parametrize("only", [None, TCP_ONLY])
def test_what_is_no_message_is_counted(short: bytes, only: Replicate | None) -> None:
    made, dropped = selector(only=only)
    assert made.select([short, conn().new()]).messages == [conn().new()]
    assert dropped == {"malformed": 1}


@pytest.mark.parametrize("told", [b"", conn().key], ids=["no tuple", "one tuple"])
def test_an_answer_about_a_master_that_is_not_whole_is_counted(told: bytes) -> None:
    helped = netlink(uapi.CT_NEW, 0, uapi.AF_INET, told + nest(uapi.CTA_HELP, attribute(uapi.CTA_HELP_NAME, b"ftp\0")))
    dropped: Counter[str] = Counter()
    made = Selector(passes=None, expectations=True, dropped=dropped, read=lambda _: [helped])
    assert made.select([Expect(TCP, UDP).new()]).messages == []
    assert dropped == {"malformed": 1}


def test_a_flow_without_tuples_is_counted() -> None:
    made, dropped = selector("192.0.2.1")
    bare = netlink(uapi.CT_NEW, 0x600, uapi.AF_INET, b"")
    half = netlink(uapi.CT_NEW, 0x600, uapi.AF_INET, conn().key)
    hollow = netlink(uapi.CT_NEW, 0x600, uapi.AF_INET, b"\x04\0\x01\x80\x04\0\x02\x80")
    assert made.select([bare, half, hollow]).messages == []
    assert dropped == {"malformed": 3}


@given(connections())
def test_the_key_in_a_message(each: Conn) -> None:
    assert event_selector.key_in(each.full()) == each.key
    assert walk(event_selector.key_in(each.new())).keys() <= {uapi.CTA_TUPLE_ORIG, uapi.CTA_ZONE}
