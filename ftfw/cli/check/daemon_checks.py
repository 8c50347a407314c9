"""Checks the running daemon's report: roles, links, sync, and counters of failures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftfw.cli.check.finding import CheckInput, Finding, problem, warning
from ftfw.cli.check.link_checks import LINK_REMEDY
from ftfw.control.status_fields import field_at

REASONS_REMEDY = "docs/commands.md explains each reason, and what to do"
COUNTERS = (
    ("links", "frames were dropped", ("link", "dropped")),
    ("events", "messages were dropped", ("kernel", "dropped")),
    ("keepalived", "notifications were not counted", ("keepalived", "dropped")),
    ("injection", "the kernel refused entries", ("kernel", "inject_failed")),
    ("gate", "it failed", ("gate", "failed")),
    (
        "injection",
        "the last commit created entries, but not as the store has them",
        ("last_commit", "otherwise"),
    ),
)


def check_daemon(context: CheckInput) -> Iterator[Finding]:
    """Report the problems that the running daemon knows of."""
    status = context.status
    if status is None:
        return
    if status.get("conflict"):
        yield problem("roles", "this node and a peer are both active", "`ftfw demote` on the one without the addresses")
    for link in status.get("links") or []:
        if link.get("up") is False:
            found, _, remedy = (link.get("trouble") or "no frames get through").partition("; ")
            yield problem(link.get("name"), found, remedy or LINK_REMEDY)
    if status.get("role") == "backup" and not status.get("synced"):
        yield warning("sync", "this node does not hold all entries of the active", "wait, or `ftfw resync`")
    for subject, what, parts in COUNTERS:
        if counts := ", ".join(_counts_of_trouble(status, *parts)):
            yield warning(subject, f"{what}: {counts}", REASONS_REMEDY)
    if overruns := (status.get("kernel") or {}).get("overruns"):
        yield warning("events", f"the kernel dropped events {overruns} times", "raise kernel.event_buffer_bytes")


def _counts_of_trouble(status: dict[str, Any], section: str, counter: str) -> Iterator[str]:
    field = field_at((section, counter))
    assert field is not None
    for reason, count in ((status.get(section) or {}).get(counter) or {}).items():
        if count and reason not in field.harmless:
            yield f"{count} {reason}"
