"""The active's side of the protocol: numbers the stream, keeps account of every backup.  Sans-I/O."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ftfw.kernel.run import Part
from ftfw.replication import messages
from ftfw.replication.messages import Ack, Heartbeat, Packer, Resync

HEARTBEAT_S = 0.1
PEER_LOST_S = 3.0  # a backup unheard for so long holds nobody up
SNAPSHOT_WINDOW = 256  # frames of a snapshot that may be under way unacknowledged
SENT_MAX = 1 << 16  # frames whose time of sending is remembered, for the lag


@dataclass(slots=True)
class Backup:
    """What the active knows of a backup."""

    name: str
    last_seen: float
    acked: int = 0
    synced: bool = False
    lag_s: float = 0.0
    follows: bool = False  # this active's epoch, and not another's or nobody's


class Active:
    """One active's stream.  `outgoing` holds the bodies to send, in their order."""

    def __init__(self, *, name: str, epoch: bytes, limit: int, compress: bool, now: float) -> None:
        self.name = name
        self.epoch = epoch
        self.backups: dict[str, Backup] = {}
        self.outgoing: list[bytes] = []
        self.sequence = 0
        self.snapshot_wanted = False
        self._lost = False  # events, so that no backup's store can be right
        self._packer = Packer(limit=limit, compress=compress)
        self._sent: deque[float] = deque(maxlen=SENT_MAX)  # when the last frames were sent; the latest is `sequence`
        self._heartbeat_at = now

    def offer(self, parts: Sequence[Part], now: float) -> None:
        """Stream live messages."""
        self._stream(messages.EVENTS, parts, now)

    def lose(self) -> None:
        """Events were lost: every backup needs the next snapshot, whether it asks for one or not."""
        self.snapshot_wanted = self._lost = True

    def begin_snapshot(self, now: float) -> None:
        """Everything in the table, and nothing else, follows until `end_snapshot`; live messages go between."""
        kind = messages.SNAPSHOT_FOR_ALL if self._lost else messages.SNAPSHOT_BEGIN
        self.snapshot_wanted = self._lost = False
        self._frame(kind, messages.STORED, b"", now)

    def add_snapshot(self, parts: Sequence[Part], now: float) -> None:
        """Stream a part of the snapshot."""
        self._stream(messages.SNAPSHOT_PART, parts, now)

    def end_snapshot(self, now: float) -> None:
        """The snapshot is complete; if events were lost meanwhile it is not, and the next one takes its place."""
        if not self._lost:
            self._frame(messages.SNAPSHOT_END, messages.STORED, b"", now)

    def _stream(self, kind: int, parts: Sequence[Part], now: float) -> None:
        for codec, blob in self._packer.blobs(parts):
            self._frame(kind, codec, blob, now)

    def _frame(self, kind: int, codec: int, blob: bytes, now: float) -> None:
        self.sequence += 1
        self._sent.append(now)
        self.outgoing.append(messages.stream(kind, self.sequence, codec, blob))

    def tick(self, now: float) -> None:
        """Send a heartbeat if one is due."""
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_S
            self.outgoing.append(messages.heartbeat(self.name, "active", self.sequence))

    def receive(self, message: Ack | Resync | Heartbeat, now: float) -> None:
        """Take in what a backup says."""
        backup = self.backups.setdefault(message.name, Backup(message.name, now))
        backup.last_seen = now
        backup.follows = not isinstance(message, Heartbeat) and message.epoch == self.epoch
        if isinstance(message, Ack) and backup.follows:
            backup.synced = message.synced
            if backup.acked < message.sequence <= self.sequence:
                backup.acked = message.sequence
                behind = self.sequence - message.sequence
                if behind < len(self._sent):
                    backup.lag_s = now - self._sent[-1 - behind]
            return
        backup.synced = False
        if backup.follows:
            self.snapshot_wanted = True

    def live(self, now: float) -> list[Backup]:
        """The backups that were heard lately."""
        return [backup for backup in self.backups.values() if now - backup.last_seen < PEER_LOST_S]

    def may_snapshot(self, now: float) -> bool:
        """Whether every live backup that follows has taken enough of the snapshot for more to be sent."""
        following = (backup for backup in self.live(now) if backup.follows)
        return all(self.sequence - backup.acked < SNAPSHOT_WINDOW for backup in following)

    def synced(self, now: float) -> bool | None:
        """Whether every live backup is in sync; None without any."""
        live = self.live(now)
        return all(backup.synced for backup in live) if live else None
