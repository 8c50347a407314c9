"""Checks of how this node and keepalived hear of each other."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ftfw.check import probes
from ftfw.check.finding import Context, Finding, ok, problem, warning
from ftfw.config import Keepalived

CONFIGURATION = Path("/etc/keepalived/keepalived.conf")
SUBJECT = "keepalived"
DOCS = "docs/keepalived.md has it in full"
ADDRESSES_REMEDY = "name keepalived's virtual_ipaddress there, so that ftfw tells when role and addresses disagree"
DISAGREEMENT_REMEDY = "docs/keepalived.md tells the usual causes; `ftfw promote` or `ftfw demote` settles it"


def check_its_configuration(context: Context) -> Iterator[Finding]:
    """Find whether keepalived's configuration names what makes the two hear of each other."""
    keys = context.config.keepalived if context.config else Keepalived()
    try:
        text = re.sub(r"[#!].*", "", CONFIGURATION.read_text())
    except OSError:
        told = (context.status or {}).get("keepalived") or {}
        if probes.runs("keepalived") and keys.fifo is None and not told.get("instances"):
            yield warning(SUBJECT, "it runs here, and has told ftfw nothing so far", f"a FIFO, or a hook; {DOCS}")
        return
    if re.search(r"^\s*include\s", text, flags=re.MULTILINE):
        return  # what is named in other files cannot be told
    if keys.fifo is not None and not _names(text, "vrrp_notify_fifo", str(keys.fifo)):
        found = f"{CONFIGURATION} does not name {keys.fifo}, the FIFO that ftfw reads"
        yield problem(SUBJECT, found, f"`vrrp_notify_fifo {keys.fifo}` in global_defs; {DOCS}")
    if keys.fifo is None and not re.search(r"^\s*notify(_[a-z]+)?\s", text, flags=re.MULTILINE):
        found = f"{CONFIGURATION} has no hook, and keepalived.fifo is not set: ftfw hears of no failover"
        yield warning(SUBJECT, found, f"`vrrp_notify_fifo` in global_defs, and keepalived.fifo; {DOCS}")
    if keys.track_file is not None and not _names(text, "file", str(keys.track_file)):
        found = f"{CONFIGURATION} does not track {keys.track_file}: a node that is not ready may become MASTER"
        yield warning(SUBJECT, found, f"a `track_file` with `file {keys.track_file}`; {DOCS}")


def _names(text: str, word: str, path: str) -> bool:
    return re.search(rf'^\s*{word}\s+"?{re.escape(path)}(?=[\s"]|$)', text, flags=re.MULTILINE) is not None


def check_keepalived(context: Context) -> Iterator[Finding]:
    """Find whether keepalived gets through to this node, and whether what it said is true."""
    keys = context.config.keepalived if context.config else None
    told = (context.status or {}).get("keepalived") or {}
    if keys is not None and keys.fifo is not None:
        yield _fifo(keys.fifo, told.get("fifo"))
        if told.get("fifo_writer") is False:
            yield _without_writer(keys.fifo)
        if not keys.addresses:
            yield warning("keepalived.addresses", "none", ADDRESSES_REMEDY)
    if disagreement := told.get("disagreement"):
        yield problem("keepalived", disagreement, DISAGREEMENT_REMEDY)


def _without_writer(path: Path) -> Finding:
    if not probes.runs("keepalived"):
        return warning("keepalived", f"it does not run: nobody has {path} open for writing", "start it")
    found = f"it runs and has not opened {path}: ftfw hears of no failover"
    return problem("keepalived", found, f"`systemctl reload keepalived`, and `vrrp_notify_fifo {path}`; {DOCS}")


def _fifo(path: Path, told: str | None) -> Finding:
    if told not in (None, "open"):
        found, _, remedy = told.partition("; ")
        return problem("keepalived.fifo", found, remedy)
    if path.exists() and not stat.S_ISFIFO(path.stat().st_mode):
        return problem("keepalived.fifo", f"{path} is no FIFO", "move it away, or name another path")
    return ok("keepalived.fifo", f"{path}: {told or 'not open yet: ftfw makes it when it starts'}")
