"""Checks of the other nodes: whether they are heard, and whether their hosts are like this one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftfw.cli.check.finding import Context, Finding, ok, problem, warning
from ftfw.replication.limits import PEER_LOST_S

UNTOLD_S = 20.0  # heard for so long, and nothing told in frames of full length, which come every five seconds
CLOCKS_APART_S = 2.0
PORT_REMEDY = "see that the other node runs, has the same key and link, and that UDP or TCP port {port} is let in"
ALIKE = (
    ("entries_max", "net.netfilter.nf_conntrack_max", "set the larger one on both, else a takeover may not fit"),
    ("buckets", "net.netfilter.nf_conntrack_buckets", "set the larger one on both, else a commit takes longer there"),
    ("frame_bytes", "the longest frame", "give the links the same MTU on both nodes, or set link[].mtu to the smaller"),
    ("version", "ftfw", "run the same version on all nodes"),
)

Facts = dict[str, Any]


def check_peers(context: Context) -> Iterator[Finding]:
    """Find what the running daemon hears from its peers."""
    status = context.status
    if context.hangs:
        found, _, remedy = context.why_no_status.partition("; ")
        yield problem("daemon", found, remedy)
        return
    if status is None:
        yield ok("peers", f"not asked: {context.why_no_status}", "start ftfw and check again")
        return
    ports = {link.port for link in context.config.link} if context.config else set()
    remedy = PORT_REMEDY.format(port=" or ".join(map(str, sorted(ports))))
    peers = status.get("peers") or []
    if not peers:
        yield warning("peers", "none was heard since ftfw started", remedy)
    for peer in peers:
        name, seen = peer.get("name"), peer.get("last_seen_s")
        if seen is None or seen > PEER_LOST_S:
            ago = "never" if seen is None else f"{seen:.0f} s ago"
            yield problem(f"peer {name}", f"last heard {ago}", remedy)
        else:
            yield ok(f"peer {name}", f"{peer.get('role')}, last heard {seen:.1f} s ago")
            yield from _check_path(peer)


def _check_path(peer: dict[str, Any]) -> Iterator[Finding]:
    """Short frames come; those as long as the MTU allows may not."""
    told = peer.get("facts")
    age = told.get("age_s", 0.0) if told else peer.get("heard_for_s", 0.0)
    if age > UNTOLD_S:
        yield problem(
            f"peer {peer.get('name')}",
            f"its short frames come, and for {age:.0f} s no long one has: something on the way has a smaller MTU",
            "find it with `ping -M do -s 1472 PEER` (1472: a packet of 1500 bytes), and mend it or set link[].mtu",
        )


def check_hosts(context: Context) -> Iterator[Finding]:
    """Find in what the peers' hosts differ from this one, where that matters at a takeover."""
    own = (context.status or {}).get("facts")
    for peer in (context.status or {}).get("peers") or []:
        told = peer.get("facts")
        if own and told:
            yield from _compare(context, f"peer {peer.get('name')}", own, told)


def _compare(context: Context, subject: str, own: Facts, told: Facts) -> Iterator[Finding]:
    differences = [
        warning(subject, f"{what} is {told[key]} there and {own[key]} here", remedy)
        for key, what, remedy in ALIKE
        if key in told and key in own and told[key] != own[key]
    ]
    differences += [*_helpers(context, subject, own, told), *_clocks(subject, own, told)]
    yield from differences or [ok(subject, f"its host is like this one; kernel {told.get('kernel')}")]


def _helpers(context: Context, subject: str, own: Facts, told: Facts) -> Iterator[Finding]:
    """Compare with this node's, unless the configuration names the helpers that are used."""
    theirs, ours = told.get("helpers"), own.get("helpers")
    wanted = context.config.replicate.expectations if context.config else True
    needed = ours if wanted is True else list(wanted or ())
    if not isinstance(theirs, list) or not isinstance(needed, list):
        return
    if lacking := [each for each in needed if each not in theirs]:
        found = f"its kernel has no {', '.join(lacking)}: flows with such a helper are taken over there without it"
        remedy = "install the kernel's full set of modules there, or name the helpers you use in replicate.expectations"
        yield (warning if wanted is True else problem)(subject, found, remedy)


def _clocks(subject: str, own: Facts, told: Facts) -> Iterator[Finding]:
    if not all(isinstance(facts.get("clock_ms"), int) for facts in (own, told)):
        return
    apart = (told["clock_ms"] - own["clock_ms"]) / 1000 + told.get("age_s", 0.0)
    if abs(apart) > CLOCKS_APART_S:
        yield warning(
            subject,
            f"its clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} this one: ftfw does not go by"
            " clocks, but nobody can compare the logs of both nodes",
            "run chrony or systemd-timesyncd on all nodes",
        )
