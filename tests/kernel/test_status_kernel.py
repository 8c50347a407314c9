"""Compares the status of running daemons with the declaration of its fields."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftfw.control.status_fields import FIELDS, field_at
from tests.kernel.pair import Node, pair, until

pytestmark = pytest.mark.kernel

MORE = (
    '[metrics]\nlisten = "127.0.0.1:9166"\n[takeover]\ngate_interfaces = ["lan"]\n'
    '[keepalived]\naddresses = ["192.0.2.77"]\n'
)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    with pair(tmp_path, more=MORE) as both:
        yield both


def keys(found: Any, *above: str) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each value; a section that is null, and what is below a declared mapping, is left out."""
    sections = {field.parts[0] for field in FIELDS if len(field.parts) > 1}
    for key, value in found.items():
        field = field_at((*above, key))
        if isinstance(value, dict) and field is None:
            yield from keys(value, *above, key)
        elif isinstance(value, list) and f"{key}[]" in sections:
            for each in value:
                yield from keys(each, f"{key}[]")
        elif value is not None or key not in sections:
            yield (*above, key)


def test_a_status_has_the_declared_fields_and_no_others(nodes: tuple[Node, Node]) -> None:
    active, backup = nodes
    active.start("active")
    active.insert(1)
    backup.start("backup")
    until(lambda: backup.status()["synced"], "in sync")
    told = set(keys(backup.status()))
    until(lambda: any(peer["lag_s"] is not None for peer in active.status()["peers"]), "the backup is acknowledged")
    told |= set(keys(active.status()))
    active.kill()
    backup.ftfw("promote")
    told |= set(keys(backup.status()))
    assert told == {field.parts for field in FIELDS}
