"""Watches addresses that really come and go."""

import pytest
import trio

from ftfw.daemon import local_host
from ftfw.system import interfaces
from tests.kernel.namespaces import Namespace, namespaces

pytestmark = pytest.mark.kernel


def test_the_addresses_are_told_at_the_start_and_whenever_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "addresses", lambda: frozenset({b"own"}))  # a thread may be in another namespace

    async def work(namespace: Namespace) -> None:
        told: list[frozenset[bytes]] = []

        async def changed(count: int) -> None:
            with trio.fail_after(10):
                while len(told) < count:  # noqa: ASYNC110  what is waited for has no event
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(local_host.watch_addresses, told.append)
            await changed(1)
            for command in ("add", "delete"):
                before = len(told)
                namespace.run("ip", "address", command, "192.0.2.1/24", "dev", "lo")
                await changed(before + 1)
            nursery.cancel_scope.cancel()
        assert set(told) == {frozenset({b"own"})}

    with namespaces(1) as (only,), only:
        trio.run(work, only)
