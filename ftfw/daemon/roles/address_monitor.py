"""Compares the role with where the virtual addresses are.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

DISAGREEMENT_S: Final = 1.0  # longest time for which role and addresses may differ, as during a takeover
ADOPTION_S: Final = 3.0  # time with all addresses on a backup, and no active heard, until it becomes active


class AddressMonitor:
    """Tracks which virtual addresses this host has, and for how long they have not fitted its role."""

    def __init__(self, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
        self._addresses = {address.packed: str(address) for address in addresses}
        self._present: list[str] = []
        self._differs_since: float | None = None
        self._on_backup_since: float | None = None  # since when all addresses are on a backup
        self.disagreement: str | None = None

    @property
    def present(self) -> list[str]:
        """Return the virtual addresses that this host has."""
        return self._present

    @property
    def complete(self) -> bool:
        """Return whether there are virtual addresses, and this host has all of them."""
        return bool(self._present) and len(self._present) == len(self._addresses)

    def learn_addresses(self, own: frozenset[bytes]) -> None:
        """Record all addresses of this host, packed."""
        self._present = [text for packed, text in self._addresses.items() if packed in own]

    def check_role(self, role: str | None, now: float) -> bool:
        """Update `disagreement` between role and addresses; return whether it has changed.

        `now` is in seconds, monotonic.  `role` is None while it changes: no disagreement begins then.
        """
        found = self._difference(role) if role is not None else None
        if found is None:
            self._differs_since = None
        elif self._differs_since is None:
            self._differs_since = now
        lasts = self._differs_since is not None and now - self._differs_since >= DISAGREEMENT_S
        before, self.disagreement = self.disagreement, found if lasts else None
        return self.disagreement != before

    def must_adopt(self, role: str | None, now: float) -> bool:
        """Return whether all virtual addresses have been on a backup for ADOPTION_S.

        The caller calls this regularly: the time counts from the first call that finds them.
        """
        if role != "backup" or not self.complete:
            self._on_backup_since = None
        elif self._on_backup_since is None:
            self._on_backup_since = now
        return self._on_backup_since is not None and now - self._on_backup_since >= ADOPTION_S

    def _difference(self, role: str) -> str | None:
        missing = [text for text in self._addresses.values() if text not in self._present]
        if role == "active" and missing:
            return f"this node is active without {', '.join(missing)}"
        if role == "backup" and self._present:
            return f"this node is backup, and {', '.join(self._present)} is here"
        return None
