from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ftfw.kernel import entry_digest, uapi
from ftfw.kernel.entry_digest import SALT_SIZE
from ftfw.kernel.event_selector import Selector
from ftfw.replication.bucket_digests import Scope, bucket_of
from ftfw.replication.store import Store
from tests.unit.conntrack import TCP, UDP, Conn, Expect, conn, connections, expectations, seq_adjust, tcp_info

SALT = bytes(range(SALT_SIZE))


def held(*messages: bytes) -> Store:
    store = Store()
    store.begin_snapshot()
    store.add_snapshot(messages)
    store.end_snapshot()
    return store


def of_store(store: Store, salt: bytes = SALT) -> dict[bytes, int]:
    return {key: number for slice_ in store.digests(salt) for key, number in slice_}


def of_dump(*messages: bytes) -> dict[bytes, int]:
    parts = Selector(passes=None, expectations=True, dropped=Counter()).dumped(messages).parts
    return dict(entry_digest.digests(entry_digest.dumped(parts), SALT))


@given(st.lists(connections(), max_size=12), st.lists(expectations(), max_size=3))
def test_a_dump_has_the_digests_of_the_store_that_took_it_in(flows: list[Conn], awaited: list[Expect]) -> None:
    messages = [each.full() for each in {each.key: each for each in flows}.values()]
    messages += [each.full() for each in awaited]
    assert of_dump(*messages) == of_store(held(*messages))


@given(connections(), st.integers(0, 2**32 - 1), st.sampled_from((0x00, 0x10, 0x20, 0x30)))
def test_what_changes_without_an_event_does_not_count(each: Conn, timeout: int, silent: int) -> None:
    changed = replace(each, timeout=timeout)
    if each.original.protocol == uapi.IPPROTO_TCP:
        each = replace(each, protoinfo=tcp_info(flags=(0x03, 0x03)))
        changed = replace(each, timeout=timeout, protoinfo=tcp_info(flags=(0x03 | silent, 0x03 | silent)))
    assert of_dump(each.full()) == of_dump(changed.full()) == of_store(held(each.full()))


def test_all_else_counts() -> None:
    different = [
        conn(),
        conn(ident=2),
        conn(mark=7),
        conn(status=uapi.IPS_CONFIRMED),
        conn(protoinfo=tcp_info(state=4)),
        conn(protoinfo=tcp_info(flags=(0x22, 0x13))),
        conn(protoinfo=tcp_info(scales=(7, 8))),
        conn(helper=b"ftp"),
        conn(labels=bytes(15) + b"\1"),
        conn(master=UDP),
        conn(sequence=seq_adjust(15)),
        conn(zone=3),
        conn(UDP),
    ]
    numbers = [number for each in different for number in of_dump(each.full()).values()]
    assert len(set(numbers)) == len(different)


def test_an_offloaded_flow_has_no_state_to_compare() -> None:
    offloaded = conn(status=uapi.IPS_CONFIRMED | uapi.IPS_OFFLOAD)
    assert of_dump(offloaded.full()) == of_dump(replace(offloaded, protoinfo=tcp_info(state=5)).full())


def test_a_mark_of_zero_is_none() -> None:
    told, untold = Store(), held(conn(helper=b"ftp").full())
    told.apply([conn(helper=b"ftp").new()])
    assert of_store(told) == of_store(untold)


def test_expectations_count_without_their_timeout() -> None:
    awaited = Expect(TCP, UDP)
    assert of_dump(awaited.full()) == of_dump(replace(awaited, timeout=awaited.timeout + 1).full())
    assert of_dump(awaited.full()) != of_dump(replace(awaited, flags=awaited.flags ^ uapi.NF_CT_EXPECT_INACTIVE).full())


def test_another_salt_makes_other_numbers() -> None:
    store = held(conn().full())
    assert of_store(store) != of_store(store, bytes(SALT_SIZE))


@given(st.lists(connections(), unique_by=lambda each: each.key, max_size=12), st.sets(st.integers(0, 7)))
def test_of_a_dump_what_is_within_some_buckets(flows: list[Conn], chosen: set[int]) -> None:
    found = Selector(passes=None, expectations=True, dropped=Counter()).dumped([each.full() for each in flows])
    within = entry_digest.within(Scope(3, chosen), found.messages, found.parts)
    assert sorted(within) == sorted(each.full() for each in flows if bucket_of(each.key, 3) in chosen)
