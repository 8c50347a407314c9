"""Connects keepalived and the daemon: reads the FIFO, watches the virtual addresses, writes the track_file."""

import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from ftfw.config import schema
from ftfw.daemon.roles.address_monitor import ADOPTION_S, AddressMonitor
from ftfw.daemon.roles.keepalived_fifo import WRITER_MISSED_S, FifoWriterWatch, Notification, NotificationParser
from ftfw.daemon.roles.role_table import RoleEvent
from ftfw.daemon.roles.vrrp_states import VrrpStates

log = logging.getLogger(__name__)

WATCH_S: Final = 0.1  # between two checks of the FIFO at the path, and of role and addresses
READ_BYTES: Final = 1 << 16  # the capacity of a pipe
READY: Final = "0\n"  # keepalived multiplies it by a weight; without a weight, any other number is a failure
NOT_READY: Final = "1\n"


class FifoError(Exception):
    """Raised if there is no FIFO to read from; the message gives the reason and the remedy."""


class NodeState(NamedTuple):
    """Holds the node's state as the keepalived task needs it."""

    role: str | None  # None while it changes
    ready: bool
    free: bool  # no role was wanted since this daemon started, and no other node is active


class KeepalivedTask:
    """Turns keepalived's notifications into the wanted role, and reports to keepalived whether this node is ready."""

    def __init__(self, keys: schema.KeepalivedSection, role: str, *, want: Callable[[RoleEvent], None]) -> None:
        self._keys = keys
        self._want = want
        self._states = VrrpStates(keys.instances, role)
        self._monitor = AddressMonitor(keys.addresses)
        self._parser = NotificationParser()
        self._fifo_trouble: str | None = None
        self._writer = FifoWriterWatch()
        self._written: str | None = None  # to the track_file, successfully or not

    @property
    def holds_addresses(self) -> bool:
        """Return whether this host has any of the virtual addresses."""
        return bool(self._monitor.present)

    @property
    def holds_all_addresses(self) -> bool:
        """Return whether this host has all of the virtual addresses."""
        return self._monitor.complete

    def learn_addresses(self, own: frozenset[bytes]) -> None:
        """Record all addresses of this host, packed."""
        self._monitor.learn_addresses(own)

    def record_hook(self, notification: Notification, arrival: int) -> RoleEvent | None:
        """Record a hook script's notification; return the wanted role, or None if the notification does not count.

        `arrival` is a number that is higher for a later notification.
        """
        return self._record(notification, arrival)

    async def run(self, node: Callable[[], NodeState]) -> None:
        """Read the FIFO, and watch addresses and readiness, until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._keys.fifo is not None:
                nursery.start_soon(self._read_fifo, self._keys.fifo)
            if self._keys.addresses or self._keys.track_file is not None:
                nursery.start_soon(self._watch, node)

    def status(self) -> dict[str, Any] | None:
        """Return `keepalived` of the status; None without any keys for it and any notification."""
        if not (self._keys.fifo or self._keys.addresses or self._states.states):
            return None
        return {
            "fifo": None if self._keys.fifo is None else self._fifo_trouble or "open",
            "fifo_writer": None if self._fifo_trouble else self._writer.present,
            "instances": {" ".join(subject): state for subject, state in self._states.states.items()},
            "addresses_here": self._monitor.present,
            "disagreement": self._monitor.disagreement,
            "dropped": dict(self._parser.dropped + self._states.dropped),
        }

    def _record(self, notification: Notification, arrival: int | None = None) -> RoleEvent | None:
        before = self._states.states.get(notification.subject)
        wanted = self._states.record(notification, arrival)
        if wanted is not None and before != notification.state:
            log.info("keepalived: %s is %s", " ".join(notification.subject), notification.state)
        return wanted

    # The FIFO

    async def _read_fifo(self, path: Path) -> None:
        """Read the FIFO at `path`, and open it again when it was replaced: keepalived removes a FIFO that it made."""
        while True:
            try:
                descriptor = _open(path)
            except FifoError as error:
                if str(error) != self._fifo_trouble:
                    self._fifo_trouble = str(error)
                    log.warning("%s", error)
                await trio.sleep(WATCH_S)
                continue
            self._fifo_trouble = None
            log.info("%s: open", path)
            try:
                await self._read_while_there(path, descriptor)
            finally:
                os.close(descriptor)
            self._parser.cut_off()

    async def _read_while_there(self, path: Path, descriptor: int) -> None:
        while True:
            with trio.move_on_after(WATCH_S) as waiting:
                await trio.lowlevel.wait_readable(descriptor)
            try:
                data = os.read(descriptor, READ_BYTES)
            except BlockingIOError:
                data = None
            if data:
                self._process(data)
                continue
            if not _is_at(path, descriptor):  # everything written to the old FIFO has been read
                return
            self._watch_writer(path, present=data is None)  # end of file: it has no writer
            if data is not None and not waiting.cancelled_caught:
                await trio.sleep(WATCH_S)  # without a writer it stays readable

    def _watch_writer(self, path: Path, *, present: bool) -> None:
        if not self._writer.update(present=present, now=trio.current_time()):
            return
        if self._writer.missed:
            log.warning(
                "%s: no process has had it open for writing for %.0f s: keepalived does not run, or does not notify"
                " this node; `systemctl reload keepalived` makes keepalived open the FIFO",
                path,
                WRITER_MISSED_S,
            )
        else:
            log.info("%s: keepalived has opened it", path)

    def _process(self, data: bytes) -> None:
        """Want only the role that follows from all of `data`: late notifications arrive together."""
        wanted = None
        for notification in self._parser.feed(data):
            wanted = self._record(notification) or wanted
        if wanted is not None:
            self._want(wanted)

    # Addresses and readiness

    async def _watch(self, node: Callable[[], NodeState]) -> None:
        try:
            while True:
                role, ready, free = node()
                if self._monitor.check_role(role, trio.current_time()):
                    self._log_disagreement()
                if self._monitor.must_adopt(role, trio.current_time()) and free:
                    self._adopt()
                self._write_track_file(ready=ready)
                await trio.sleep(WATCH_S)
        finally:
            role, ready, _ = node()  # a backup without a daemon has only the entries in its kernel
            self._write_track_file(ready=role == "active" or (ready and self._monitor.complete))

    def _adopt(self) -> None:
        """Become active where the addresses are: keepalived does not repeat its states for a restarted daemon."""
        log.warning(
            "%s: all on this host for %.0f s, without a notification of keepalived since this daemon started, and no"
            " active is heard: this node becomes active, and keeps the entries in its kernel. `systemctl reload"
            " keepalived` makes keepalived repeat its states, if fifo_write_vrrp_states_on_reload is set",
            ", ".join(self._monitor.present),
            ADOPTION_S,
        )
        self._states.assume_master()
        self._want(RoleEvent.PROMOTE)

    def _log_disagreement(self) -> None:
        if self._monitor.disagreement is None:
            log.info("the role and the virtual addresses agree again")
            return
        log.error(
            "%s: check that keepalived runs, that it writes to keepalived.fifo or calls a hook, and that"
            " keepalived.instances names the right instances; meanwhile use `ftfw promote` or `ftfw demote`",
            self._monitor.disagreement,
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
            new.replace(path)  # keepalived never reads half of it, and notices a renamed file as well
        except OSError as error:
            log.warning("%s: cannot be written: %s; set keepalived.track_file to another path", path, error.strerror)


def _open(path: Path) -> int:
    """Open the FIFO at `path`, after making it if it is missing.  Raises FifoError.

    The FIFO is opened for reading only, so that it is at its end while no other process has it open. keepalived opens
    it for both, so that its notifications stay in the FIFO while there is no daemon. If a FIFO exists, keepalived uses
    it and does not remove it (lib/notify.c).
    """
    remedy = "move it away, or set keepalived.fifo and vrrp_notify_fifo to another path"
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        if not stat.S_ISFIFO(path.stat().st_mode):
            raise FifoError(f"{path}: exists and is not a FIFO; {remedy}")
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FifoError(
            f"{path}: cannot be made or opened: {error.strerror}; make keepalived give it to ftfw's user"
            " (`vrrp_notify_fifo FILE USER`), or set keepalived.fifo to another path"
        ) from None


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    opened = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
