"""Exposes the daemon's status to Prometheus."""
