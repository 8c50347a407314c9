import os
from collections.abc import Iterator

import pytest

from tests.kernel.namespaces import Namespace, namespaces


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    """The active's kernel and the backup's."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with namespaces(2) as (active, backup):
        yield active, backup
