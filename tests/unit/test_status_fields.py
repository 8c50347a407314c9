import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ftfw.control.status_fields import FIELDS, Grade, field_at, grade
from ftfw.daemon.metrics.metric_families import NodeMetrics

DOCS = Path(__file__).parents[2] / "docs"


def test_no_field_and_no_metric_is_declared_twice() -> None:
    paths = [field.parts for field in FIELDS]
    names = [field.metric.name for field in FIELDS if field.metric is not None]
    assert len(set(paths)) == len(paths)
    assert len(set(names)) == len(names)


def test_names_of_metrics_follow_the_conventions_of_prometheus() -> None:
    names = [field.metric.name for field in FIELDS if field.metric is not None]
    assert len(names) > 40
    assert [name for name in names if not name.startswith("ftfw_") or name.endswith("_total")] == []


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (("role",), "role"),
        (("peers[]", "lag_s"), "peers[].lag_s"),
        (("kernel", "dropped"), "kernel.dropped{reason}"),
        (("kernel", "dropped", "malformed"), "kernel.dropped{reason}"),
        (("peers[]", "facts", "mtu"), "peers[].facts{fact}"),
    ],
)
def test_a_field_is_found_by_its_keys(parts: tuple[str, ...], path: str) -> None:
    field = field_at(parts)
    assert field is not None
    assert field.path == path


@pytest.mark.parametrize(
    "parts", [("novelty",), ("kernel", "novelty"), ("kernel", "events", "novelty"), ("peers", "name")]
)
def test_what_is_not_declared_is_not_found_and_not_judged(parts: tuple[str, ...]) -> None:
    assert field_at(parts) is None
    assert grade(parts, 1) is None


@pytest.mark.parametrize(
    ("parts", "value", "expected"),
    [
        (("ready",), True, Grade.GOOD),
        (("ready",), False, Grade.BAD),
        (("synced",), None, None),
        (("conflict",), False, Grade.GOOD),
        (("conflict",), True, Grade.BAD),
        (("links[]", "up"), False, Grade.BAD),
        (("peers[]", "last_seen_s"), 0.99, Grade.GOOD),
        (("peers[]", "last_seen_s"), 1.0, Grade.DOUBTFUL),
        (("peers[]", "last_seen_s"), 3.0, Grade.BAD),
        (("peers[]", "lag_s"), 0.1, Grade.DOUBTFUL),
        (("peers[]", "lag_s"), None, None),
        (("kernel", "overruns"), 0, None),
        (("kernel", "overruns"), 1, Grade.DOUBTFUL),
        (("kernel", "events"), 1, None),
        (("kernel", "dropped", "malformed"), 2, Grade.DOUBTFUL),
        (("kernel", "dropped", "malformed"), 0, None),
        (("kernel", "dropped"), {}, None),
        (("link", "dropped", "duplicate"), 5, None),
        (("link", "dropped", "udp 192.0.2.1: duplicate"), 5, None),
        (("link", "dropped", "udp 192.0.2.1: forged"), 5, Grade.DOUBTFUL),
        (("keepalived", "dropped", "no_state"), 5, None),
        (("keepalived", "fifo"), "open", Grade.GOOD),
        (("keepalived", "fifo"), "f: no such file", Grade.BAD),
        (("keepalived", "fifo_writer"), True, None),
        (("keepalived", "fifo_writer"), False, Grade.BAD),
        (("keepalived", "disagreement"), "active without 192.0.2.1", Grade.BAD),
        (("why_not_synced",), "no active is heard", Grade.DOUBTFUL),
        (("why_not_synced",), None, None),
    ],
)
def test_a_value_is_judged_by_its_field(parts: tuple[str, ...], value: object, expected: Grade | None) -> None:
    assert grade(parts, value) is expected


def rows(text: str) -> list[list[str]]:
    """The cells of each row that begins with code."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]


def test_the_documented_fields_are_those_declared_in_their_order() -> None:
    table = (DOCS / "commands.md").read_text().partition("| field | meaning |\n")[2].partition("\n\n")[0]
    assert rows(table) == [[f"`{field.path}`", field.meaning] for field in FIELDS]


def test_the_documented_metrics_are_those_exposed() -> None:
    told = {
        cells[0].strip("`"): (cells[1], re.findall(r"`(\w+)`", cells[2]), cells[3])
        for cells in rows((DOCS / "metrics.md").read_text())
    }
    labels = {field.metric.name: list(field.labels) for field in FIELDS if field.metric is not None}
    exposed: dict[str, tuple[str, list[str], str]] = {}
    for family in text_string_to_metric_families(NodeMetrics(dict).exposition().decode()):
        if family.name.startswith("ftfw_") and not family.name.endswith(("_info", "_created")):
            suffix = "_total" if family.type == "counter" else ""
            exposed[family.name + suffix] = (family.type, labels.get(family.name, []), family.documentation)
    assert told.pop("ftfw_node_info")[:2] == ("info", ["node", "mode", "version"])
    assert told == exposed
