"""A warm commit, on a real kernel."""

import pytest
import trio

from ftfw.daemon import commit, local_host
from ftfw.kernel.injector import InjectionOutcome, Injector
from tests.kernel.entries import (
    udp,
)
from tests.kernel.namespaces import Namespace, left, table

pytestmark = pytest.mark.kernel

Pair = tuple[Namespace, Namespace]
TCP, UDP, GRE = 6, 17, 47


async def test_progress_tells_of_everything_that_is_tried(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "PROGRESS_S", 0.0)
    active, backup = pair
    for port in range(3):
        active.put(udp(port))
    store = await active.snapshot()
    told: list[dict[str, int]] = []

    async def progress(step: dict[str, int]) -> None:
        told.append(step)
        await trio.lowlevel.checkpoint()

    outcome = InjectionOutcome()
    await commit.commit(store, backup.injector, outcome, progress)
    assert told[-1] == {"done": 3, "total": 3}
    assert outcome.created == 3


async def test_timeouts_that_were_configured_since_the_start_count(pair: Pair) -> None:
    active, backup = pair
    active.put(udp(1))
    store = await active.snapshot()
    with backup:
        backup.injector = Injector(backup.requests, local_host.timeouts)
    backup.sysctl("nf_conntrack_udp_timeout_stream", 777)
    await backup.commit(store)
    assert 777 - 3 <= left((await table(backup))[1]) <= 777
