"""Checks of the ruleset: what it lets a taken-over entry keep, and what it does with stray packets."""

from __future__ import annotations

from collections.abc import Iterator

from ftfw.cli.check.finding import Context, Finding, ok, warning

UNREADABLE_REMEDY = "install nftables, and run this as root"
OPAQUE = "cannot be told: there are rules of iptables, of which nft does not tell everything"


def check_readable(context: Context) -> Iterator[Finding]:
    """Find whether the ruleset can be read at all."""
    if context.ruleset is None:
        yield warning("ruleset", f"not checked: {context.why_no_ruleset}", UNREADABLE_REMEDY)


def check_tracking(context: Context) -> Iterator[Finding]:
    """Find whether anything makes the kernel track flows."""
    if context.ruleset is None:
        return
    if context.ruleset.uses_conntrack():
        yield ok("ruleset", "asks connection tracking")
    elif context.ruleset.is_partly_opaque():
        yield ok("ruleset", OPAQUE, "see that a rule uses `-m conntrack`, or NAT: else no flow is tracked")
    else:
        yield warning(
            "ruleset",
            "nothing in it asks connection tracking: no flow is tracked, there is nothing to replicate",
            "load the firewall's rules; they need `ct state` or NAT",
        )


def check_labels(context: Context) -> Iterator[Finding]:
    """Find whether an injected entry can keep its labels."""
    if context.ruleset is None:
        return
    if context.ruleset.uses_labels():
        yield ok("labels", "a rule uses `ct label`: entries keep their labels")
    elif context.ruleset.is_partly_opaque():
        yield ok("labels", OPAQUE, "see that a rule on each node uses connlabel, if you use labels")
    else:
        yield warning(
            "labels",
            "no rule uses `ct label`: the kernel silently drops the labels of flows taken over",
            "load the same rules on all nodes; if none uses labels, this does not matter",
        )


def check_invalid(context: Context) -> Iterator[Finding]:
    """Find whether stray segments are kept from this host's own stack."""
    if context.ruleset is None:
        return
    if context.ruleset.drops_invalid("input"):
        yield ok("invalid packets", "dropped on input")
    elif context.ruleset.is_partly_opaque():
        yield ok("invalid packets", OPAQUE, "see that INPUT drops `-m conntrack --ctstate INVALID`")
    else:
        yield warning(
            "invalid packets",
            "not dropped on input: stray segments to the virtual address are answered with RST",
            "`ct state invalid drop` in a chain with `hook input`",
        )
