"""Requests to a real kernel, more of them at once than a socket's buffer has room for answers."""

import pytest

from ftfw.kernel import uapi
from ftfw.kernel.attributes import message
from tests.kernel.entries import alive, both
from tests.kernel.namespaces import namespaces
from tests.unit.conntrack import UDP, conn

pytestmark = pytest.mark.kernel

MANY = 12_000  # errors of so many take more than the 8 MiB that the kernel makes of REQUEST_BUFFER


def test_any_number_of_flows_can_be_asked_for() -> None:
    with namespaces(1) as (active,):
        active.put(both(17, 5000, 53) + alive())
        lacking = message(uapi.CT_GET, uapi.NLM_F_REQUEST, uapi.AF_INET, conn(UDP).key)
        there = message(uapi.CT_GET, uapi.NLM_F_REQUEST, uapi.AF_INET, both(17, 5000, 53))
        assert list(active.requests.get([lacking] * MANY + [there])) == [MANY]
        assert active.requests.get([lacking]) == {}
        assert list(active.requests.get([there])) == [0]
