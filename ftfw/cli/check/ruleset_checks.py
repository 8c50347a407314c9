"""Checks the ruleset: whether it tracks flows, keeps labels, and drops packets that belong to no flow."""

from __future__ import annotations

from collections.abc import Iterator

from ftfw.cli.check.finding import CheckInput, Finding, ok, warning

UNREADABLE_REMEDY = "install nftables, and run this as root"
OPAQUE = "not known: the ruleset has rules of iptables, which nft prints in part only"


def check_readable(context: CheckInput) -> Iterator[Finding]:
    """Check that the ruleset can be read."""
    if context.ruleset is None:
        yield warning("ruleset", f"not checked: {context.why_no_ruleset}", UNREADABLE_REMEDY)


def check_tracking(context: CheckInput) -> Iterator[Finding]:
    """Check that the ruleset makes the kernel track flows."""
    if context.ruleset is None:
        return
    if context.ruleset.uses_conntrack():
        yield ok("ruleset", "uses connection tracking")
    elif context.ruleset.is_partly_opaque():
        yield ok("ruleset", OPAQUE, "check that a rule uses `-m conntrack`, or NAT: else no flow is tracked")
    else:
        yield warning(
            "ruleset",
            "no rule uses connection tracking: no flow is tracked, there is nothing to replicate",
            "load the firewall's rules; they need `ct state` or NAT",
        )


def check_labels(context: CheckInput) -> Iterator[Finding]:
    """Check that an injected entry can keep its labels."""
    if context.ruleset is None:
        return
    if context.ruleset.uses_labels():
        yield ok("labels", "a rule uses `ct label`: entries keep their labels")
    elif context.ruleset.is_partly_opaque():
        yield ok("labels", OPAQUE, "check that a rule on each node uses connlabel, if you use labels")
    else:
        yield warning(
            "labels",
            "no rule uses `ct label`: the kernel silently drops the labels of flows taken over",
            "load the same rules on all nodes; if none uses labels, this does not matter",
        )


def check_invalid(context: CheckInput) -> Iterator[Finding]:
    """Check that packets that belong to no flow do not reach this host's own stack."""
    if context.ruleset is None:
        return
    if context.ruleset.drops_invalid("input"):
        yield ok("invalid packets", "dropped on input")
    elif context.ruleset.is_partly_opaque():
        yield ok("invalid packets", OPAQUE, "check that INPUT drops `-m conntrack --ctstate INVALID`")
    else:
        yield warning(
            "invalid packets",
            "not dropped on input: the host answers segments of unknown flows to its virtual addresses with RST",
            "`ct state invalid drop` in a chain with `hook input`",
        )
