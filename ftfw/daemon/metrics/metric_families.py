"""The daemon's status as Prometheus metrics.  Pure: each figure but the histograms is read from what `status` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

Status = dict[str, Any]
Samples = Iterable[tuple[tuple[str, ...], Any]]
"""The labels' values, and what stands there; only numbers and booleans are exposed."""

SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PACKETS_BUCKETS: Final = (0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


class Family(NamedTuple):
    """A metric: of the counters, the name is without `_total`."""

    kind: type[GaugeMetricFamily | CounterMetricFamily]
    name: str
    text: str
    labels: tuple[str, ...]
    samples: Callable[[Status], Samples]


def _in(status: Status, *path: str) -> Any:
    found: Any = status
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _one(*path: str) -> Callable[[Status], Samples]:
    """What stands at this path."""
    return lambda status: [((), _in(status, *path))]


def _by_key(*path: str) -> Callable[[Status], Samples]:
    """Each value of the mapping at this path, labelled by its key."""
    return lambda status: [((str(key),), value) for key, value in (_in(status, *path) or {}).items()]


def _per_peer(read: Callable[[Status], Any]) -> Callable[[Status], Samples]:
    return lambda status: [((str(peer.get("name")),), read(peer)) for peer in status.get("peers") or []]


def _per_link(key: str) -> Callable[[Status], Samples]:
    return lambda status: [(label, link.get(key)) for label, link in _links(status)]


def _links(status: Status) -> Iterator[tuple[tuple[str, str], Status]]:
    """Two links may have the same name; they never have the same number."""
    for number, link in enumerate(status.get("links") or []):
        yield (str(number), str(link.get("name"))), link


def _link_drops(status: Status) -> Samples:
    for label, link in _links(status):
        for reason, count in (link.get("dropped") or {}).items():
            yield (*label, str(reason)), count


def _fifo_open(status: Status) -> Samples:
    fifo = _in(status, "keepalived", "fifo")
    return [((), None if fifo is None else fifo == "open" and _in(status, "keepalived", "fifo_writer") is True)]


def _disagreement(status: Status) -> Samples:
    keepalived = status.get("keepalived")
    return [((), keepalived and keepalived.get("disagreement") is not None)]


_GAUGE, _COUNTER = GaugeMetricFamily, CounterMetricFamily
_LINK: Final = ("link", "name")

FAMILIES: Final = (
    Family(_GAUGE, "ftfw_active", "1 on an active, 0 on a backup", (), lambda s: [((), s.get("role") == "active")]),
    Family(_GAUGE, "ftfw_ready", "1 if this node may take over, or is active", (), _one("ready")),
    Family(_GAUGE, "ftfw_synced", "1 if in sync; absent on an active without backups", (), _one("synced")),
    Family(_GAUGE, "ftfw_conflict", "1 if more than one node is active", (), _one("conflict")),
    Family(_GAUGE, "ftfw_flows", "flows held (backup), or replicated at the last look (active)", (), _one("flows")),
    Family(_GAUGE, "ftfw_expectations", "likewise, expectations", (), _one("expectations")),
    Family(_GAUGE, "ftfw_conntrack_entries", "entries in this kernel, of any kind", (), _one("kernel", "entries")),
    Family(_GAUGE, "ftfw_conntrack_entries_limit", "nf_conntrack_max", (), _one("kernel", "entries_max")),
    Family(
        _GAUGE,
        "ftfw_peer_active",
        "1 if the peer says it is active",
        ("peer",),
        _per_peer(lambda peer: peer.get("role") == "active"),
    ),
    Family(
        _GAUGE,
        "ftfw_peer_silence_seconds",
        "since the peer was last heard",
        ("peer",),
        _per_peer(lambda peer: peer.get("last_seen_s")),
    ),
    Family(
        _GAUGE,
        "ftfw_peer_lag_seconds",
        "age of the oldest frame that the backup has not acknowledged",
        ("peer",),
        _per_peer(lambda peer: peer.get("lag_s")),
    ),
    Family(_GAUGE, "ftfw_link_up", "1 if frames go out and somebody is heard", _LINK, _per_link("up")),
    Family(_COUNTER, "ftfw_link_sent_frames", "frames sent", _LINK, _per_link("sent")),
    Family(_COUNTER, "ftfw_link_received_frames", "frames received", _LINK, _per_link("received")),
    Family(_COUNTER, "ftfw_link_sent_bytes", "bytes of frames sent", _LINK, _per_link("bytes_sent")),
    Family(_COUNTER, "ftfw_link_received_bytes", "bytes of frames received", _LINK, _per_link("bytes_received")),
    Family(_COUNTER, "ftfw_link_dropped", "frames dropped, by reason", (*_LINK, "reason"), _link_drops),
    Family(_COUNTER, "ftfw_events", "conntrack events taken from the kernel", (), _one("kernel", "events")),
    Family(
        _COUNTER,
        "ftfw_overruns",
        "times when the kernel had more events than its buffer holds",
        (),
        _one("kernel", "overruns"),
    ),
    Family(
        _COUNTER,
        "ftfw_messages_dropped",
        "messages dropped behind the links, by reason",
        ("reason",),
        _by_key("kernel", "dropped"),
    ),
    Family(
        _COUNTER,
        "ftfw_inject_failed",
        "entries that the kernel refused, by reason",
        ("reason",),
        _by_key("kernel", "inject_failed"),
    ),
    Family(
        _GAUGE, "ftfw_stream_behind_frames", "backup: frames known of and not applied", (), _one("stream", "behind")
    ),
    Family(_COUNTER, "ftfw_stream_gaps", "backup: gaps that could not be filled", (), _one("stream", "gaps")),
    Family(_COUNTER, "ftfw_stream_repeated_frames", "backup: frames that came again", (), _one("stream", "repeated")),
    Family(_COUNTER, "ftfw_stream_snapshots", "backup: whole snapshots taken in", (), _one("stream", "snapshots")),
    Family(
        _COUNTER,
        "ftfw_stream_stale_entries",
        "backup: entries that went at the end of a snapshot",
        (),
        _one("stream", "stale"),
    ),
    Family(_COUNTER, "ftfw_stream_comparisons", "comparisons completed", (), _one("stream", "compared")),
    Family(
        _COUNTER,
        "ftfw_stream_repaired_entries",
        "backup: what comparisons found wrong, by kind",
        ("kind",),
        _by_key("stream", "repaired"),
    ),
    Family(_COUNTER, "ftfw_stream_resent_frames", "active: frames sent again", (), _one("stream", "resent")),
    Family(
        _COUNTER,
        "ftfw_stream_outrun_frames",
        "active: frames let go before every backup had them",
        (),
        _one("stream", "outrun"),
    ),
    Family(_COUNTER, "ftfw_challenges", "challenges to senders of a new epoch", (), _one("stream", "challenges")),
    Family(_COUNTER, "ftfw_responses", "answers to challenges", (), _one("stream", "responses")),
    Family(_COUNTER, "ftfw_proofs", "epochs proved alive", (), _one("stream", "proofs")),
    Family(_GAUGE, "ftfw_last_commit_seconds", "how long the last commit took", (), _one("last_commit", "seconds")),
    Family(_GAUGE, "ftfw_last_commit_created_entries", "entries that it created", (), _one("last_commit", "created")),
    Family(_GAUGE, "ftfw_last_commit_updated_entries", "entries that it updated", (), _one("last_commit", "updated")),
    Family(_GAUGE, "ftfw_last_commit_deleted_entries", "entries that it replaced", (), _one("last_commit", "deleted")),
    Family(
        _GAUGE,
        "ftfw_last_commit_failed_entries",
        "entries refused in it, by reason",
        ("reason",),
        _by_key("last_commit", "failed"),
    ),
    Family(
        _GAUGE,
        "ftfw_last_commit_otherwise_entries",
        "entries put in otherwise than asked for, by reason",
        ("reason",),
        _by_key("last_commit", "otherwise"),
    ),
    Family(_GAUGE, "ftfw_keepalived_fifo_open", "1 if keepalived has the FIFO open, and ftfw reads it", (), _fifo_open),
    Family(_GAUGE, "ftfw_keepalived_disagreement", "1 if role and virtual addresses disagree", (), _disagreement),
    Family(
        _COUNTER,
        "ftfw_keepalived_dropped",
        "notifications that did not count, by reason",
        ("reason",),
        _by_key("keepalived", "dropped"),
    ),
    Family(_GAUGE, "ftfw_gate_shut", "1 if traffic waits here", (), _one("gate", "shut")),
    Family(_COUNTER, "ftfw_gate_dropped_packets", "packets dropped by the gate", (), _one("gate", "dropped")),
    Family(
        _COUNTER,
        "ftfw_gate_failed",
        "times when the gate did not do what it should, by reason",
        ("reason",),
        _by_key("gate", "failed"),
    ),
)


def collect(status: Status) -> Iterator[Metric]:
    """All metrics of a status; what is None or absent in it has no sample."""
    yield InfoMetricFamily("ftfw_node", "this node", {key: str(status.get(key)) for key in ("node", "mode", "version")})
    for kind, name, text, labels, samples in FAMILIES:
        family = kind(name, text, labels=labels)
        for label, value in samples(status):
            if isinstance(value, bool | int | float):
                family.add_metric(label, float(value))
        yield family


class Metrics(Collector):
    """What Prometheus is told: the status at that time, this process, and how long takeovers took."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._registry = CollectorRegistry()
        self.commits = self._histogram("ftfw_commit_seconds", "putting what is held into the kernel", SECONDS_BUCKETS)
        self.promotions = self._histogram(
            "ftfw_promotion_seconds", "from the beginning of a promotion until this node streams", SECONDS_BUCKETS
        )
        self.held = self._histogram(
            "ftfw_promotion_held_packets", "packets that the gate dropped before a promotion was done", PACKETS_BUCKETS
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)

    def collect(self) -> Iterator[Metric]:
        """For the registry: what follows from the status."""
        return collect(self._status())

    def describe(self) -> Iterator[Metric]:
        """For the registry: the names, without asking for a status."""
        return collect({})

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)
