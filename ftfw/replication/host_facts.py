"""Defines the facts that a node reports about its host, for people and `ftfw check`; no node acts on them.  Pure."""

from __future__ import annotations

from typing import Any

from ftfw.replication.limits import FACT_TEXT_MAX, FACTS_MAX

Fact = int | str | list[str]


def are_facts(told: dict[Any, Any]) -> bool:
    """Return True if these are valid facts within the limits: they are stored, and shown on terminals."""
    return len(told) <= FACTS_MAX and all(_is_text(key) and _is_fact(value) for key, value in told.items())


def _is_fact(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= FACTS_MAX and all(map(_is_text, value))
    return _is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= FACT_TEXT_MAX and value.isprintable()
