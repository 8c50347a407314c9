"""Controls the gate: traffic that reaches a backup waits until a promotion has put the entries into the kernel."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from ftfw.daemon import gate_rules
from ftfw.system.libnftables import Nft, NftError

log = logging.getLogger(__name__)

RENEW_S: Final = 0.25  # an eighth of TIMEOUT_S, after which the kernel opens the gate
RETRY_S: Final = 5.0  # between two attempts to make or remove the table
COUNT_S: Final = 1.0  # between two readings of the count of dropped packets
PATIENCE_S: Final = 10.0  # longest time for which packets are dropped without a promotion
QUIET_S: Final = 3.0  # after so long without a dropped packet no traffic waits
REMEDY: Final = "ftfw needs CAP_NET_ADMIN, Linux 5.12 or newer and nftables 0.9.9 or newer"


class Gate:
    """While shut, drops packets that arrive on `interfaces`, except those that the host itself needs.

    These are broadcasts and multicasts, VRRP, neighbour discovery, IPv6 link-local packets, and packets for its own
    addresses and its links. The gate stays shut only while `run` renews it: when the daemon's loop hangs or ends, the
    kernel opens the gate. Raises NftError if libnftables is missing.  All times are seconds, monotonic.
    """

    def __init__(self, interfaces: Sequence[str], links: frozenset[bytes], *, held: Callable[[float], None]) -> None:
        self.failed: Counter[str] = Counter()
        self._interfaces = interfaces
        self._links = links  # this node's addresses on its links
        self._held = held  # called with the number of packets that waited for a promotion
        self._promoting = False
        self._own: frozenset[bytes] = frozenset()
        self._nft = Nft()
        self._knocker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._knocker.setblocking(False)
        self._knocker.bind((gate_rules.LOOPBACK, 0))
        self._wanted = False  # true: the gate is to be shut
        self._made: frozenset[bytes] | None = None  # the addresses to which the table passes packets; None: no table
        self._retry_at = float("-inf")
        self._renewed_at: float | None = None  # None: the kernel's gate is open
        self._changed = trio.Event()
        self._dropped = 0  # packets, by tables that were removed
        self._counted = 0  # packets, by the present table
        self._counted_at = float("-inf")
        self._dropping: tuple[float, float] | None = None  # when packets were first and last seen to be dropped
        self._patient = True
        self._shut_at: float | None = None
        self._opened_at: float | None = None

    def close(self) -> None:
        """Close the sockets; the kernel then removes the table."""
        self._nft.close()
        self._knocker.close()

    def shut(self, own: frozenset[bytes]) -> None:
        """Shut the gate until `open`.  `own` are this host's addresses without the virtual ones, packed.

        An address that this host gets later counts as virtual: packets to it wait.
        """
        self._own = own
        self._patient = self._promoting = False
        self._dropping = None
        if not self._wanted:
            self._wanted = True
            self._retry_at = float("-inf")
        self._wake()

    def learn_addresses(self, present: frozenset[bytes]) -> None:
        """Record this host's addresses, packed; one that was removed and added again counts as virtual."""
        if not self._own <= present:
            self._own &= present
            self._wake()

    def wait_for_commit(self) -> None:
        """Stay shut until `open`, without a time limit: a promotion has begun, and will open the gate."""
        self._patient = self._promoting = True

    def open(self) -> None:
        """Open the gate at once."""
        if not self._wanted:
            return
        self._wanted = False
        self._wake()
        if self._renewed_at is not None:
            self._renewed_at = None
            self._opened_at = trio.current_time()
            log.info("gate: open")
            if not self._knock(gate_rules.OPEN):
                self.failed["not_opened"] += 1
                log.error(
                    "gate: the kernel did not accept the request to open; the table is removed now, or opens in %d s",
                    gate_rules.TIMEOUT_S,
                )

    def status(self, now: float) -> dict[str, Any]:
        """Return `gate` of the status; `now` in seconds, monotonic."""
        return {
            "interfaces": list(self._interfaces),
            "shut": self.is_shut(now),
            "dropped": self._dropped + self._counted,
            "last_shut_s": None if self._shut_at is None else round(now - self._shut_at, 3),
            "last_opened_s": None if self._opened_at is None else round(now - self._opened_at, 3),
            "failed": dict(self.failed),
        }

    async def run(self) -> None:
        """Make, renew and remove the table as wanted, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_shut)
            nursery.start_soon(self._keep_table)

    async def _keep_shut(self) -> None:
        while True:
            if self._wanted and self._made is not None:
                self._renew()
            await trio.sleep(RENEW_S)

    async def _keep_table(self) -> None:
        """Make and remove the table by nft, which may wait for other changes of the ruleset; renewals do not wait."""
        while True:
            self._changed = trio.Event()
            if self._wanted:
                await self._update()
            elif self._made is not None and trio.current_time() >= self._retry_at:
                await self._remove()
            with trio.move_on_after(RENEW_S):
                await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()

    def is_shut(self, now: float) -> bool:
        """Return whether the kernel's gate is shut at `now`."""
        return self._renewed_at is not None and now - self._renewed_at < gate_rules.TIMEOUT_S

    async def _update(self) -> None:
        if self._made != self._passing() and trio.current_time() >= self._retry_at:
            await self._write()
        if self._made is not None and self._wanted and trio.current_time() - self._counted_at >= COUNT_S:
            await self._count()
            self._open_without_promotion()

    def _passing(self) -> frozenset[bytes]:
        return self._own | self._links

    async def _write(self) -> None:
        """Make the table, or change the addresses to which it passes packets."""
        passing = self._passing()
        if self._made is None:
            text = gate_rules.table(self._interfaces, passing, self._knocker.getsockname()[1])
        else:
            text = gate_rules.pass_to(passing)
        if await self._ask(text) is None:
            self._retry_at = trio.current_time() + RETRY_S
            return
        self._made = passing
        if self._wanted:
            self._renew()

    def _renew(self) -> None:
        now = trio.current_time()
        if self._renewed_at is not None and not self.is_shut(now):
            self.failed["lapsed"] += 1
            log.warning("gate: the kernel opened it, as it was not renewed for %.1f s", now - self._renewed_at)
        was_shut = self.is_shut(now)
        if self._knock(gate_rules.SHUT):
            self._renewed_at = now
        else:
            self.failed["not_renewed"] += 1
        if self.is_shut(now) and not was_shut:
            self._shut_at = now
            log.info("gate: shut on %s", ", ".join(self._interfaces))

    def _knock(self, word: int) -> bool:
        """Send SHUT or OPEN to the table; return whether a rule accepted it: its drop makes sending fail (EPERM)."""
        try:
            self._knocker.sendto(b"", (gate_rules.LOOPBACK, word))
        except PermissionError:
            return True
        except OSError as error:
            log.warning(
                "gate: its rules cannot be reached over the loopback: %s; `ip link set lo up`",
                error.strerror,
            )
        return False

    async def _count(self) -> None:
        listed = await self._ask(gate_rules.COUNT)
        now = self._counted_at = trio.current_time()
        if listed is None:
            return
        counted = gate_rules.count(listed)
        if counted > self._counted:
            self._dropping = (self._dropping[0] if self._dropping else now, now)
        elif self._dropping and now - self._dropping[1] >= QUIET_S:
            self._dropping = None
        self._counted = counted

    def _open_without_promotion(self) -> None:
        """Open the gate if traffic has arrived for PATIENCE_S without a promotion: it must not wait without limit."""
        if self._dropping and not self._patient and self._dropping[1] - self._dropping[0] >= PATIENCE_S:
            self.failed["no_promotion"] += 1
            log.warning(
                "gate: opens, as traffic has arrived at this backup for %.0f s without a promotion, until another"
                " active is followed; `ftfw promote` if this node is to take over, and check why nothing promotes it",
                PATIENCE_S,
            )
            self.open()

    async def _remove(self) -> None:
        await self._count()
        made, self._made = self._made, None  # no renewals from here on
        if await self._ask(gate_rules.REMOVE) is None:
            self._made, self._retry_at = made, trio.current_time() + RETRY_S
            return
        log.info("gate: %d packets were dropped while it was shut", self._counted)
        if self._promoting:
            self._promoting = False
            self._held(self._counted)
        self._dropped, self._counted = self._dropped + self._counted, 0

    async def _ask(self, commands: str) -> str | None:
        """Run nft in a thread, as other changes of the ruleset may take long; return its output, None if refused."""
        try:
            return await trio.to_thread.run_sync(self._nft.run, commands)
        except NftError as error:
            self.failed["refused"] += 1
            log.warning("gate: nft: %s; %s", error, REMEDY)
            return None
