"""Shows progress on a terminal, and waits for a resync or a compare."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ftfw.control.client import ControlError
from ftfw.replication.limits import PEER_LOST_S

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

QUICK_S: Final = 1.0  # no bar is shown before
POLL_S: Final = 0.2  # between two requests for the status
POLLS_ALONE_MAX: Final = 25  # without an active that could answer: five seconds

Tell = Callable[[dict[str, Any]], None]
"""Shows {"done": n, "total": n}; a value of "what" replaces the bar's title."""
Ask = Callable[..., dict[str, Any]]
"""Has the daemon execute a command; raises ControlError."""


class _Bar:
    def __init__(self, what: str) -> None:
        self._what = what
        self._begun = time.monotonic()
        self._shown: tuple[Progress, TaskID] | None = None

    def tell(self, progress: dict[str, Any]) -> None:
        if self._shown is None and time.monotonic() - self._begun >= QUICK_S:
            self._shown = self._start()
        if self._shown is not None:
            bar, task = self._shown
            what, done, total = progress.get("what") or self._what, progress.get("done") or 0, progress.get("total")
            bar.update(task, description=what, completed=done, total=total, count=f"{done:,} entries" if done else "")

    def _start(self) -> tuple[Progress, TaskID]:
        # Imported here, so that quick commands do not wait for it.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[count]}"))
        bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        bar.start()
        return bar, bar.add_task(self._what, total=None, count="")

    def stop(self) -> None:
        if self._shown is not None:
            self._shown[0].stop()


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Tell | None]:
    """Yield a function that shows progress once a second has passed; None if standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(what)
    try:
        yield bar.tell
    finally:
        bar.stop()


COUNTED_BY: Final = {"resync": "snapshots", "scrub": "compared"}  # in `stream` of the status


def request(
    ask: Ask, command: str, tell: Tell, *, sleep: Callable[[float], None] = time.sleep
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Request a `resync` or a `scrub` of a backup, and wait until it is done and the store is complete.

    Returns the status before and after; None on an active, which does not wait for its backups.
    Raises ControlError if the backup changes its role, or hears no active for five seconds.
    """
    before = ask("status", count=False)
    ask(command)
    if before.get("role") != "backup":
        return None
    counter, alone = COUNTED_BY[command], 0
    while True:
        status = ask("status", count=False)
        if status.get("role") != "backup":
            raise ControlError("this node was promoted before it was done; `ftfw status` shows its role")
        stream = status.get("stream") or {}
        if stream.get("state") == "complete" and stream.get(counter, 0) > before.get("stream", {}).get(counter, 0):
            return before, status
        alone = 0 if _hears_active(status) else alone + 1
        if alone == POLLS_ALONE_MAX:
            raise ControlError(
                "found no active that could answer; the request stands until one is heard."
                " `ftfw status` shows which nodes are heard, and `ftfw check` what may be wrong"
            )
        tell({"done": stream.get("incoming"), "what": status.get("why_not_synced")})
        sleep(POLL_S)


def _hears_active(status: dict[str, Any]) -> bool:
    peers = status.get("peers") or []
    return any(peer.get("role") == "active" and (peer.get("last_seen_s") or 0.0) < PEER_LOST_S for peer in peers)
