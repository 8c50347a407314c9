import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Conflicts are shouted by the thousand here."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)
