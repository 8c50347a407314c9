import struct
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ftfw.kernel import create, uapi
from ftfw.kernel.create import CREATE, DOUBTED_S, Timeouts
from ftfw.kernel.create_bulk import BATCH, STATES_MAX, Creator
from tests.unit.conntrack import UDP, Conn, End, attribute, conn, connections, inverse, walk

TIMEOUTS = Timeouts(tcp_established=1000, udp=31, udp_stream=121, icmp=32, icmpv6=33, gre=34, gre_stream=181)


def created(each: Conn, *, pinned: bool = False) -> dict[int, bytes]:
    """Return what `create` makes, one by one."""
    return walk(create.create(each.key, each.held(), timeouts=TIMEOUTS, pinned=pinned))


def assert_same(each: Conn, creator: Creator, sequence: int, *, pinned: bool) -> None:
    message = b"".join(creator.message_parts(each.key, each.held(), sequence))
    assert struct.unpack_from("=IHHII", message) == (len(message), uapi.CT_NEW, CREATE, sequence, 0)
    assert message[16:20] == bytes((each.family, 0, 0, 0))
    found = walk(message[20:])
    found.pop(uapi.CTA_ID, None)  # ignored by the kernel, so that it need not be cut out
    assert found == created(each, pinned=pinned)


@given(
    st.lists(connections(plain=True) | connections(), max_size=8),
    st.booleans(),
    st.integers(0, BATCH - 1),
)
def test_the_fast_way_equals_the_slow_one(some: list[Conn], pinned: bool, sequence: int) -> None:
    creator = Creator(TIMEOUTS, pinned=pinned)
    for each in some + some:
        assert_same(each, creator, sequence, pinned=pinned)


@given(connections(plain=True, protocols=(6, 17, 132)), st.sampled_from((0, 30, 5000, DOUBTED_S - 1, DOUBTED_S)))
def test_also_for_entries_that_were_restored_before(each: Conn, seconds: int) -> None:
    """Their flags need no rewriting: they may go out as they are held."""
    restored = replace(each, timeout=seconds)
    if each.original.protocol == uapi.IPPROTO_TCP:
        attributes = created(each)
        restored = replace(restored, protoinfo=attribute(4 | uapi.NLA_F_NESTED, attributes[uapi.CTA_PROTOINFO]))
    creator = Creator(TIMEOUTS, pinned=False)
    for zone in (None, 3):
        assert_same(replace(restored, zone=zone), creator, 0, pinned=False)


@given(connections(plain=True))
def test_nat_bits_without_a_translation_make_none(each: Conn) -> None:
    plain = replace(each, reply=inverse(each.original), status=each.status | uapi.IPS_SRC_NAT)
    assert_same(plain, Creator(TIMEOUTS, pinned=False), 0, pinned=False)
    assert not created(plain).keys() & {uapi.CTA_NAT_SRC, uapi.CTA_NAT_DST}


def test_more_states_than_are_kept_make_no_difference() -> None:
    creator = Creator(TIMEOUTS, pinned=False)
    for mark in range(1, STATES_MAX + 3):
        assert_same(conn(UDP, mark=mark), creator, 0, pinned=False)


def test_what_is_kept_of_one_family_is_not_taken_for_the_other() -> None:
    """A message with the size of another one ends a batch: the kernel reads on in the middle of the next."""
    creator = Creator(TIMEOUTS, pinned=False)
    six = End("2001:db8::1", "2001:db8::2", 40001, 53, uapi.IPPROTO_UDP)
    for tuple_ in (UDP, six, UDP):
        assert_same(conn(tuple_, timeout=600), creator, 0, pinned=False)
