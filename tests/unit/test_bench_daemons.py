from collections.abc import Callable

import pytest

from bench.daemons import parse_overruns, parse_statistics
from bench.errors import BenchError

STATISTICS = """cache internal:
current active connections:\t           7
connections created:\t\t          19\tfailed:\t           0

cache external:
current active connections:\t      300000
connections created:\t\t      300001\tfailed:\t           0

traffic processed:
"""


def test_conntrackd_statistics() -> None:
    assert parse_statistics(STATISTICS) == 300_000
    assert parse_overruns("netlink stats:\n\tnetlink overrun:\t\t           3\n\tflush kernel table:\t 9\n") == 3


@pytest.mark.parametrize("parse", [parse_statistics, parse_overruns])
def test_statistics_in_another_form_are_refused(parse: Callable[[str], int]) -> None:
    with pytest.raises(BenchError, match="printed no"):
        parse("cache internal:\ncurrent active connections: 7\n")
