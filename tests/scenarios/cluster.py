"""Nodes of real engines on toy kernels, with a link in memory and a clock that stands still between the steps."""

from collections import Counter
from collections.abc import Iterable
from random import Random

from ftfw.kernel.event_selector import Selector
from ftfw.replication import messages
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.member import Member
from ftfw.replication.store import Store
from ftfw.security.frames import RefusedError
from ftfw.security.freshness import Freshness, SelfResumed
from tests.unit.conntrack import Conn
from tests.unit.reading import Reader
from tests.unit.snapshots import snapshot
from tests.unit.table import Table, alike, held

STEP_S = 0.01
LIMIT = 700  # bytes of a body: a few messages
COMPARE_S = 30.0
KEYS = {"old": b"k" * 32, "new": b"o" * 32}


def _as_held(row: dict[int, bytes], versions: Iterable[Conn]) -> Conn:
    """Return the version of a flow that a store holds.  Raises AssertionError if no table ever had what it holds."""
    for version in versions:
        if alike({version.key: version.table_row()})[version.key] == row:
            return version
    raise AssertionError(f"no table ever had {row}")


class Node:
    """A process of its own on a kernel that outlives it."""

    def __init__(self, name: str, random: Random) -> None:
        self.name = name
        self.random = random
        self.table = Table(random)
        self.up = False
        self.keys = [KEYS["old"]]
        self.inbox: list[bytes] = []
        self.refused: Counter[str] = Counter()
        self.remembered: Freshness | None = None

    def start(self, role: str, now: float) -> None:
        self.up = True
        self.inbox.clear()
        self.freshness = Freshness(self.keys, name=self.name, links=1, random=self.random.randbytes)
        self.member = Member(self.name)
        if role == "active":
            self.stream(now)
        else:
            self.stand_by(now)

    def stream(self, now: float) -> None:
        self.table.drop_pending()
        self.freshness.begin_epoch()
        active = Active(
            name=self.name, epoch=self.freshness.epoch, limit=LIMIT, compress=True, compare_s=COMPARE_S, now=now
        )
        self.member.begin_role(active)
        selector = Selector(passes=None, expectations=True, dropped=Counter())
        self.reader = Reader(active, self.table, self.random, selector)

    def stand_by(self, now: float) -> None:
        self.freshness.begin_epoch()
        self.member.begin_role(Backup(name=self.name, store=Store(), limit=LIMIT, now=now))

    def promote(self, now: float, known: dict[bytes, list[Conn]]) -> None:
        """Put what the store holds into the table, and stream it; `known` has all flows that were ever in a table."""
        backup = self.backup
        backup.unfollow()
        while backup.work(now):
            pass
        self.table.rows = {key: _as_held(row, known[key]) for key, row in alike(held(backup.store)).items()}
        self.stream(now)

    def remember(self) -> None:
        """Take a snapshot of the memory, as far as it proves freshness."""
        self.remembered = snapshot(self.freshness, self.random)

    def resume(self) -> None:
        assert self.remembered is not None
        self.freshness = self.remembered

    def step(self, now: float) -> list[bytes]:
        """Read what has come, work, and return the frames to send."""
        frames, self.inbox = self.inbox, []
        for frame in frames:
            self._receive(frame, now)
        if self.member.active is not None:
            self.reader.follow(1000, now)
            self.reader.step(now, 3)
        else:
            self.backup.work(now)
        timer = self.member.get_timer()
        if timer is not None and timer <= now:
            self.member.handle_timer(now)
        return self.freshness.seal([*self.freshness.bodies_to_send(), *self.member.bodies_to_send()])

    def _receive(self, frame: bytes, now: float) -> None:
        try:
            heard = self.freshness.receive(frame, 0, now)
        except RefusedError as refused:
            self.refused[refused.reason] += 1
            return
        while (event := self.freshness.next_event()) is not None:
            if isinstance(event, SelfResumed):
                self.member.begin_epoch(self.freshness.epoch, now)
        if heard is not None:
            self.member.receive(heard.epoch, messages.unpack(heard.body), now)

    @property
    def active(self) -> Active:
        assert self.member.active is not None, f"{self.name} is no active"
        return self.member.active

    @property
    def backup(self) -> Backup:
        assert self.member.backup is not None, f"{self.name} is no backup"
        return self.member.backup


class Cluster:
    """All nodes.  `primary` is the one with the traffic."""

    def __init__(self, roles: dict[str, str]) -> None:
        self.random = Random(1)
        self.now = 100.0
        self.nodes = {name: Node(name, self.random) for name in roles}
        self.primary = next(name for name, role in roles.items() if role == "active")
        self.blocked: set[tuple[str, str]] = set()
        self.to_lose: Counter[str] = Counter()
        self.recorded: list[bytes] = []
        self.known: dict[bytes, list[Conn]] = {}  # by key, newest first
        for name, role in roles.items():
            self.nodes[name].start(role, self.now)

    @property
    def table(self) -> Table:
        return self.nodes[self.primary].table

    def change(self, count: int) -> None:
        for _ in range(count):
            self.table.change()
            for key, row in self.table.rows.items():
                versions = self.known.setdefault(key, [])
                if row not in versions[:1]:
                    versions.insert(0, row)

    def step(self) -> None:
        self.now += STEP_S
        sent = {name: node.step(self.now) for name, node in self.nodes.items() if node.up}
        for name, frames in sent.items():
            self.recorded += frames
            lost = min(self.to_lose[name], len(frames))
            self.to_lose[name] -= lost
            for other in self.nodes.values():
                if other.name != name and other.up and (name, other.name) not in self.blocked:
                    other.inbox += frames[lost:]

    def pass_(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.step()

    def replay(self) -> None:
        """Play every frame that was ever sent to every node."""
        for node in self.nodes.values():
            node.inbox += self.recorded

    def holds_the_table(self, name: str) -> bool:
        return alike(held(self.nodes[name].backup.store)) == alike(self.table.expected())
