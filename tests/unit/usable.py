"""Do with a store all that a backup does with it, but for the kernel."""

from ftfw.kernel import create, expectation, flow_entry, uapi
from ftfw.kernel.attributes import BODY, payload, split
from ftfw.kernel.create import Timeouts
from ftfw.kernel.create_bulk import Creator
from ftfw.kernel.entry_digest import SALT_SIZE
from ftfw.replication.store import Store

TIMEOUTS = Timeouts()
# The kernel ignores the first; in the others bulk goes by the status, and one by one by the tuples.
UNTOLD = {uapi.CTA_ID, uapi.CTA_NAT_SRC, uapi.CTA_NAT_DST}


def use_everything(store: Store) -> None:
    """Show, commit, keep and delete everything: nothing of it may fail."""
    for flow in store.flows():
        assert flow.as_dict()["protocol"]
    for awaited in store.decoded_expectations():
        assert awaited.as_dict()["protocol"]
    for slice_ in store.digests(bytes(SALT_SIZE)):
        assert all(digest >> 32 == 0 for _, digest in slice_)
    creators = [Creator(TIMEOUTS, pinned=pinned) for pinned in (False, True)]
    for key, value in (store.plain | store.rich).items():
        for creator in creators:
            _create(creator, key, value)
        _use(key, value)
    for key, value in store.expectations.items():
        zone = store.zone_of(key)
        assert expectation.is_key(key)
        assert expectation.create(key, value, zone, sequence=1, pinned=False)
        assert expectation.create(key, value, zone, sequence=1, pinned=True)
        assert expectation.set_timeout(key, value, zone)
        assert expectation.delete(key, zone, sequence=1)


def _create(creator: Creator, key: bytes, value: bytes) -> None:
    """Create in bulk and one by one; compare what is rewritten (test_create_bulk compares all of it)."""
    fast, slow = (b"".join(parts(key, value, 1)) for parts in (creator.message_parts, creator.slow_parts))
    assert fast[4:BODY] == slow[4:BODY]
    told, expected = split(fast, BODY), split(slow, BODY)
    assert told.keys() - UNTOLD == expected.keys() - UNTOLD
    for kind in (uapi.CTA_TUPLE_ORIG, uapi.CTA_STATUS, uapi.CTA_TIMEOUT):
        assert payload(told[kind]) == payload(expected[kind]), kind


def _use(key: bytes, value: bytes) -> None:
    attributes = split(value)
    assert not expectation.is_key(key)
    assert flow_entry.family_of(key)
    assert create.without(create.create(key, value, timeouts=TIMEOUTS), uapi.CTA_TUPLE_MASTER)
    assert create.update(key, value, attributes, timeouts=TIMEOUTS)
    assert create.set_timeout(key, value, TIMEOUTS, pinned=True)
    create.updatable(value, attributes)
    assert flow_entry.found_by(key)
    master = attributes.get(uapi.CTA_TUPLE_MASTER)
    assert master is None or flow_entry.master_key(key, master)
    assert flow_entry.reply_name(key, value)
    assert flow_entry.helper_kind((key, value))
    assert flow_entry.timeout_of(attributes) >= 0
    flow_entry.is_fixed(attributes)
