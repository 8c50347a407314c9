"""Checks how this node and keepalived inform each other."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ftfw.cli.check import host_probes, keepalived_conf
from ftfw.cli.check.finding import CheckInput, Finding, ok, problem, warning
from ftfw.cli.check.keepalived_conf import KeepalivedConf
from ftfw.config import schema
from ftfw.config.value_types import Address

CONFIGURATION = Path("/etc/keepalived/keepalived.conf")
SUBJECT = "keepalived"
DOCS = "see docs/keepalived.md"
ADDRESSES_REMEDY = (
    "name keepalived's virtual_ipaddress there: then ftfw reports when role and addresses disagree,"
    " and a daemon that is restarted on the MASTER becomes active again"
)
DISAGREEMENT_REMEDY = "docs/keepalived.md lists the usual causes; `ftfw promote` or `ftfw demote` ends it"
UNFOLLOWED_REMEDY = "compare its contents with ftfw.toml by hand; docs/keepalived.md says what has to match"


def check_keepalived_conf(context: CheckInput) -> Iterator[Finding]:
    """Check that keepalived's configuration and this node's match."""
    if context.config is None:
        return
    keys = context.config.keepalived
    try:
        text = CONFIGURATION.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        yield from _silent_keepalived(context, keys)
        return
    except OSError as error:
        yield ok(SUBJECT, f"{CONFIGURATION} not read: {error.strerror}", "run this as root")
        return
    theirs = keepalived_conf.extract(text)
    whole = not theirs.not_followed
    if not whole:
        found = f"{CONFIGURATION}: not followed: {', '.join(theirs.not_followed)}"
        yield ok(SUBJECT, found, UNFOLLOWED_REMEDY)
    yield from _fifos(keys, theirs, host_probes.daemon_user(context.config.control.socket), whole=whole)
    yield from _track_file(keys, theirs, whole=whole)
    if whole:
        yield from _names(keys, theirs)
        yield from _addresses(keys, theirs)


def _silent_keepalived(context: CheckInput, keys: schema.KeepalivedSection) -> Iterator[Finding]:
    reported = (context.status or {}).get("keepalived") or {}
    if host_probes.runs("keepalived") and keys.fifo is None and not reported.get("instances"):
        yield warning(SUBJECT, "it runs here, and has not notified ftfw so far", f"configure a FIFO or a hook; {DOCS}")


def _fifos(keys: schema.KeepalivedSection, theirs: KeepalivedConf, user: str, *, whole: bool) -> Iterator[Finding]:
    ours = str(keys.fifo)
    found = next((fifo for fifo in theirs.fifos if fifo.path == ours), None)
    if keys.fifo is None:
        yield from _without_fifo(theirs, whole=whole)
    elif found is not None:
        if user not in ("root", found.user):
            yield warning(
                SUBJECT,
                f"{CONFIGURATION}: if keepalived starts first, it creates {ours} for {found.user or 'root'},"
                f" and ftfw runs as {user}",
                f"`vrrp_notify_fifo {ours} {user}` in global_defs",
            )
        if not theirs.tells_on_reload and whole:
            yield warning(
                SUBJECT,
                f"{CONFIGURATION}: a reload does not notify an ftfw that was restarted of its role",
                "`fifo_write_vrrp_states_on_reload` in global_defs",
            )
    elif ours in theirs.all_fifos:
        yield warning(
            SUBJECT,
            f"{CONFIGURATION} names {ours} as notify_fifo, to which keepalived writes about virtual servers as well",
            f"`vrrp_notify_fifo {ours}` instead",
        )
    elif whole or theirs.fifos:
        given = f", but {theirs.fifos[0].path}" if theirs.fifos else ""
        yield problem(
            SUBJECT,
            f"{CONFIGURATION} does not name {ours}, the FIFO that ftfw reads{given}",
            f"`vrrp_notify_fifo {ours}` in global_defs; {DOCS}",
        )


def _without_fifo(theirs: KeepalivedConf, *, whole: bool) -> Iterator[Finding]:
    if theirs.fifos and not theirs.has_hook:
        path = theirs.fifos[0].path
        found = f"{CONFIGURATION} names the FIFO {path}, but keepalived.fifo is not set: ftfw learns of no failover"
        yield warning(SUBJECT, found, f'`fifo = "{path}"` under [keepalived] in ftfw.toml')
    elif not theirs.has_hook and whole:
        found = f"{CONFIGURATION} has no hook, and keepalived.fifo is not set: ftfw learns of no failover"
        yield warning(SUBJECT, found, f"`vrrp_notify_fifo` in global_defs, and keepalived.fifo; {DOCS}")


def _track_file(keys: schema.KeepalivedSection, theirs: KeepalivedConf, *, whole: bool) -> Iterator[Finding]:
    ours = str(keys.track_file)
    if keys.track_file is None:
        for path in sorted(path for path in theirs.tracked if "ftfw" in path):
            found = f"{CONFIGURATION} tracks {path}, but keepalived.track_file is not set: ftfw does not write the file"
            yield warning(SUBJECT, found, f'`track_file = "{path}"` under [keepalived] in ftfw.toml')
    elif ours in theirs.untracked and whole:
        found = f"{CONFIGURATION} names {ours}, but no instance and no sync group tracks it"
        yield warning(SUBJECT, found, f"name it in a `track_file` block of the instance or group that decides; {DOCS}")
    elif ours not in theirs.tracked and whole:
        found = f"{CONFIGURATION} does not track {ours}: a node that is not ready may become MASTER"
        yield warning(SUBJECT, found, f"a `track_file` with `file {ours}`; {DOCS}")


def _names(keys: schema.KeepalivedSection, theirs: KeepalivedConf) -> Iterator[Finding]:
    there = [*theirs.groups, *theirs.instances]
    for name in keys.instances:
        if name not in there:
            found = f"{CONFIGURATION} has no instance and no sync group {name}: this node is never made active"
            yield problem(
                "keepalived.instances", found, f"name the one that decides: {', '.join(there) or 'the file has none'}"
            )
    if not keys.instances and len(theirs.instances) > 1 and (keys.fifo or theirs.has_hook):
        of_all = next((name for name, members in theirs.groups.items() if {*theirs.instances} <= {*members}), None)
        found = f"none, and {CONFIGURATION} has {len(theirs.instances)}: one that a reload removes still counts"
        yield warning("keepalived.instances", found, f"name {of_all or 'a sync group of all of them'}; {DOCS}")


def _addresses(keys: schema.KeepalivedSection, theirs: KeepalivedConf) -> Iterator[Finding]:
    """Compare the virtual addresses of the instances that count with keepalived.addresses."""
    counting = {
        member for name in keys.instances or theirs.instances for member in (name, *theirs.groups.get(name, ()))
    }
    if not keys.addresses or counting.isdisjoint(theirs.instances):
        return  # reported by other checks
    virtual = {address for name, found in theirs.instances.items() if name in counting for address in found.addresses}
    if missing := _listed(virtual - set(keys.addresses)):
        found = f"without {missing}, which keepalived moves: ftfw does not see which node has them"
        yield warning("keepalived.addresses", found, f"add {missing}")
    if strange := _listed(set(keys.addresses) - virtual):
        found = f"{strange}: not a virtual address in {CONFIGURATION}"
        yield warning("keepalived.addresses", found, "remove or correct it: an active without it is a disagreement")


def _listed(addresses: Iterable[Address]) -> str:
    return ", ".join(sorted(map(str, addresses)))


def check_keepalived(context: CheckInput) -> Iterator[Finding]:
    """Check that keepalived reaches this node, and that the role agrees with the addresses."""
    keys = context.config.keepalived if context.config else None
    reported = (context.status or {}).get("keepalived") or {}
    if keys is not None and keys.fifo is not None:
        yield _fifo(keys.fifo, reported.get("fifo"))
        if reported.get("fifo_writer") is False:
            yield _without_writer(keys.fifo)
        if not keys.addresses:
            yield warning("keepalived.addresses", "none", ADDRESSES_REMEDY)
    if disagreement := reported.get("disagreement"):
        yield problem("keepalived", disagreement, DISAGREEMENT_REMEDY)


def _without_writer(path: Path) -> Finding:
    if not host_probes.runs("keepalived"):
        return warning("keepalived", f"it does not run: no process has {path} open for writing", "start it")
    found = f"it runs and has not opened {path}: ftfw learns of no failover"
    return problem("keepalived", found, f"`systemctl reload keepalived`, and `vrrp_notify_fifo {path}`; {DOCS}")


def _fifo(path: Path, reported: str | None) -> Finding:
    if reported not in (None, "open"):
        found, _, remedy = reported.partition("; ")
        return problem("keepalived.fifo", found, remedy)
    if path.exists() and not stat.S_ISFIFO(path.stat().st_mode):
        return problem("keepalived.fifo", f"{path} is not a FIFO", "move it away, or name another path")
    return ok("keepalived.fifo", f"{path}: {reported or 'not open yet: ftfw creates it when it starts'}")


def check_gate_beside_keepalived(context: CheckInput) -> Iterator[Finding]:
    """Check that a warm node has a gate, if keepalived moves the addresses before the commit is done."""
    if context.config is None or context.config.standby.mode == "hot" or context.config.takeover.gate_interfaces:
        return
    keys = context.config.keepalived
    reported = (context.status or {}).get("keepalived") or {}
    if keys.fifo or keys.instances or keys.addresses or reported.get("instances"):
        yield warning(
            "takeover.gate_interfaces",
            "none: a warm node answers packets that arrive before its commit is done with errors",
            'name the interfaces that forward, such as ["lan", "wan"] (docs/gate.md), or set standby.mode to "hot"',
        )
