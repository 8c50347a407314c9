"""Checks the other nodes: that their frames arrive, and that their hosts are like this one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftfw.cli.check.finding import CheckInput, Finding, ok, problem, warning
from ftfw.replication.limits import FACTS_S, PEER_LOST_S

UNREPORTED_S = 4 * FACTS_S  # facts come in frames of full length
CLOCKS_APART_S = 2.0
PORT_REMEDY = "check that the other node runs with the same key and link, and that UDP or TCP port {port} is accepted"
ALIKE = (
    ("entries_max", "net.netfilter.nf_conntrack_max", "set the larger one on both: else a takeover may not fit"),
    ("buckets", "net.netfilter.nf_conntrack_buckets", "set the larger one on both: else a commit takes longer there"),
    ("frame_bytes", "the longest frame", "give the links the same MTU on both nodes, or set link[].mtu to the smaller"),
    ("version", "ftfw", "run the same version on all nodes"),
)

Facts = dict[str, Any]


def check_peers(context: CheckInput) -> Iterator[Finding]:
    """Check that the running daemon receives frames of its peers."""
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
        yield warning("peers", "no frame of a peer has arrived since ftfw started", remedy)
    for peer in peers:
        name, seen = peer.get("name"), peer.get("last_seen_s")
        if seen is None or seen > PEER_LOST_S:
            ago = "never" if seen is None else f"{seen:.0f} s ago"
            yield problem(f"peer {name}", f"last heard {ago}", remedy)
        else:
            yield ok(f"peer {name}", f"{peer.get('role')}, last heard {seen:.1f} s ago")
            yield from _check_path(peer)


def _check_path(peer: dict[str, Any]) -> Iterator[Finding]:
    """Check that frames as long as the MTU allows arrive as well as short ones."""
    reported = peer.get("facts")
    age = reported.get("age_s", 0.0) if reported else peer.get("heard_for_s", 0.0)
    if age > UNREPORTED_S:
        yield problem(
            f"peer {peer.get('name')}",
            f"its short frames arrive, but no long one has for {age:.0f} s: the path has a smaller MTU",
            "find it with `ping -M do -s 1472 PEER` (1472: a packet of 1500 bytes), and correct it or set link[].mtu",
        )


def check_peer_hosts(context: CheckInput) -> Iterator[Finding]:
    """Compare the properties of the peers' hosts that matter at a takeover with this host's."""
    own = (context.status or {}).get("facts")
    for peer in (context.status or {}).get("peers") or []:
        reported = peer.get("facts")
        if own and reported:
            yield from _differences(context, f"peer {peer.get('name')}", own, reported)


def _differences(context: CheckInput, subject: str, own: Facts, reported: Facts) -> Iterator[Finding]:
    differences = [
        warning(subject, f"{what} is {reported[key]} there and {own[key]} here", remedy)
        for key, what, remedy in ALIKE
        if key in reported and key in own and reported[key] != own[key]
    ]
    differences += [*_helpers(context, subject, own, reported), *_clocks(subject, own, reported)]
    yield from differences or [ok(subject, f"its host is like this one; kernel {reported.get('kernel')}")]


def _helpers(context: CheckInput, subject: str, own: Facts, reported: Facts) -> Iterator[Finding]:
    """Compare the helpers with this node's, or with those that the configuration names."""
    theirs, ours = reported.get("helpers"), own.get("helpers")
    wanted = context.config.replicate.expectations if context.config else True
    needed = ours if wanted is True else list(wanted or ())
    if not isinstance(theirs, list) or not isinstance(needed, list):
        return
    if lacking := [each for each in needed if each not in theirs]:
        found = f"its kernel has no {', '.join(lacking)}: flows with such a helper are taken over there without it"
        remedy = "install all modules of the kernel there, or name the helpers you use in replicate.expectations"
        yield (warning if wanted is True else problem)(subject, found, remedy)


def _clocks(subject: str, own: Facts, reported: Facts) -> Iterator[Finding]:
    if not all(isinstance(facts.get("clock_ms"), int) for facts in (own, reported)):
        return
    apart = (reported["clock_ms"] - own["clock_ms"]) / 1000 + reported.get("age_s", 0.0)
    if abs(apart) > CLOCKS_APART_S:
        yield warning(
            subject,
            f"its clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} this one: ftfw does not use"
            " the clock, but the logs of both nodes cannot be compared",
            "run chrony or systemd-timesyncd on all nodes",
        )
