from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.replication import bucket_digests
from ftfw.replication.bucket_digests import Digests, Scope, bits_for, bucket_of
from ftfw.replication.limits import BUCKET_BITS_MAX, BUCKET_ENTRIES

keys = st.lists(st.binary(min_size=1, max_size=60), unique=True, max_size=40)
numbers = st.integers(0, 2**32 - 1)
bits = st.integers(0, 8)
scopes = bits.flatmap(lambda count: st.builds(Scope, st.just(count), st.sets(st.integers(0, 2**count - 1))))


@given(keys, bits)
def test_an_entry_is_in_the_bucket_that_the_end_of_its_keys_crc_names(found: list[bytes], count: int) -> None:
    for key in found:
        assert bucket_of(key, count) == crc32(key) % 2**count
        assert key in Scope(count, {bucket_of(key, count)})
        assert key not in Scope(count, set(range(2**count)) - {bucket_of(key, count)})


@given(st.dictionaries(st.binary(min_size=1, max_size=60), numbers, max_size=40), bits)
def test_a_table_folds_into_what_fewer_buckets_had_made_of_it_in_any_order(found: dict[bytes, int], count: int) -> None:
    many, few = Digests(10), Digests(count)
    many.add(found.items())
    few.add(reversed(found.items()))
    folded = many.folded(count)
    assert (folded.numbers, folded.count, folded.bits) == (few.numbers, len(found), count)
    assert not set().union(*folded.differing(few.numbers))


@given(st.dictionaries(st.binary(min_size=1, max_size=60), numbers, min_size=1, max_size=40), st.data())
def test_an_entry_with_another_digest_shows_in_its_bucket_and_no_other(
    found: dict[bytes, int], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(found)))
    ours, theirs = Digests(6), Digests(6)
    ours.add(found.items())
    theirs.add((found | {key: found[key] ^ data.draw(st.integers(1, 2**32 - 1))}).items())
    assert set().union(*ours.differing(theirs.numbers)) == {bucket_of(key, 6)}


@given(scopes, st.integers(1, 50))
def test_buckets_come_back_from_their_pieces(scope: Scope, most: int) -> None:
    pieces = list(scope.pack(most))
    assert all(len(piece) <= 4 * most for piece in pieces)
    assert {number for piece in pieces for number in bucket_digests.unpack(scope.bits, piece).buckets} == scope.buckets


@pytest.mark.parametrize(
    ("count", "packed"),
    [
        (3, b""),
        (3, b"\0\0\0\x08"),
        (3, b"\0\0\0"),
        (0, b"\0\0\0\1"),
        (BUCKET_BITS_MAX + 1, b"\0\0\0\0"),
        (-1, b"\0\0\0\0"),
    ],
)
def test_buckets_that_are_none_are_refused(count: int, packed: bytes) -> None:
    with pytest.raises(ValueError, match="bytes of buckets"):
        bucket_digests.unpack(count, packed)


@given(st.integers(0, 2**24))
def test_buckets_hold_a_few_entries_each(entries: int) -> None:
    count = bits_for(entries)
    assert 0 <= count <= BUCKET_BITS_MAX
    assert entries <= BUCKET_ENTRIES * 2**count or count == BUCKET_BITS_MAX
    assert count == 0 or 2**count <= 2 * max(entries, BUCKET_ENTRIES) / BUCKET_ENTRIES


@given(scopes, scopes)
def test_scopes_are_sets_of_buckets_of_one_count(one: Scope, other: Scope) -> None:
    alike = one.bits == other.bits
    assert one.meets(other) == (alike and bool(one.buckets & other.buckets))
    assert one.joined(other).buckets == (one.buckets | other.buckets if alike else one.buckets)
    left = one.without(other)
    assert (left.buckets if left else set()) == (one.buckets - other.buckets if alike else one.buckets)
