"""How long the ends wait at a takeover, over many of them; `./dev soak` prints it in full size."""

import os
import time
from pathlib import Path

import pytest
import trio

from tests.kernel.load import SOAK
from tests.kernel.pair import until
from tests.kernel.talk import Gap
from tests.kernel.vrrp import Router
from tests.kernel.world import advertising, power_cut, power_up, world

pytestmark = pytest.mark.kernel

ROUNDS = 50 if SOAK else 2
CROWD = 100_000 if SOAK else 5_000
# What neither ends by itself within the time nor waits for longer than a server does.
FLOWS = ("ftp-port-transfer-v4-snat", "ftp-pasv-transfer-v4-snat", "tcp-idle-v4-snat", "ssh-session")
SETTLED_S = 90.0  # a kernel in which 100,000 entries are brought up to date, on a machine that does much else
QUIET_S = 0.5  # behind a takeover, so that a pause has ended before the next one begins


@pytest.mark.parametrize("mode", ["warm", "hot"])
async def test_no_takeover_shows_an_end_an_error(tmp_path: Path, mode: str) -> None:
    """The active loses its power: cut off, killed, and empty when it comes back as the backup."""
    pauses: dict[str, list[float]] = {"TCP": [], "UDP": []}
    commits, unplanned = [], 0
    gate, edits = mode == "warm", [advertising(0.01)]
    async with world(tmp_path, mode=mode, gate=gate, crowd=CROWD, flows=FLOWS, edits=edits) as made:
        active, backup = made.both
        for number in range(1, ROUNDS + 1):
            begun = time.monotonic()
            power_cut(active)
            backup.is_("active")
            made.talked()
            await trio.sleep(QUIET_S)
            state = made.talked()
            assert (state.errors, state.broken) == ([], [])
            for kind, found in pauses.items():
                found.append(longest(kind, state.gaps, begun))
            commits.append(backup.node.status()["last_commit"]["seconds"])
            print(f"{mode}, takeover {number}: {pauses['TCP'][-1]:.3f} s")
            power_up(active)
            active.node.start("backup")
            until(lambda: active.node.status()["synced"], "in sync", limit_s=SETTLED_S)  # noqa: B023
            active.start_keepalived()
            before, (active, backup) = active, settled(*made.both)
            unplanned += active is before
        lost = await made.lost()
    print(f"{mode}, {CROWD} entries, {ROUNDS} takeovers, load average {os.getloadavg()[0]:.1f}; seconds:")
    for what, found in (*((f"pause, {kind}", found) for kind, found in pauses.items()), ("commit", commits)):
        print(f"{what:<12}{distribution(found)}")
    print(f"lost: {lost or 'none'}; takeovers besides, because an advertisement was late: {unplanned}")
    print(f"errors: {len(state.errors)}; the ends themselves were held up for {state.held_up_s:.3f} s at worst")
    assert not lost


def settled(*both: Router) -> tuple[Router, Router]:
    """The active and the backup, which holds all, once keepalived and daemons agree who is which."""

    def look() -> tuple[Router, Router] | None:
        active, backup = sorted(both, key=Router.has_addresses, reverse=True)
        told = active.node.status(), backup.node.status()
        agreed = (
            active.has_addresses() and not backup.has_addresses() and [s["role"] for s in told] == ["active", "backup"]
        )
        return (active, backup) if agreed and told[1]["synced"] and told[1]["flows"] >= CROWD else None

    return until(look, "one is active, and the other one holds all", limit_s=SETTLED_S)


def longest(kind: str, gaps: list[Gap], begun: float) -> float:
    """The longest silence at any end in the time since `begun`."""
    return max(gap.seconds for gap in gaps if gap.kind == kind and gap.ended > begun)


def distribution(found: list[float]) -> str:
    ordered = sorted(found)
    shares = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return "  ".join(f"{name} {ordered[round(share * (len(ordered) - 1))]:.3f}" for name, share in shares.items())
