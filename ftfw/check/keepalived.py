"""Checks of how this node and keepalived hear of each other."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from ftfw.check.finding import Context, Finding, ok, problem, warning

ADDRESSES_REMEDY = "name keepalived's virtual_ipaddress there, so that ftfw tells when role and addresses disagree"
DISAGREEMENT_REMEDY = "docs/keepalived.md tells the usual causes; `ftfw promote` or `ftfw demote` settles it"


def check_keepalived(context: Context) -> Iterator[Finding]:
    """Find whether keepalived gets through to this node, and whether what it said is true."""
    keys = context.config.keepalived if context.config else None
    told = (context.status or {}).get("keepalived") or {}
    if keys is not None and keys.fifo is not None:
        yield _fifo(keys.fifo, told.get("fifo"))
        if not keys.addresses:
            yield warning("keepalived.addresses", "none", ADDRESSES_REMEDY)
    if disagreement := told.get("disagreement"):
        yield problem("keepalived", disagreement, DISAGREEMENT_REMEDY)


def _fifo(path: Path, told: str | None) -> Finding:
    if told not in (None, "open"):
        found, _, remedy = told.partition("; ")
        return problem("keepalived.fifo", found, remedy)
    if path.exists() and not stat.S_ISFIFO(path.stat().st_mode):
        return problem("keepalived.fifo", f"{path} is no FIFO", "move it away, or name another path")
    return ok("keepalived.fifo", f"{path}: {told or 'not open yet: ftfw makes it when it starts'}")
