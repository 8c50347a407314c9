"""`ftfw check`: the configuration and the host, each finding with its remedy.

A check is a function from what was gathered (`Context`) to findings; to add one, write it in the module that
it belongs to and name it in CHECKS, which is the order of the report.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

from ftfw.cli.check import host_checks, keepalived_checks, link_checks, peer_checks, ruleset_checks
from ftfw.cli.check.finding import Check, Context, Finding, Level, warning
from ftfw.cli.check.ruleset import RulesetError, read_ruleset
from ftfw.config.config_errors import ConfigError
from ftfw.config.schema import load
from ftfw.control.client import ControlError, SilentError, call, socket_of

__all__ = ["CHECKS", "Context", "Finding", "Level", "gather", "run_checks"]

ANSWER_S = 5.0  # a daemon that gives none to a question that costs it nothing hangs

CHECKS: tuple[Check, ...] = (
    link_checks.check_config,
    link_checks.check_keys,
    host_checks.check_conntrack,
    host_checks.check_kernel_version,
    host_checks.check_events,
    host_checks.check_table,
    host_checks.check_tcp,
    host_checks.check_helpers,
    host_checks.check_nat_helpers,
    host_checks.check_gre,
    host_checks.check_forwarding,
    host_checks.check_clock,
    ruleset_checks.check_readable,
    ruleset_checks.check_tracking,
    ruleset_checks.check_labels,
    ruleset_checks.check_invalid,
    link_checks.check_links,
    link_checks.check_gate,
    link_checks.check_metrics,
    keepalived_checks.check_keepalived,
    keepalived_checks.check_its_configuration,
    keepalived_checks.check_gate_beside_it,
    peer_checks.check_peers,
    peer_checks.check_hosts,
    link_checks.check_traffic,
    link_checks.check_daemon,
)


def run_checks(config_path: Path) -> list[Finding]:
    """Run every check; none of them changes anything on the host."""
    context = gather(config_path)
    return [finding for check in CHECKS for finding in _carry_out(check, context)]


def _carry_out(check: Check, context: Context) -> Iterator[Finding]:
    """What a check finds; where it raises, that is a finding as well, and the others' stand."""
    try:
        yield from check(context)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        found = (
            f"{check.__name__} broke off: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        )
        yield warning("check", found, "report it; what it looks at, see docs/commands.md, is to be looked at by hand")


def gather(config_path: Path) -> Context:
    """Read what the checks go by: the configuration, the ruleset, and the running daemon's status."""
    config, why_no_config = None, ""
    try:
        config = load(config_path)
    except ConfigError as error:
        why_no_config = str(error)
    ruleset, why_no_ruleset = None, ""
    try:
        ruleset = read_ruleset()
    except RulesetError as error:
        why_no_ruleset = str(error)
    status, why_no_status, hangs = None, "", False
    try:
        status = call(socket_of(config_path)[0], "status", silence_max_s=ANSWER_S, count=False)
    except ControlError as error:
        why_no_status, hangs = str(error), isinstance(error, SilentError)
    return Context(
        config_path=config_path,
        config=config,
        why_no_config=why_no_config,
        ruleset=ruleset,
        why_no_ruleset=why_no_ruleset,
        status=status,
        why_no_status=why_no_status,
        hangs=hangs,
    )
