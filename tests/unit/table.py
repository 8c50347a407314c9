"""A toy kernel for tests, and what a store should hold of it."""

from dataclasses import replace
from random import Random

from ftfw.kernel import uapi
from ftfw.replication.store import Store
from tests.unit.conntrack import TCP, UDP, Conn, End, conn, inverse, seq_adjust, tcp_info, walk

Rows = dict[bytes, dict[int, bytes]]


def held(store: Store) -> Rows:
    assert not store.plain.keys() & store.rich.keys()
    return {key: walk(value) for key, value in (store.plain | store.rich).items()}


def without_empty_marks(rows: Rows) -> Rows:
    return {key: {k: v for k, v in row.items() if (k, v) != (uapi.CTA_MARK, bytes(4))} for key, row in rows.items()}


def alike(rows: Rows) -> Rows:
    """Return what must be alike in two nodes' tables: all but timeouts."""
    rows = without_empty_marks(rows)
    return {key: {k: v for k, v in row.items() if k != uapi.CTA_TIMEOUT} for key, row in rows.items()}


class Table:
    """A toy kernel: a table, the events it has not yet delivered, and a dump that is read in slices meanwhile."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.rows: dict[bytes, Conn] = {}
        self.pending: list[bytes] = []
        self._ident = 0
        self.ends = [replace(base, source_port=port) for base in (TCP, UDP) for port in range(16)]

    def change(self) -> None:
        end = self.ends[int(len(self.ends) * self.random.random() ** 4)]  # some are busy, others hardly ever change
        zone = self.random.choice((None, 4))
        key = Conn(end, inverse(end), zone=zone).key
        there = self.rows.get(key)
        if there is None:
            self._begin(end, zone)
        elif self.random.random() < 0.3:
            del self.rows[key]
            self.pending.append(there.destroy(timeout=self.random.random() < 0.5))
        else:
            self._alter(key, there)

    def _begin(self, end: End, zone: int | None) -> None:
        self._ident += 1
        choose = self.random.choice
        made = conn(
            end,
            ident=self._ident,
            zone=zone,
            mark=choose((0, 7)),
            helper=choose((b"", b"", b"ftp")),
            labels=choose((b"", b"", bytes(15) + b"\x01")),
            master=choose((None, None, UDP)),
        )
        self.rows[made.key] = made
        self.pending.append(made.new())

    def _alter(self, key: bytes, there: Conn) -> None:
        what = self.random.choice(("timeout", "protoinfo", "labels", "mark", "status", "sequence"))
        if what == "protoinfo" and there.original.protocol != uapi.IPPROTO_TCP:
            what = "timeout"
        values = {
            "timeout": self.random.randrange(1, 1000),
            "protoinfo": tcp_info(self.random.randrange(1, 9)),
            "labels": self.random.randbytes(15) + b"\x01",
            "mark": self.random.randrange(3),
            "status": there.status ^ uapi.IPS_ASSURED,
            "sequence": seq_adjust(15, position=self.random.randrange(1000)),
        }
        changed = replace(there, **{what: values[what]})  # type: ignore[arg-type]
        self.rows[key] = changed
        self.pending.append(changed.update(what))

    def drop_pending(self) -> None:
        self.pending.clear()

    def take(self, most: int) -> list[bytes]:
        taken, self.pending = self.pending[:most], self.pending[most:]
        return taken

    def dump(self) -> "Dump":
        """A dump that begins now."""
        return Dump(self)

    def deliver(self, store: Store, most: int) -> None:
        store.apply(self.take(most))

    def expected(self) -> Rows:
        return {key: row.table_row() for key, row in self.rows.items()}


class Dump:
    """A dump under way: keys in the order of their hash, entries read when their turn comes; delivered in order."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._keys = sorted({Conn(e, inverse(e), zone=z).key for e in table.ends for z in (None, 4)})
        table.random.shuffle(self._keys)
        self.read: list[bytes] = []

    def step(self) -> bool:
        """Read the next bucket; whether one was left."""
        if not self._keys:
            return False
        row = self._table.rows.get(self._keys.pop())
        if row is not None:
            counted = self._table.random.random() < 0.2
            self.read.append(replace(row, counters=(3, 2) if counted else None).full())
        return True
