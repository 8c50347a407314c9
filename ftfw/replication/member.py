"""Represents this node in the cluster: its role's engine and the other nodes.  Sans-I/O: `now` is an argument."""

from collections import Counter

from ftfw.replication import limits, messages
from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.messages import Facts, Heartbeat, Message, Stream
from ftfw.replication.peers import Peers


class Member:
    """Hands each message to the engine of this node's role, and sends heartbeats while the node has no engine.

    At most one of `active` and `backup` is set.  Between `leave_role` and `begin_role` neither is set, and the node
    sends a backup's heartbeats.  Before the first `begin_role` it sends nothing.  Times are seconds, monotonic.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.active: Active | None = None
        self.backup: Backup | None = None
        self._heartbeat_at: float | None = None  # set between two roles only
        self.peers = Peers()
        self._bodies: list[bytes] = []
        self.dropped: Counter[str] = Counter()

    @property
    def role(self) -> str:
        """Return the role that status and heartbeats show: `active` or `backup`."""
        return "active" if self.active is not None else "backup"

    def begin_role(self, engine: Active | Backup) -> None:
        """Begin the role of `engine`."""
        self.active = engine if isinstance(engine, Active) else None
        self.backup = engine if isinstance(engine, Backup) else None
        self._heartbeat_at = None

    def leave_role(self, now: float) -> None:
        """Drop the engine; messages of the active that was followed are ignored from here on."""
        self.active = self.backup = None
        self._heartbeat_at = now

    def begin_epoch(self, epoch: bytes, now: float) -> None:
        """Continue in the same role with a new epoch: an active begins a new stream."""
        if self.active is not None:
            self.active.restart(epoch, now)

    def bodies_to_send(self) -> list[bytes]:
        """Return the bodies to send, in their order, and forget them."""
        engine = self.active or self.backup
        if engine is not None:
            return engine.bodies_to_send()
        bodies, self._bodies = self._bodies, []
        return bodies

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is to be called (seconds, monotonic); None before the first role."""
        engine = self.active or self.backup
        return engine.get_timer() if engine is not None else self._heartbeat_at

    def handle_timer(self, now: float) -> None:
        """Handle the timer of the role's engine; without an engine, send a heartbeat when it is due."""
        engine = self.active or self.backup
        if engine is not None:
            engine.handle_timer(now)
        elif self._heartbeat_at is not None and now >= self._heartbeat_at:
            self._heartbeat_at = now + limits.HEARTBEAT_S
            self._bodies.append(messages.heartbeat(self.name, "backup", 0, 0))

    def receive(self, epoch: bytes, message: Message, now: float) -> None:
        """Process a message of another node; `epoch` is the epoch of the frame that carried it."""
        if isinstance(message, Stream):
            if self.backup is None:
                return  # an active applies no other node's stream
            if epoch == self.backup.epoch:
                self.backup.receive(epoch, message, now)
            else:
                self.dropped["not_followed"] += 1
            return
        if isinstance(message, Facts):
            self.peers.record_facts(message.name, message.told, now)
            return
        if isinstance(message, Heartbeat):
            if not self.peers.fits(message):
                self.dropped["byte_order"] += 1
                return
            self.peers.record(message.name, message.role, epoch, now)
            self.peers.conflict(self.role, now)
            if self.backup is not None:
                self._follow(self.backup, epoch, message, now)
        else:
            self.peers.record(message.name, "backup", epoch, now)
        if self.active is not None and not (isinstance(message, Heartbeat) and message.role == "active"):
            self.active.receive(epoch, message, now)

    def _follow(self, backup: Backup, epoch: bytes, heartbeat: Heartbeat, now: float) -> None:
        """Follow the sender of an active's heartbeat, unless another active is followed and still heard."""
        if heartbeat.role != "active":
            if heartbeat.name == backup.active_name:
                backup.unfollow()
            return
        other = epoch != backup.epoch and heartbeat.name != backup.active_name
        if other and backup.epoch is not None and backup.heard(now):
            return  # a second active: the conflict is reported, and the first active stays followed
        backup.receive(epoch, heartbeat, now)
