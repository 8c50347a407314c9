"""Checks conf/prometheus and conf/grafana against what the daemon exposes."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ftfw.control.status_fields import FIELDS
from ftfw.daemon.metrics.metric_families import NodeMetrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "conf/prometheus/ftfw.rules.yml"
DASHBOARD = ROOT / "conf/grafana/ftfw.json"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
OWN = re.compile(r"\b(?:ftfw|process)_\w+\b")


def exposed() -> dict[str, tuple[str, set[str]]]:
    """Every sample's name with its metric's and its own labels."""
    labels = {field.metric.name: set(field.labels) for field in FIELDS if field.metric is not None}
    return {
        family.name + suffix: (family.name, labels.get(family.name, set()))
        for family in text_string_to_metric_families(NodeMetrics(dict).exposition().decode())
        for suffix in SUFFIXES[family.type]
    }


def expressions(found: Any) -> Iterator[str]:
    """Every query in a dashboard."""
    if isinstance(found, dict):
        yield from (str(found[key]) for key in ("expr", "definition") if key in found)
        found = list(found.values())
    if isinstance(found, list):
        for each in found:
            yield from expressions(each)


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_reads_the_exposition_and_has_nothing_to_say_against_the_names() -> None:
    status = {"role": "backup", "links": [{"name": 'a "link"', "sent": 1, "dropped": {"forged": 2}}]}
    told = NodeMetrics(lambda: status).exposition()
    done = subprocess.run(["promtool", "check", "metrics"], input=told, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_prometheus_loads_the_rules() -> None:
    assert re.search(r"SUCCESS: \d+ rules found", promtool("check", "rules", str(RULES)))


def test_each_alert_comes_for_its_cause_and_none_without() -> None:
    tests = RULES.with_name("ftfw.tests.yml")
    assert "SUCCESS" in promtool("test", "rules", str(tests))
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert alerts == set(re.findall(r'alertname="(\w+)"', tests.read_text()))


def test_each_alert_says_what_to_do() -> None:
    blocks = RULES.read_text().split("- alert: ")[1:]
    for block in blocks:
        assert re.findall(r"^ +(summary|description|action): \".+\"$", block, flags=re.MULTILINE) == [
            "summary",
            "description",
            "action",
        ], block


@pytest.mark.parametrize("file", [RULES, RULES.with_name("ftfw.tests.yml"), DASHBOARD])
def test_only_metrics_that_are_there_are_asked_for(file: Path) -> None:
    asked = set(OWN.findall(re.sub(r"^ *#.*$", "", file.read_text(), flags=re.MULTILINE)))
    assert len(asked) > 10
    assert asked - exposed().keys() == set()


@pytest.mark.parametrize("file", [RULES, DASHBOARD])
def test_only_labels_that_are_there_are_asked_for(file: Path) -> None:
    scraped = {"group", "instance", "job", "alertname"}
    for name, selector in re.findall(r"(ftfw_\w+)\{([^}]*)\}", file.read_text()):
        labels = set(re.findall(r"(\w+) *(?:=~|!=|=)", selector))
        assert labels <= scraped | exposed()[name][1], name


def test_the_queries_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = list(expressions(dashboard["panels"]))
    assert len(queries) > len(dashboard["panels"])
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # YAML, too
    assert f"SUCCESS: {len(queries)} rules found" in promtool("check", "rules", str(file))


NEWCOMER = """
- name: a reason that is counted for the first time
  interval: 10s
  input_series:
    - {{series: '{metric}{{instance="fw1", reason="busy"}}', values: '_x60 3x60'}}
    - {{series: '{metric}{{instance="fw2", reason="busy"}}', values: '7x60 9x60'}}
  promql_expr_test:
    - expr: '{query}'
      eval_time: 610s
      exp_samples:
        - {{labels: '{metric}{{instance="fw1", reason="busy"}}', value: 3}}
        - {{labels: '{{instance="fw2", reason="busy"}}', value: 2}}
    - expr: '{query}'
      eval_time: 900s
      exp_samples:
        - {{labels: '{{instance="fw1", reason="busy"}}', value: 0}}
        - {{labels: '{{instance="fw2", reason="busy"}}', value: 0}}
"""


def test_a_panel_shows_the_first_count_of_a_reason(tmp_path: Path) -> None:
    """`increase` and `rate` alone see nothing in a series that begins with it."""
    tests = []
    for query in expressions(json.loads(DASHBOARD.read_text())["panels"]):
        metric = query.partition("{")[0].rpartition("(")[2]
        if metric.endswith("_total") and "reason" in exposed().get(metric, ("", set()))[1]:
            chosen = re.sub(r'(group|instance)=~"\$\w+",? ?', "", query).replace("$__rate_interval", "1m")
            tests.append(NEWCOMER.format(metric=metric, query=chosen))
    assert len(tests) == 4
    file = tmp_path / "tests.yml"
    file.write_text(f"evaluation_interval: 10s\ntests:\n{''.join(tests)}")
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_the_panels_do_not_lie_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
