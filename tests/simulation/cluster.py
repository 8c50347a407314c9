"""A seeded run: traffic and faults, then peace, then the question whether all is as it should be."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from random import Random
from unittest.mock import patch

from ftfw.config.schema import Replicate
from ftfw.replication import limits
from tests.simulation import filters
from tests.simulation.kernel import Kernel, as_dumped, end_of, held
from tests.simulation.network import Network, Weather
from tests.simulation.node import History, Node
from tests.unit.conntrack import Conn
from tests.unit.snapshots import snapshot

STEP_S = 0.01
EVENTS = 1000
FAULTS = 5  # at least so many in a run
PEACE_STEPS = 1800  # within which all has to be well after the last fault
FILTERED = 0.4  # of the runs replicate a part of the table only
HOT = 0.4  # of the nodes keep their kernels equal to their stores while they are backups
SHARES = (0.0, 0.5, 1.0)  # of what happens that is out of recordings
KEYS = [b"k" * 32, b"o" * 32]


@dataclass
class Run:
    """One run.  `trace` tells what happened, step by step."""

    seed: int
    now: float = 0.0
    events: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        random = self.random
        rough = random.random()
        weather = Weather(
            loss=rough * random.random() * 0.3,
            duplication=rough * random.random() * 0.2,
            corruption=rough * random.random() * 0.05,
            delay_s=random.random() * random.choice((0.01, 0.01, 0.01, 0.5)),
            jitter_s=rough * random.random() * 0.06,
        )
        self.network = Network(random, weather, links=random.choice((1, 1, 2)))
        self.history = History()
        self.known: dict[bytes, list[Conn]] = {}  # what was ever in a kernel, by key
        names = ["fw1", "fw2", "fw3"][: random.choice((2, 2, 3))]
        share, rounds = random.choice(SHARES), count(random.randrange(100))
        kinds = filters.KINDS if share else filters.KINDS + filters.TOY_KINDS
        chosen = random.choice(kinds) if random.random() < FILTERED else {}
        replicate = Replicate.model_validate(chosen)
        self.nodes = {
            name: Node(
                name,
                random,
                self.history,
                Kernel(random, rounds, share, replicate),
                keys=[KEYS[0]],
                links=self.network.links,
                hot=random.random() < HOT,
            )
            for name in names
        }
        self.primary = names[0]  # where the traffic is
        for name, node in self.nodes.items():
            node.start("active" if name == self.primary else "backup", self.now)
        self.tell(
            f"{len(names)} nodes, {self.network.links} links, {share:.0%} recorded, {chosen or 'no'} filter, {weather}"
        )

    def tell(self, what: str) -> None:
        self.trace.append(f"{self.now:8.2f} {what}")

    # Time

    def step(self) -> None:
        """All nodes read, work and send; what arrives meanwhile is read in the next step."""
        self.now += STEP_S
        for name, link, frame in self.network.arrived(self.now):
            if self.nodes[name].up:
                self.nodes[name].take(link, frame)
        for node in self.nodes.values():
            if node.up:
                node.read(self.now)
                frames = node.work(self.now)
                self.network.send(node.name, list(self.nodes), frames, self.now)
                self._check_bounds(node)

    def _check_bounds(self, node: Node) -> None:
        member = node.member
        if member.backup is not None:
            assert member.backup.waiting <= limits.WAITING_FRAMES
            assert member.backup.waiting_bytes <= limits.WAITING_BYTES
            assert member.backup.waiting or not member.backup.waiting_bytes
            assert not member.backup.store.dropped
        if member.active is not None:
            assert member.active.kept_bytes <= limits.KEPT_BYTES
            assert (member.active.oldest > member.active.sequence) == (member.active.kept_bytes == 0)

    def traffic(self) -> None:
        """Some changes in the table of the node where the traffic is."""
        kernel = self.nodes[self.primary].kernel
        for _ in range(self.random.choice((0, 0, 1, 3, 10))):
            self.events += kernel.go_on()
        self._remember()
        if not self.nodes[self.primary].up:
            kernel.drop_pending()  # nobody listens

    def _remember(self) -> None:
        """Record the values of entries that a promotion may find in a store."""
        for key, row in self.nodes[self.primary].kernel.rows.items():
            versions = self.known.setdefault(key, [])
            if not versions or versions[-1] != row:
                versions.append(row)

    # Faults

    def fault(self) -> None:
        what = self.random.choice(FAULT_KINDS)
        self.faults[what] += 1
        self.tell(f"fault: {what}")
        getattr(self, f"_{what}")()

    def _pick(self, *, active: bool = False) -> Node | None:
        """A node that is up, in this role."""
        found = [n for n in self.nodes.values() if n.up and (n.member.active is not None) == active]
        return self.random.choice(found) if found else None

    def _partition(self) -> None:
        one, other = self.random.sample(list(self.nodes), 2)
        until = self.now + self.random.choice((0.1, 0.5, 2.0, 5.0))
        self.network.blocked[one, other] = until
        if self.random.random() < 0.6:
            self.network.blocked[other, one] = until

    def _restart_backup(self) -> None:
        if (node := self._pick()) is not None:
            node.crash()
            node.start("backup", self.now)

    def _restart_active(self) -> None:
        if (node := self._pick(active=True)) is not None:
            node.crash()
            node.start("active", self.now)

    def _overrun(self) -> None:
        node = self.nodes[self.primary]
        if node.up and node.member.active is not None:
            for _ in range(self.random.randrange(1, 30)):
                node.kernel.go_on()
            self._remember()
            node.kernel.drop_pending()
            node.member.active.lose(self.now)

    def _slow_reader(self) -> None:
        if (node := self._pick(active=self.random.random() < 0.3)) is not None:
            node.slow_until = self.now + self.random.choice((0.2, 1.5, 4.0))

    def _recordings(self) -> None:
        for _ in range(60):
            frame = self.random.choice(self.network.recorded)
            self.network.put(self.random.choice(list(self.nodes)), 0, frame, self.now + self.random.random())

    def _forgeries(self) -> None:
        for _ in range(60):
            frame = self.network.damage(self.random.choice(self.network.recorded))
            self.network.put(self.random.choice(list(self.nodes)), 0, frame, self.now + self.random.random())

    def _rotation(self) -> None:
        """One node after the other: all open both, then all seal with the other, then the old one goes."""
        old = self.nodes[self.primary].keys[0]
        new = KEYS[1 - KEYS.index(old)]
        for keys in ([old, new], [new, old], [new]):
            for node in self.nodes.values():
                node.keys = keys
                if node.up:
                    node.freshness.rekey(keys)
            for _ in range(self.random.randrange(1, 40)):
                self.traffic()
                self.step()

    def _resumed(self) -> None:
        """A node goes on with the counters and proofs of a moment ago, as a resumed virtual machine does."""
        node = self.random.choice(list(self.nodes.values()))
        if not node.up:
            return
        kept, accepted = snapshot(node.freshness, self.random), set(node.accepted)
        for _ in range(self.random.randrange(5, 200)):
            self.traffic()
            self.step()
        if node.up and node.freshness.epoch == kept.epoch:
            node.freshness, node.accepted = kept, accepted
            self.tell(f"{node.name} is resumed")

    def _resync(self) -> None:
        if (node := self._pick()) is not None and node.member.backup is not None:
            node.member.backup.request_snapshot(self.now)

    def _tamper(self) -> None:
        """Delete, change or add an entry in a store, as no event has it: a compare has to find it."""
        node = self._pick()
        if node is None or node.member.backup is None or not node.member.backup.complete:
            return
        store = node.member.backup.store
        keys = [*self.known, *store.plain, *store.rich, *store.expectations]
        if not keys:
            return
        key = self.random.choice(keys)
        version = self.random.choice([None, *self.known.get(key, [])])
        node.tampered.add(key)
        if (value := store.value(key)) is not None:
            store.apply([end_of(as_dumped(key, value))])
        if version is not None:
            store.apply([version.new()])

    def _takeover(self) -> None:
        """The active dies; a backup takes over; the other comes back as a backup, sooner or later."""
        node = self._pick()
        if node is None:
            return
        old = self.nodes[self.primary]
        if old.up:
            old.crash()
        self._promote(node)
        for _ in range(self.random.randrange(100)):
            self.traffic()
            self.step()
        old.start("backup", self.now)

    def _switch(self) -> None:
        """A planned one; sometimes both are active for a while."""
        node, old = self._pick(), self.nodes[self.primary]
        if node is None or not old.up:
            return
        overlap = self.random.choice((0, 0, 5, 150))
        if not overlap:
            old.stand_by(self.now)
        self._promote(node)
        for _ in range(overlap):
            self.traffic()
            self.step()
        if overlap:
            assert old.member.active is not None
            old.stand_by(self.now)

    def _promote(self, node: Node) -> None:
        node.promote(self.now)
        node.kernel.take_over(self.known)
        self.primary = node.name
        self.tell(f"{node.name} is active with {len(list(node.kernel.keys()))} entries")

    # A run

    def go(self) -> None:
        """Trouble, then peace, then the check."""
        # Small tables have few buckets otherwise, too few of which are alike, and are gone through at once.
        sizes = (
            ("BUCKET_ENTRIES", 1),
            ("BUCKETS_MAX", 4),
            ("STEP_ENTRIES", 3),
            ("STEP_FRAMES", 2),
            ("STEP_BUCKETS", 8),
        )
        with ExitStack() as stack:
            for name, value in sizes:
                stack.enter_context(patch.object(limits, name, value))
            self._go()

    def _go(self) -> None:
        while self.events < EVENTS or self.faults.total() < FAULTS:
            self.traffic()
            self.step()
            if self.random.random() < 0.03:
                self.fault()
        self.network.blocked.clear()
        self.tell("peace")
        for step in range(PEACE_STEPS):
            self.step()
            if step % 20 == 19 and self.is_well():
                self.tell(f"all well after {step + 1} steps")
                return
        raise AssertionError("not in sync again: " + "; ".join(self.complaints()))

    def is_well(self) -> bool:
        return not self.complaints()

    def complaints(self) -> list[str]:
        """Return what is wrong although all is quiet and compares have found what no event told."""
        found = []
        active = self.nodes[self.primary]
        assert active.member.active is not None
        view = active.kernel.view()
        for node in self.nodes.values():
            backup = node.member.backup
            if node is active:
                continue
            if backup is None:
                found.append(f"{node.name} is active, too")
            elif backup.active_name != active.name or not backup.synced(self.now):
                found.append(f"{node.name} is not in sync")
            elif wrong := view.difference(held(backup.store), whole=True):
                found.append(f"{node.name}: {wrong}")
            elif node.follower is not None:
                but = node.follower.refused | node.follower.lost_links | node.tampered
                if wrong := view.difference(node.kernel.view().rows, but=but, whole=True):
                    found.append(f"{node.name}'s hot kernel: {wrong}")
        if active.member.active.synced(self.now) is not True:
            found.append("the active does not know that all are in sync")
        return found


FAULT_KINDS = tuple(
    sorted(
        (
            *("partition", "restart_backup", "restart_active", "overrun", "slow_reader", "recordings", "forgeries"),
            *("rotation", "resumed", "resync", "takeover", "switch", "tamper"),
        )
    )
)
