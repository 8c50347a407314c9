"""Targets: messages of conntrack, from a peer that has the key or from this kernel."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ftfw.config.schema import Replicate
from ftfw.kernel import entry_digest, uapi
from ftfw.kernel.attributes import MalformedError
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.flow_entry import as_full
from ftfw.kernel.flow_filter import compile_filter
from ftfw.kernel.message_run import Part, Run
from ftfw.kernel.netlink import slices
from ftfw.replication.bucket_digests import Scope
from ftfw.replication.store import Store
from tests.fuzz.reader import Reader, pieces
from tests.unit.conntrack import TCP, UDP, V6, Conn, End, Expect, conn, netlink, sctp_info, seq_adjust, synproxy_info
from tests.unit.usable import use_everything

__all__ = ["MalformedError"]

# Type and flags of every message that says something of an entry, and of one that does not.
HEADERS = (
    (uapi.CT_NEW, 0x600),
    (uapi.CT_NEW, 0),
    (uapi.CT_NEW, uapi.NLM_F_MULTI),
    (uapi.CT_DELETE, 0),
    (uapi.EXP_NEW, 0x600),
    (uapi.EXP_NEW, uapi.NLM_F_MULTI),
    (uapi.EXP_DELETE, 0),
    (uapi.CT_DELETE, 0x600),
)
FAMILIES = (uapi.AF_INET, uapi.AF_INET6)
BEGIN, PART, END, ABORT, ADD, LIVE = range(6)
ODD = Scope(1, {1})


def hold(data: bytes) -> None:
    """Any messages, live and in snapshots: what a store takes it can show and commit, the rest is counted."""
    reader = Reader(data)
    stores = (Store(journal=True), Store())
    while reader:
        what = reader.byte()
        message = _message(reader, what) if what & 7 >= ADD else b""
        for store in stores:
            _take(store, what & 7, message)
    for store in stores:
        use_everything(store)
    assert (stores[0].plain, stores[0].rich) == (stores[1].plain, stores[1].rich)
    assert (
        stores[0].take_changes().keys()
        >= stores[0].plain.keys() | stores[0].rich.keys() | stores[0].expectations.keys()
    )


def _message(reader: Reader, what: int) -> bytes:
    attributes = reader.piece()
    if what >> 3 == 31:
        return attributes
    return netlink(*HEADERS[what >> 3 & 7], FAMILIES[what >> 6 & 1], attributes)


def _take(store: Store, what: int, message: bytes) -> None:
    if what == BEGIN:
        store.begin_snapshot()
    elif what == PART:
        store.begin_snapshot(ODD, repair=True)
    elif what == ABORT or (what == ADD and not store.in_snapshot):
        store.abort_snapshot()
    elif what == ADD:
        store.add_snapshot([message])
    elif what == END:
        if store.in_snapshot:
            store.end_snapshot()
    else:
        store.apply([message])


def conns() -> Iterator[Conn]:
    v6 = End(V6[0], V6[1], 1000, 80, uapi.IPPROTO_TCP)
    yield from (conn(), conn(UDP), conn(mark=1), conn(v6))
    yield conn(helper=b"ftp", labels=bytes(16), master=UDP, sequence=seq_adjust(15, 16), zone=2, mark=1)
    yield conn(End("192.0.2.1", "192.0.2.2", 7, 0, uapi.IPPROTO_ICMP))
    yield conn(End(V6[0], V6[1], 7, 0, uapi.IPPROTO_ICMPV6, icmp=(128, 0)))
    yield conn(End("192.0.2.1", "192.0.2.2", 7, 8, uapi.IPPROTO_GRE))
    yield conn(End("192.0.2.1", "192.0.2.2", 7, 8, uapi.IPPROTO_SCTP), protoinfo=sctp_info())
    yield conn(End("192.0.2.1", "192.0.2.2", 7, 8, uapi.IPPROTO_TCP, zone=3), synproxy=synproxy_info(), helper=b"sip")
    translated = End("198.51.100.2", "203.0.113.9", 21, 50000, uapi.IPPROTO_TCP)
    yield conn(reply=translated, status=uapi.IPS_CONFIRMED | uapi.IPS_SRC_NAT | 6)


def _messages() -> Iterator[tuple[bytes, ...]]:
    for each in conns():
        measured = replace(each, counters=(3, 2), began=1 << 60, event_time=1 << 60)
        yield measured.new(), measured.update(), measured.full(), measured.destroy()
        yield (
            each.full(),
            each.update("protoinfo", "labels", "sequence", "synproxy", "mark"),
            each.destroy(timeout=True),
        )
    yield Expect(TCP, UDP, nat=UDP, function=b"nat-follow-master").new(), Expect(TCP, UDP).destroy()


def histories() -> Iterator[bytes]:
    headers = [(kind, flags) for kind, flags in HEADERS]
    for messages in _messages():
        history = b""
        for number, message in enumerate(messages):
            kind, flags = int.from_bytes(message[4:6], "little"), int.from_bytes(message[6:8], "little")
            what = headers.index((kind, flags)) << 3 | FAMILIES.index(message[16]) << 6
            history += bytes((what | LIVE,)) + pieces(message[20:])
            if number == 1:
                history += bytes((PART if len(history) & 4 else BEGIN,))
            history += bytes((what | ADD,)) + pieces(message[20:])
        yield history + bytes((END,))
    raw = 31 << 3
    for message in (conn().new(), conn().full()):
        yield bytes((raw | LIVE,)) + pieces(message) + bytes((BEGIN, raw | ADD)) + pieces(message[:40] + message)


FILTERS = [
    compile_filter(Replicate.model_validate(keys))
    for keys in (
        {},
        {"addresses": ["192.0.2.1"], "ports": ["0-1024", 40001]},
        {"mark": "0/1"},
        {"tcp_states": ["CLOSE"]},
    )
]


def select(data: bytes) -> None:
    """Any datagram of this kernel's: events, a dump, or answers about masters; a store can use what is selected."""
    reader = Reader(data)
    how, answer = reader.byte(), reader.piece()
    messages = slices(reader.rest())
    dropped: Counter[str] = Counter()
    selector = Selector(
        passes=FILTERS[how >> 2 & 3],
        expectations=("ftp",) if how & 32 else True,
        dropped=dropped,
        read=lambda keys: slices(answer) if keys else [],
    )
    selector.excluded = frozenset({b"\xc0\x00\x02\x07"})
    selected = (selector.select, selector.dumped, selector.answers)[how % 3](messages)
    if how % 3 == 1:
        assert len(entry_digest.within(ODD, selected.messages, selected.parts)) <= len(selected.messages)
    store = Store()
    if how & 16:
        store.begin_snapshot()
        for part in selected.parts:
            store.add_snapshot(part)
    for part in selected.parts:
        store.apply(part)
    if all(map(_is_honest, selected.parts)):  # a kernel's plain messages are believed without another look
        use_everything(store)


def _is_honest(part: Part) -> bool:
    if not isinstance(part, Run):
        return True
    return all(int.from_bytes(each, "big") & part.shape.mask == part.shape.pattern for each in part.split())


def datagrams() -> Iterator[bytes]:
    master = as_full(conn(helper=b"ftp").full())
    for number, messages in enumerate(_messages()):
        yield bytes((number,)) + pieces(master if number & 1 else b"") + b"".join(messages)
    for how in range(5):
        many = [conn(ident=number) for number in range(9)] + [conn(UDP, ident=number) for number in range(9)]
        yield (bytes((how,)) + pieces(b"") + b"".join(each.new() + each.destroy() for each in many))
