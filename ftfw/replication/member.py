"""A node among the others: in which role it is, whom it follows, who else is there.  Sans-I/O: time is an argument."""

from collections import Counter

from ftfw.replication.active import Active
from ftfw.replication.backup import Backup
from ftfw.replication.messages import Facts, Heartbeat, Message, Stream
from ftfw.replication.peers import Peers


class Member:
    """Hands what is heard to the role that it is for.  At most one of `active` and `backup` is there."""

    def __init__(self) -> None:
        self.active: Active | None = None
        self.backup: Backup | None = None
        self.peers = Peers()
        self.dropped: Counter[str] = Counter()

    @property
    def role(self) -> str:
        """The role, as it is shown."""
        return "active" if self.active is not None else "backup"

    def receive(self, epoch: bytes, message: Message, now: float) -> None:
        """Take in what another node says; `epoch` is that of the frame it came in."""
        if isinstance(message, Stream):
            if self.backup is None:
                return  # another active's: each streams its own
            if epoch == self.backup.epoch:
                self.backup.receive(epoch, message, now)
            else:
                self.dropped["not_followed"] += 1
            return
        if isinstance(message, Facts):
            self.peers.learn(message.name, message.told, now)
            return
        if isinstance(message, Heartbeat):
            if not self.peers.fits(message):
                self.dropped["byte_order"] += 1
                return
            self.peers.hear(message.name, message.role, epoch, now)
            self.peers.conflict(self.role, now)
            if self.backup is not None:
                self._follow(self.backup, epoch, message, now)
        else:
            self.peers.hear(message.name, "backup", epoch, now)
        if self.active is not None and not (isinstance(message, Heartbeat) and message.role == "active"):
            self.active.receive(epoch, message, now)

    def _follow(self, backup: Backup, epoch: bytes, heartbeat: Heartbeat, now: float) -> None:
        """A backup follows one active at a time, as long as that one is heard; a heartbeat introduces it."""
        if heartbeat.role != "active":
            if heartbeat.name == backup.active_name:
                backup.unfollow()
            return
        other = epoch != backup.epoch and heartbeat.name != backup.active_name
        if other and backup.epoch is not None and backup.heard(now):
            return  # a second active: the conflict is reported, the first one goes on being followed
        backup.receive(epoch, heartbeat, now)
