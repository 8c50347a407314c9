"""keepalived beside the daemon: its FIFO is read, its virtual addresses are watched, its track_file is written."""

import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from ftfw.config import schema
from ftfw.daemon.roles.role_table import Event
from ftfw.daemon.roles.vrrp_states import ADOPTION_S, SILENT_S, Fifo, Instances, Notification, Truth, Writer

log = logging.getLogger(__name__)

LOOK_S: Final = 0.1  # between two looks whether the FIFO is still the one at its path, and at role and addresses
READ_BYTES: Final = 1 << 16  # all that a pipe holds
READY: Final = "0\n"  # keepalived multiplies it by a weight, and takes anything but 0 for a failure without one
NOT_READY: Final = "1\n"


class FifoError(Exception):
    """There is no FIFO to read from; the message says why, and what to do about it."""


class Now(NamedTuple):
    """What keepalived's part of the daemon has to know of the rest."""

    role: str | None  # None while it changes
    ready: bool
    free: bool  # nobody has wanted a role of this node since it started, and no other one is active


class Keepalived:
    """Makes of what keepalived says what is wanted of the roles, and tells it whether this node is ready."""

    def __init__(self, keys: schema.Keepalived, role: str, *, want: Callable[[Event], None]) -> None:
        self._keys = keys
        self._want = want
        self._instances = Instances(keys.instances, role)
        self._truth = Truth(keys.addresses)
        self._fifo = Fifo()
        self._fifo_trouble: str | None = None
        self._writer = Writer()
        self._written: str | None = None  # to the track_file, or tried

    @property
    def holds_addresses(self) -> bool:
        """Whether any of the virtual addresses is this host's."""
        return bool(self._truth.here)

    @property
    def holds_all_addresses(self) -> bool:
        """Whether all of the virtual addresses are this host's."""
        return self._truth.whole

    def learn_addresses(self, own: frozenset[bytes]) -> None:
        """Take in all addresses of this host, packed."""
        self._truth.learn(own)

    def hear_hook(self, notification: Notification, arrival: int) -> Event | None:
        """Take in what a hook script says; what follows for the role, or None if it does not count.

        `arrival` is a number that is higher for what came later.
        """
        return self._hear(notification, arrival)

    async def run(self, now: Callable[[], Now]) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._keys.fifo is not None:
                nursery.start_soon(self._follow, self._keys.fifo)
            if self._keys.addresses or self._keys.track_file is not None:
                nursery.start_soon(self._look_after, now)

    def status(self) -> dict[str, Any] | None:
        """`keepalived` of the status; None where there is nothing to tell."""
        if not (self._keys.fifo or self._keys.addresses or self._instances.states):
            return None
        return {
            "fifo": None if self._keys.fifo is None else self._fifo_trouble or "open",
            "fifo_writer": None if self._fifo_trouble else self._writer.there,
            "instances": {" ".join(subject): state for subject, state in self._instances.states.items()},
            "addresses_here": self._truth.here,
            "disagreement": self._truth.disagreement,
            "dropped": dict(self._fifo.dropped + self._instances.dropped),
        }

    def _hear(self, notification: Notification, arrival: int | None = None) -> Event | None:
        before = self._instances.states.get(notification.subject)
        wanted = self._instances.hear(notification, arrival)
        if wanted is not None and before != notification.state:
            log.info("keepalived: %s is %s", " ".join(notification.subject), notification.state)
        return wanted

    # The FIFO

    async def _follow(self, path: Path) -> None:
        """Read the FIFO at `path`, whichever that is: keepalived removes one that it has made itself."""
        while True:
            try:
                descriptor = _open(path)
            except FifoError as error:
                if str(error) != self._fifo_trouble:
                    self._fifo_trouble = str(error)
                    log.warning("%s", error)
                await trio.sleep(LOOK_S)
                continue
            self._fifo_trouble = None
            log.info("%s: open", path)
            try:
                await self._read_while_there(path, descriptor)
            finally:
                os.close(descriptor)
            self._fifo.cut_off()

    async def _read_while_there(self, path: Path, descriptor: int) -> None:
        while True:
            with trio.move_on_after(LOOK_S) as waiting:
                await trio.lowlevel.wait_readable(descriptor)
            try:
                data = os.read(descriptor, READ_BYTES)
            except BlockingIOError:
                data = None
            if data:
                self._take(data)
                continue
            if not _is_at(path, descriptor):  # all that was written to this one has been read
                return
            self._look_at_writer(path, there=data is None)  # at its end, it has none
            if data is not None and not waiting.cancelled_caught:
                await trio.sleep(LOOK_S)  # where there has been a writer, it is readable all the time

    def _look_at_writer(self, path: Path, *, there: bool) -> None:
        if not self._writer.look(there=there, now=trio.current_time()):
            return
        if self._writer.missed:
            log.warning(
                "%s: nobody has had it open for writing for %.0f s: keepalived does not run, or this node hears of no"
                " failover from it; `systemctl reload keepalived` has it open the FIFO",
                path,
                SILENT_S,
            )
        else:
            log.info("%s: keepalived has it open now", path)

    def _take(self, data: bytes) -> None:
        """Only what follows from all of `data` is wanted: what comes late comes all at once."""
        wanted = None
        for notification in self._fifo.take(data):
            wanted = self._hear(notification) or wanted
        if wanted is not None:
            self._want(wanted)

    # The truth, and readiness

    async def _look_after(self, now: Callable[[], Now]) -> None:
        try:
            while True:
                role, ready, free = now()
                if self._truth.look(role, trio.current_time()):
                    self._tell_disagreement()
                if self._truth.lasts(role, trio.current_time()) and free:
                    self._adopt()
                self._write_track_file(ready=ready)
                await trio.sleep(LOOK_S)
        finally:
            role, ready, _ = now()  # a backup without a daemon holds nothing but what is in its kernel
            self._write_track_file(ready=role == "active" or (ready and self._truth.whole))

    def _adopt(self) -> None:
        """Be active where the addresses are: keepalived does not say again what it said to a daemon that was killed."""
        log.warning(
            "%s: all here for %.0f s, while keepalived has said nothing since this daemon started, and no active is"
            " heard: this node becomes active, and what is in its kernel stays. `systemctl reload keepalived` has"
            " keepalived say its states, if it has fifo_write_vrrp_states_on_reload",
            ", ".join(self._truth.here),
            ADOPTION_S,
        )
        self._instances.take_for_master()
        self._want(Event.PROMOTE)

    def _tell_disagreement(self) -> None:
        if self._truth.disagreement is None:
            log.info("the role and the virtual addresses agree again")
            return
        log.error(
            "%s: see whether keepalived runs, whether it writes to keepalived.fifo or calls a hook, and whether"
            " keepalived.instances names what decides; until then `ftfw promote` or `ftfw demote` settles it",
            self._truth.disagreement,
        )

    def _write_track_file(self, *, ready: bool) -> None:
        path, text = self._keys.track_file, READY if ready else NOT_READY
        if path is None or text == self._written:
            return
        self._written = text
        new = path.with_name(f"{path.name}.new")
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            new.write_text(text)
            new.replace(path)  # keepalived never reads half of it, and notices this as it notices writing
        except OSError as error:
            log.warning("%s: cannot be written: %s; set keepalived.track_file to another path", path, error.strerror)


def _open(path: Path) -> int:
    """Open the FIFO at `path`, made if it is not there; FifoError.

    For reading only, so that it is at its end while nobody else has it open. keepalived has it open for both, so that
    what it writes stays while there is no daemon; it takes a FIFO that is there already, and does not remove it
    (lib/notify.c).
    """
    remedy = "end what made it and move it away, or set keepalived.fifo, and vrrp_notify_fifo, to another path"
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        if not stat.S_ISFIFO(path.stat().st_mode):
            raise FifoError(f"{path}: exists and is no FIFO; {remedy}")
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FifoError(
            f"{path}: cannot be made or opened: {error.strerror}; let keepalived give it to ftfw's user"
            " (`vrrp_notify_fifo FILE USER`), or set keepalived.fifo to another path"
        ) from None


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    opened = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
