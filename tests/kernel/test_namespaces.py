"""Hosts of the lab that are network namespaces."""

import pytest

from ftfw.lab import topology
from ftfw.lab.namespaces import network

pytestmark = pytest.mark.kernel


async def test_a_host_can_be_made_again_as_soon_as_it_is_deleted() -> None:
    """The kernel deletes a namespace's own interfaces some time after the namespace."""
    async with network() as built:
        for _ in range(20):
            await built.add(topology.FW2)
            await built.delete(topology.FW2)
