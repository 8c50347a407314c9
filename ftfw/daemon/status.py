"""Gathers the node's status from all of its parts.

`ftfw.control.status_fields` declares the fields; a new one is declared there and filled here.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from ftfw import __version__
from ftfw.config.schema import Config
from ftfw.daemon.gate import Gate
from ftfw.daemon.keepalived_task import KeepalivedTask
from ftfw.daemon.metrics.scrape_listener import ScrapeListener
from ftfw.daemon.role_runner import RoleRunner
from ftfw.daemon.systemd import one_line
from ftfw.daemon.transport import Transport
from ftfw.kernel.event_selector import Selector
from ftfw.kernel.netlink import dump_expectations, dump_flows
from ftfw.replication.host_facts import Fact
from ftfw.replication.store import REPAIRS
from ftfw.system import sysctl

COUNTS_AGE_S: Final = 1.0  # how old an active's counts of its kernel's entries may be


@dataclass(kw_only=True)
class NodeStatus:
    """Describes the node.  Reads its parts and changes none of them; times are seconds, monotonic (trio's clock)."""

    config: Config
    transport: Transport
    roles: RoleRunner
    keepalived: KeepalivedTask
    gate: Gate | None
    scrapes: ScrapeListener | None
    selector: Selector
    counts: Counter[str]  # events, overruns
    dropped: Counter[str]  # messages that the selector dropped, by reason
    facts: Callable[[], dict[str, Fact]]
    _counted: tuple[float, int, int] = field(init=False, default=(float("-inf"), 0, 0))  # when, flows, expectations

    async def count_entries(self) -> tuple[int, int]:
        """Return how many flows and expectations are held (backup), or pass the filter in this kernel (active).

        An active reads its kernel's table for that, unless it has done so within COUNTS_AGE_S.
        """
        backup_role = self.roles.backup_role
        if backup_role is not None:
            return backup_role.store.flow_count(), len(backup_role.store.expectations)
        counted_at, flows, expectations = self._counted
        if trio.current_time() - counted_at > COUNTS_AGE_S:
            counted = []
            for dump in (dump_flows, dump_expectations):
                async with aclosing(dump()) as batches:
                    counted.append(sum([len(self.selector.dumped(b).messages) async for b in batches]))
            flows, expectations = counted
            self._counted = (trio.current_time(), flows, expectations)
        return flows, expectations

    def known_counts(self) -> tuple[int | None, int | None]:
        """Return the counts without a dump, None if unknown: a client that asks regularly must not cost dumps."""
        backup_role, active_role = self.roles.backup_role, self.roles.active_role
        if backup_role is not None:
            return backup_role.store.flow_count(), len(backup_role.store.expectations)
        return active_role.table_counts if active_role is not None else (None, None)

    def describe(self, flows: int | None, expectations: int | None) -> dict[str, Any]:
        """Return the whole status, with these counts."""
        now = trio.current_time()
        link, links = self.transport.status(now)
        return {
            "node": self.config.node.name,
            "role": self.roles.role,
            "synced": self._synced(now),
            "why_not_synced": self._why_not_synced(now),
            "ready": self.ready(now),
            "conflict": self.roles.member.peers.conflict(self.roles.role, now),
            "flows": flows,
            "expectations": expectations,
            "peers": self._peers(now),
            "link": link,
            "links": links,
            "kernel": self._kernel(),
            "stream": self._stream(),
            "last_commit": self.roles.last_commit,
            "keepalived": self.keepalived.status(),
            "gate": self.gate.status(now) if self.gate is not None else None,
            "metrics": self.scrapes.status() if self.scrapes is not None else None,
            "mode": self.config.standby.mode,
            "version": __version__,
            "facts": self.facts(),
        }

    def ready(self, now: float) -> bool:
        """Return whether this node may take over, or is active."""
        backup_role = self.roles.backup_role
        if backup_role is None:
            return self.roles.active_role is not None
        return backup_role.backup.ready(now) or self._has_the_traffic(now)

    def line(self) -> str:
        """Return the status in one line, for systemd."""
        now, role = trio.current_time(), self.roles.role
        conflict = self.roles.member.peers.conflict(role, now)
        return one_line(role, conflict=conflict, synced=self._synced(now), why_not=self._why_not_synced(now))

    def _has_the_traffic(self, now: float) -> bool:
        """Return whether this kernel's table is all that is left: the addresses are here, and no node is active."""
        return self.keepalived.holds_all_addresses and not self.roles.member.peers.actives(now)

    def _synced(self, now: float) -> bool | None:
        backup_role, active_role = self.roles.backup_role, self.roles.active_role
        if backup_role is not None:
            return backup_role.backup.synced(now)
        return active_role.active.synced(now) if active_role is not None else False

    def _why_not_synced(self, now: float) -> str | None:
        backup_role, active_role = self.roles.backup_role, self.roles.active_role
        if backup_role is not None:
            return backup_role.backup.why_not(now)
        return active_role.active.why_not(now) if active_role is not None else None

    def _kernel(self) -> dict[str, Any]:
        return {
            "entries": sysctl.read("nf_conntrack_count"),
            "entries_max": sysctl.read("nf_conntrack_max"),
            "events": self.counts["events"],
            "overruns": self.counts["overruns"],
            "inject_failed": dict(self.roles.inject_failed),
            "dropped": dict(self.dropped + self.roles.member.dropped + self.roles.dropped),
        }

    def _stream(self) -> dict[str, Any]:
        proofs = dict(self.transport.freshness.counts)
        backup_role, active_role = self.roles.backup_role, self.roles.active_role
        if backup_role is not None:
            backup = backup_role.backup
            return {
                "state": backup.state.value,
                "incoming": backup_role.store.snapshot_size if backup_role.store.in_snapshot else None,
                "behind": backup.behind,
                "waiting": backup.waiting,
                "waiting_bytes": backup.waiting_bytes,
                "gaps": backup.gaps,
                "repeated": backup.repeated,
                "snapshots": backup.snapshots,
                "stale": backup.stale,
                "compared": backup.compared,
                "repaired": {kind: backup_role.store.repaired[kind] for kind in REPAIRS},
                **proofs,
            }
        if active_role is not None:
            active = active_role.active
            return {
                "kept_bytes": active.kept_bytes,
                "resent": active.resent,
                "outrun": active.outrun,
                "compared": active.compared,
                **proofs,
            }
        return proofs

    def _peers(self, now: float) -> list[dict[str, Any]]:
        active_role = self.roles.active_role
        active = active_role.active if active_role is not None else None
        described = []
        for peer in sorted(self.roles.member.peers.known.values(), key=lambda peer: peer.name):
            backup = active.backups.get(peer.name) if active else None
            described.append(
                {
                    "name": peer.name,
                    "role": peer.role,
                    "last_seen_s": round(now - peer.heard_at, 3),
                    "lag_s": round(active.lag_s(backup, now), 6) if active and backup else None,
                    "acked": backup.acked if backup else None,
                    "heard_for_s": round(peer.heard_at - peer.since, 3),
                    "facts": {**peer.facts, "age_s": round(now - peer.told_at, 3)} if peer.facts else None,
                }
            )
        return described
