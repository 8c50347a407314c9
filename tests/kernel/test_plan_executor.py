"""Plans carried out on a real kernel."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from ftfw.daemon.plan_executor import recreate
from ftfw.kernel.injector import InjectionOutcome
from tests.kernel.entries import CLIENT, SERVER, alive, both, master, ports, tcp, udp
from tests.kernel.namespaces import Namespace, table
from tests.kernel.test_expectations import FTP

pytestmark = pytest.mark.kernel

Pair = tuple[Namespace, Namespace]
TCP, UDP, GRE = 6, 17, 47


async def test_a_gre_flow_is_not_lost_when_its_new_timer_is_interrupted(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, backup = pair
    active.put(both(GRE, 5, 5) + alive())
    store = await active.snapshot()
    await backup.commit(store)
    delete = backup.injector.delete
    with backup, trio.CancelScope() as scope:

        async def delete_and_end(keys: Iterable[bytes], outcome: InjectionOutcome) -> None:
            await delete(keys, outcome)
            scope.cancel()

        monkeypatch.setattr(backup.injector, "delete", delete_and_end)
        await recreate(store.rich.items(), backup.injector, InjectionOutcome())
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert set(await table(backup)) == {5}


async def test_a_read_only_sysctl_costs_gre_its_counters_and_nothing_else(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_path: Path, _text: str) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    active, backup = pair
    active.put(udp(1))
    active.put(both(GRE, 5, 5) + alive())
    store = await active.snapshot()
    monkeypatch.setattr(Path, "write_text", refuse)
    outcome = await backup.commit(store)
    assert (outcome.created, outcome.failed) == (2, {})
    assert "nf_conntrack_acct = 1" in caplog.text


async def test_only_gre_flows_count_packets(pair: Pair) -> None:
    """Counters make every message about an entry longer, and defeat the shapes of the hot path."""
    active, backup = pair
    for flow in (udp(1), both(TCP, 2, 80) + alive() + tcp(), FTP, both(GRE, 5, 5) + alive()):
        active.put(flow)
    active.put(both(TCP, 5001, 20000) + alive() + tcp() + master(CLIENT, SERVER, TCP, ports(5000, 21)))
    await backup.commit(await active.snapshot())
    listed = backup.run("conntrack", "-L").splitlines()
    assert len(listed) == 5
    assert [line.split()[0] for line in listed if "packets=0" in line] == ["gre"]
    assert backup.get_sysctl("nf_conntrack_acct") == 0, "left as it was found"
