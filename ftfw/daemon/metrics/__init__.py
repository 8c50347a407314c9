"""The daemon's status as Prometheus metrics."""
