"""Exposes the daemon's status as Prometheus metrics.  Pure.

Each figure but the histograms is read from the status, as `ftfw.control.status_fields` declares it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ftfw.control.status_fields import FIELDS, Parts, Status, StatusField

SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PACKETS_BUCKETS: Final = (0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


def collect(status: Status) -> Iterator[Metric]:
    """Yield all metrics of a status; a field that is None or absent has no sample."""
    yield InfoMetricFamily("ftfw_node", "this node", {key: str(status.get(key)) for key in ("node", "mode", "version")})
    for field in FIELDS:
        if field.metric is not None:
            make = GaugeMetricFamily if field.metric.kind == "gauge" else CounterMetricFamily
            family = make(field.metric.name, field.help_text, labels=field.labels)
            for labels, value in _samples(field, status):
                family.add_metric(labels, value)
            yield family


def _samples(field: StatusField, status: Status) -> Iterator[tuple[Parts, float]]:
    """Yield the labels' values and the value of each sample."""
    assert field.metric is not None
    *_, key = field.parts
    for labels, holder in _holders(field.parts, status):
        value = holder.get(key)
        found: list[tuple[Parts, object]] = [(labels, field.metric.read(value, holder))]
        if field.key_label is not None:
            found = [((*labels, str(reason)), count) for reason, count in (value or {}).items()]
        yield from ((values, float(each)) for values, each in found if isinstance(each, bool | int | float))


def _holders(parts: Parts, status: Status) -> Iterator[tuple[Parts, Status]]:
    """Yield the mappings that may hold the field at these keys, each with the values of its array's labels."""
    section = parts[0]
    if len(parts) == 1:
        yield (), status
    elif section == "peers[]":
        yield from (((str(peer.get("name")),), peer) for peer in status.get("peers") or ())
    elif section == "links[]":
        # Two links may have the same name; they never have the same number.
        for number, link in enumerate(status.get("links") or ()):
            yield (str(number), str(link.get("name"))), link
    elif isinstance(holder := status.get(section), dict):
        yield (), holder


class NodeMetrics(Collector):
    """Answers a scrape: the status at that time, the process, and how long commits and promotions took."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._registry = CollectorRegistry()
        self.commits = self._histogram("ftfw_commit_seconds", "duration of a commit in seconds", SECONDS_BUCKETS)
        self.promotions = self._histogram(
            "ftfw_promotion_seconds", "seconds from the start of a promotion until this node streams", SECONDS_BUCKETS
        )
        self.held = self._histogram(
            "ftfw_promotion_held_packets",
            "packets that the gate dropped before a promotion was complete",
            PACKETS_BUCKETS,
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the present status; the registry calls this."""
        return collect(self._status())

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without samples; the registry calls this to learn the names."""
        return collect({})

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
