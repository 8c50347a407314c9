import struct
from dataclasses import replace

import pytest
from hypothesis import given

from ftfw.kernel import expectation, flow_entry, uapi
from ftfw.kernel.attributes import MalformedError
from ftfw.kernel.create import DOUBTED_S, PINNED_S
from tests.unit.conntrack import TCP, UDP, End, Expect, be16, be32, conn, expectations, walk

AWAITED = Expect(TCP, replace(UDP, source_port=0), timeout=17, class_=1)


def held(each: Expect) -> tuple[bytes, bytes]:
    attributes = flow_entry.parse(each.new()).attributes
    return expectation.key_of(attributes), expectation.value_of(attributes)


def made(each: Expect, zone: bytes = b"", *, pinned: bool = False) -> tuple[dict[int, bytes], dict[int, bytes]]:
    key, value = held(each)
    first, second = expectation.create(key, value, zone, sequence=6, pinned=pinned)
    family = uapi.AF_INET6 if ":" in each.expected.source else uapi.AF_INET
    flags = uapi.NLM_F_REQUEST | uapi.NLM_F_CREATE
    for number, message in ((6, first), (7, second)):
        assert struct.unpack_from("=IHHII", message) == (len(message), uapi.EXP_NEW, flags, number, 0)
        assert message[16:20] == bytes((family, 0, 0, 0))
    return walk(first[20:]), walk(second[20:])


@given(expectations())
def test_key_and_value(each: Expect) -> None:
    key, value = held(each)
    assert key == each.key
    assert expectation.is_key(key)
    assert not expectation.is_key(each.master.pack(1))
    assert not walk(key).keys() & walk(value).keys()
    assert uapi.CTA_EXPECT_ID not in walk(value)
    assert expectation.master_of(key) == conn(each.master).key
    assert expectation.helper_name(value) == each.helper.decode()


@given(expectations())
def test_what_was_announced_is_created_twice_for_its_timeout(each: Expect) -> None:
    first, second = made(each)
    assert first == second
    told = walk(each.new()[20:])
    for kind in (1, 2, 3, uapi.CTA_EXPECT_TIMEOUT, uapi.CTA_EXPECT_CLASS):
        assert first[kind] == told[kind]
    flags = int.from_bytes(first[uapi.CTA_EXPECT_FLAGS], "big")
    assert flags == each.flags & ~uapi.NF_CT_EXPECT_USERSPACE
    assert (uapi.CTA_EXPECT_HELP_NAME in first) == (each.helper == b"sip")
    assert (uapi.CTA_EXPECT_FN in first) == bool(each.function)
    assert first.get(uapi.CTA_EXPECT_NAT) == (told.get(uapi.CTA_EXPECT_NAT) if each.function else None)
    assert uapi.CTA_EXPECT_ZONE not in first


@pytest.mark.parametrize(("told", "given"), [(DOUBTED_S - 1, DOUBTED_S - 1), (DOUBTED_S, 300), (PINNED_S, 300)])
def test_a_hot_backups_pinned_timer_is_not_believed(told: int, given: int) -> None:
    each = replace(AWAITED, timeout=told)
    key, value = held(each)
    for body in (*made(each), walk(expectation.set_timeout(key, value, b"")[20:])):
        assert int.from_bytes(body[uapi.CTA_EXPECT_TIMEOUT], "big") == given


def test_the_masters_zone_goes_along() -> None:
    zone = be16(uapi.CTA_ZONE, 3)
    assert made(AWAITED, zone)[0][uapi.CTA_EXPECT_ZONE] == b"\0\x03"
    removal = expectation.delete(AWAITED.key, zone, sequence=5)
    flags = uapi.NLM_F_REQUEST
    assert struct.unpack_from("=IHHII", removal) == (len(removal), uapi.EXP_DELETE, flags, 5, 0)
    assert walk(removal[20:]) == walk(AWAITED.key) | {uapi.CTA_EXPECT_ZONE: b"\0\x03"}
    assert walk(expectation.delete(AWAITED.key, b"", sequence=5)[20:]) == walk(AWAITED.key)


def test_a_pinned_one_does_not_run_out() -> None:
    assert made(AWAITED, pinned=True)[1][uapi.CTA_EXPECT_TIMEOUT] == struct.pack(">I", PINNED_S)


def test_an_expectation_without_flags_gets_none() -> None:
    first, _ = expectation.create(AWAITED.key, be32(uapi.CTA_EXPECT_TIMEOUT, 9), b"", sequence=0, pinned=False)
    assert walk(first[20:])[uapi.CTA_EXPECT_FLAGS] == bytes(4)


def test_the_family_is_the_expected_flows() -> None:
    six = End("2001:db8::1", "2001:db8::2", 0, 2, uapi.IPPROTO_TCP)
    first, _ = expectation.create(*held(Expect(replace(six, source_port=9), six)), b"", sequence=0, pinned=False)
    assert first[16] == uapi.AF_INET6


@pytest.mark.parametrize("lacking", expectation.KEY)
def test_without_its_tuples_it_has_no_key(lacking: int) -> None:
    attributes = flow_entry.parse(AWAITED.new()).attributes
    del attributes[lacking]
    with pytest.raises(MalformedError):
        expectation.key_of(attributes)


def test_one_that_names_no_helper_has_none() -> None:
    assert expectation.helper_name(b"") is None
