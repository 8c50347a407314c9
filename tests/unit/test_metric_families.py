from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ftfw.control.status_fields import FIELDS
from ftfw.daemon.metrics.metric_families import NodeMetrics, collect

NAMES = [field.metric.name for field in FIELDS if field.metric is not None]

BACKUP: dict[str, Any] = {
    "node": "fw2",
    "mode": "warm",
    "version": "1.2",
    "role": "backup",
    "ready": True,
    "synced": False,
    "conflict": False,
    "flows": 300,
    "expectations": 2,
    "peers": [{"name": "fw1", "role": "active", "last_seen_s": 0.25, "lag_s": None, "acked": None}],
    "links": [
        {"name": "sync", "up": True, "sent": 1, "received": 2, "bytes_sent": 3, "bytes_received": 4, "dropped": {}},
        {"name": "sync", "up": False, "sent": 5, "dropped": {"forged": 6, "kernel": 7}},
    ],
    "kernel": {
        "entries": 310,
        "entries_max": 1000,
        "events": 9,
        "overruns": 0,
        "inject_failed": {"busy": 1},
        "dropped": {"malformed": 2},
    },
    "stream": {"behind": 3, "gaps": 1, "repaired": {"missing": 4, "stale": 0, "different": 0}, "challenges": 8},
    "last_commit": None,
    "keepalived": {"fifo": "open", "fifo_writer": True, "disagreement": None, "dropped": {"no_state": 3}},
    "gate": {"shut": True, "dropped": 11, "failed": {"lapsed": 1}},
}
COMMIT = {"seconds": 0.5, "created": 3, "updated": 2, "deleted": 1, "failed": {"busy": 4}, "otherwise": {}}


def told(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def exposition(status: dict[str, Any]) -> dict[str, Metric]:
    return told(NodeMetrics(lambda: status).exposition().decode())


def samples(status: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in exposition(status).values()
        for sample in family.samples
    }


def test_what_a_backup_tells() -> None:
    found = samples(BACKUP)
    expected = {
        ("ftfw_node_info", "warm", "fw2", "1.2"): 1,
        ("ftfw_active",): 0,
        ("ftfw_ready",): 1,
        ("ftfw_synced",): 0,
        ("ftfw_flows",): 300,
        ("ftfw_conntrack_entries_limit",): 1000,
        ("ftfw_peer_active", "fw1"): 1,
        ("ftfw_peer_silence_seconds", "fw1"): 0.25,
        ("ftfw_link_up", "0", "sync"): 1,
        ("ftfw_link_up", "1", "sync"): 0,
        ("ftfw_link_sent_frames_total", "1", "sync"): 5,
        ("ftfw_link_dropped_total", "1", "sync", "forged"): 6,
        ("ftfw_inject_failed_total", "busy"): 1,
        ("ftfw_messages_dropped_total", "malformed"): 2,
        ("ftfw_stream_behind_frames",): 3,
        ("ftfw_stream_repaired_entries_total", "missing"): 4,
        ("ftfw_challenges_total",): 8,
        ("ftfw_keepalived_fifo_open",): 1,
        ("ftfw_keepalived_disagreement",): 0,
        ("ftfw_gate_shut",): 1,
        ("ftfw_gate_dropped_packets_total",): 11,
        ("ftfw_gate_failed_total", "lapsed"): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found[("process_resident_memory_bytes",)] > 0


def test_what_is_not_known_is_not_told() -> None:
    found = samples({**BACKUP, "synced": None, "flows": None, "keepalived": None, "gate": None})
    absent = (
        "ftfw_synced",
        "ftfw_flows",
        "ftfw_keepalived_disagreement",
        "ftfw_keepalived_fifo_open",
        "ftfw_gate_shut",
    )
    assert [key for key in found if key[0] in absent] == []
    assert ("ftfw_peer_lag_seconds", "fw1") not in found


def test_a_fifo_in_trouble_and_a_disagreement() -> None:
    found = samples({"keepalived": {"fifo": "f: cannot be made", "disagreement": "active without 192.0.2.1"}})
    assert (found[("ftfw_keepalived_fifo_open",)], found[("ftfw_keepalived_disagreement",)]) == (0, 1)
    deaf = samples({"keepalived": {"fifo": "open", "fifo_writer": False, "disagreement": None}})
    assert deaf[("ftfw_keepalived_fifo_open",)] == 0
    without = samples({"keepalived": {"fifo": None, "disagreement": None}})
    assert ("ftfw_keepalived_fifo_open",) not in without


def test_the_last_commit() -> None:
    found = samples({**BACKUP, "role": "active", "last_commit": COMMIT})
    assert found[("ftfw_active",)] == 1
    assert found[("ftfw_last_commit_seconds",)] == 0.5
    assert found[("ftfw_last_commit_failed_entries", "busy")] == 4


def test_takeovers_are_histograms() -> None:
    metrics = NodeMetrics(lambda: BACKUP)
    metrics.commits.observe(0.03)
    metrics.held.observe(0)
    families = told(metrics.exposition().decode())
    assert families["ftfw_commit_seconds"].type == "histogram"
    buckets = {
        sample.labels["le"]: sample.value
        for sample in families["ftfw_commit_seconds"].samples
        if sample.name == "ftfw_commit_seconds_bucket"
    }
    assert (buckets["0.025"], buckets["0.05"], buckets["+Inf"]) == (0, 1, 1)
    assert families["ftfw_promotion_seconds"].type == families["ftfw_promotion_held_packets"].type == "histogram"


def test_every_metric_is_there_without_samples_of_what_is_not_known() -> None:
    assert exposition({}).keys() >= set(NAMES)
    assert {key[0] for key in samples({})} & set(NAMES) == {"ftfw_active"}


def broken(value: Any) -> "st.SearchStrategy[Any]":
    """The value, or with parts of it taken out or None."""
    whole: st.SearchStrategy[Any]
    if isinstance(value, dict):
        whole = st.fixed_dictionaries({}, optional={key: broken(each) for key, each in value.items()})
    elif isinstance(value, list):
        whole = st.tuples(*map(broken, value)).map(lambda parts: [part for part in parts if part is not None])
    else:
        whole = st.just(value)
    return st.none() | whole


@given(broken({**BACKUP, "last_commit": COMMIT}).filter(lambda found: found is not None))
def test_any_part_of_a_status_may_be_missing(status: dict[str, Any]) -> None:
    assert set(NAMES) <= exposition(status).keys()


def test_a_registry_does_not_ask_for_a_status_to_learn_the_names() -> None:
    def unasked() -> dict[str, Any]:
        raise AssertionError

    assert len(list(NodeMetrics(unasked).describe())) == len(NAMES) + 1
    assert len(list(collect({}))) == len(NAMES) + 1
