import struct
from collections.abc import Callable
from dataclasses import replace
from random import Random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftfw.kernel import message_run
from ftfw.kernel.attributes import MalformedError
from ftfw.kernel.message_run import Run
from ftfw.kernel.message_shapes import DESTROY, SHAPES
from ftfw.replication.store import Store
from tests.unit.conntrack import TCP, UDP, Conn, End, conn, connections

MOST = 1 << 20
plain = st.lists(connections(plain=True, protocols=(6, 17)), min_size=1, max_size=12)


def run_of(messages: list[bytes]) -> Run | None:
    shapes = SHAPES.get(message_run.prefix_of(messages[0]))
    return message_run.of_kernel(shapes, messages) if shapes else None


def runs(some: list[Conn]) -> list[tuple[Run, list[bytes]]]:
    """Every run that can be made of these flows' messages, and the messages."""
    by_shape: dict[bytes, list[bytes]] = {}
    for each in some:
        for message in (each.new(), each.update("protoinfo"), each.full(), each.destroy()):
            by_shape.setdefault(message_run.prefix_of(message), []).append(message)
    made = [(run_of(messages), messages) for messages in by_shape.values()]
    return [(found, messages) for found, messages in made if found is not None]


def fixed_offsets(found: Run) -> list[int]:
    return [offset for offset, byte in enumerate(found.shape.mask.to_bytes(found.shape.size, "big")) if byte]


def useful(found: Run) -> Callable[[bytes], bytes]:
    """Blank what no other kernel can use, and is not sent: bytes that are neither fixed nor variable."""
    sent = {*fixed_offsets(found), *found.shape.variable_offsets}
    return lambda message: bytes(byte if offset in sent else 0 for offset, byte in enumerate(message))


def unpacked(found: Run, *, most: int = MOST) -> message_run.Part:
    return message_run.unpack_columns(*found.pack_columns(), most=most)


@given(plain)
def test_a_run_comes_back_from_its_columns(some: list[Conn]) -> None:
    for found, messages in runs(some):
        assert len(found) == len(messages)
        assert found.split() == messages
        again = unpacked(found)
        assert isinstance(again, Run)
        assert again.shape is found.shape
        assert list(map(useful(found), again.split())) == list(map(useful(found), messages))


@given(plain, st.integers(0, 12))
def test_a_run_is_cut_between_messages(some: list[Conn], count: int) -> None:
    for found, messages in runs(some):
        first, rest = found.cut(count)
        assert (first.split(), rest.split()) == (messages[:count], messages[count:])


@given(plain, st.lists(connections(), max_size=4), st.booleans(), st.booleans())
def test_a_store_takes_a_run_as_it_takes_its_messages(
    some: list[Conn], held: list[Conn], journal: bool, snapshot: bool
) -> None:
    for found, messages in runs(some):
        by_run, one_by_one = Store(journal=journal), Store(journal=journal)
        for store in (by_run, one_by_one):
            store.apply([each.new() for each in [*held, *some]])
            if snapshot:
                store.begin_snapshot()
        by_run.apply(found)
        one_by_one.apply(messages)
        for store in (by_run, one_by_one):
            if snapshot:
                store.end_snapshot()
        assert vars(by_run).keys() == vars(one_by_one).keys()
        for name in ("plain", "rich", "dropped", "_journal"):
            assert getattr(by_run, name) == getattr(one_by_one, name), name


def test_the_end_of_flows_by_a_run() -> None:
    some = [conn(UDP), conn(TCP)]
    for each in some:
        ends = run_of([each.destroy()])
        assert ends is not None
        assert ends.shape.kind == DESTROY
        store = Store()
        store.apply([other.new() for other in some])
        store.apply(ends)
        assert each.key not in store.plain
        assert store.flow_count() == 1


@pytest.mark.parametrize("end", [TCP, UDP])
def test_counters_and_timestamps_are_not_sent(end: End) -> None:
    def measured(number: int) -> Conn:
        return replace(conn(end), counters=(number, number + 1), began=number, event_time=number)

    for message_of in (Conn.new, Conn.update, Conn.full, Conn.destroy):
        if message_of is Conn.update and end is TCP:
            continue  # an UPDATE without protocol state is of no shape
        found = run_of([message_of(measured(number)) for number in range(9)])
        assert found is not None
        template, offsets, count, columns = found.pack_columns()
        assert (template, count) == (message_of(measured(0)), 9)
        assert offsets == columns == b""


def test_messages_of_two_shapes_are_no_run() -> None:
    messages = [conn(UDP).new(), conn(TCP).new()]
    assert message_run.of_kernel(SHAPES[message_run.prefix_of(messages[0])], messages) is None


@settings(max_examples=50)
@given(plain, st.integers(0, 1 << 32))
def test_another_versions_shape_gives_its_messages_one_by_one(some: list[Conn], seed: int) -> None:
    """Another version's messages may differ where our shape has something fixed."""
    random = Random(seed)
    for found, messages in runs(some):
        template, packed, count, columns = found.pack_columns()
        at = random.choice(fixed_offsets(found))
        packed += struct.pack(">H", at)
        other = random.randbytes(count)
        part = message_run.unpack_columns(template, packed, count, columns + other, most=MOST)
        assert isinstance(part, list)
        theirs, ours = map(useful(found), part), map(useful(found), messages)
        assert [message[:at] + message[at + 1 :] for message in theirs] == [m[:at] + m[at + 1 :] for m in ours]
        assert bytes(message[at] for message in part) == other


@given(plain, st.integers(0, 1 << 32))
def test_what_is_wrong_in_the_first_message_is_not_taken_for_plain(some: list[Conn], seed: int) -> None:
    random = Random(seed)
    for found, _ in runs(some):
        template, packed, count, columns = found.pack_columns()
        damaged = bytearray(template)
        damaged[random.choice(fixed_offsets(found))] ^= 1
        part = message_run.unpack_columns(bytes(damaged), packed, count, columns, most=MOST)
        assert isinstance(part, list) or part.shape != found.shape


@pytest.mark.parametrize(
    ("template", "places", "count", "columns"),
    [
        (b"", b"", 0, b""),
        (b"abcd", b"", 0, b""),
        (b"abcd", b"", -1, b""),
        (b"abcd", b"\0", 1, b"x"),
        (b"abcd", b"\0\4", 1, b"x"),  # a place behind the end
        (b"abcd", b"\0\1\0\2", 2, b"xyz"),  # three bytes in two columns
        (b"abcd", b"\0\1", MOST // 4 + 1, bytes(MOST // 4 + 1)),
        (b"abcd", b"", 1 << 62, b""),
    ],
)
def test_what_is_no_run(template: bytes, places: bytes, count: int, columns: bytes) -> None:
    with pytest.raises(MalformedError):
        message_run.unpack_columns(template, places, count, columns, most=MOST)


def test_places_are_remembered_of_shapes_only_and_no_more_than_they_have() -> None:
    message_run.known_offsets.cache_clear()
    shaped = conn(TCP).new()
    for template in (b"abcd", shaped):
        with pytest.raises(MalformedError):
            message_run.unpack_columns(template, b"\1\0" * 100_000, 1, b"", most=MOST)
    assert message_run.known_offsets.cache_info().currsize == 0
    assert message_run.unpack_columns(shaped, b"\0\x24", 2, b"xy", most=MOST)
    assert message_run.known_offsets.cache_info().currsize == 1


@settings(max_examples=200)
@given(st.binary(max_size=60), st.binary(max_size=9), st.integers(0, 9), st.binary(max_size=50))
def test_any_bytes_are_messages_or_malformed(template: bytes, places: bytes, count: int, columns: bytes) -> None:
    try:
        part = message_run.unpack_columns(template, places, count, columns, most=MOST)
    except MalformedError:
        return
    messages = part.split() if isinstance(part, Run) else part
    assert [len(message) for message in messages] == [len(template)] * count


def test_a_run_takes_a_fraction_of_its_messages_room() -> None:
    messages = [conn(TCP).new()] * 100
    found = run_of(messages)
    assert found is not None
    wire = msgpack.packb(found.pack_columns())
    assert len(wire) < len(b"".join(messages)) / 10
