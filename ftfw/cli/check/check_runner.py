"""Runs the checks of the configuration and the host.

A check is a function from the gathered input (`CheckInput`) to findings.  A new check is a function in the module of
its subject, and a name in CHECKS, which is the order of the report.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

from ftfw.cli.check import (
    config_checks,
    daemon_checks,
    host_checks,
    keepalived_checks,
    link_checks,
    peer_checks,
    ruleset_checks,
)
from ftfw.cli.check.finding import CheckFunction, CheckInput, Finding, warning
from ftfw.cli.check.ruleset import RulesetError, read_ruleset
from ftfw.config.config_errors import ConfigError
from ftfw.config.schema import load
from ftfw.control.client import ControlError, SilentError, call, socket_of

ANSWER_S = 5.0  # the status costs the daemon little: one that does not answer for so long hangs

CHECKS: tuple[CheckFunction, ...] = (
    config_checks.check_config,
    config_checks.check_keys,
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
    config_checks.check_gate,
    config_checks.check_metrics,
    keepalived_checks.check_keepalived,
    keepalived_checks.check_keepalived_conf,
    keepalived_checks.check_gate_beside_keepalived,
    peer_checks.check_peers,
    peer_checks.check_peer_hosts,
    link_checks.check_traffic,
    daemon_checks.check_daemon,
)


def run_checks(config_path: Path) -> list[Finding]:
    """Run every check, and return the findings in the order of the report.  No check changes the host."""
    context = gather(config_path)
    return [finding for check in CHECKS for finding in _findings_of(check, context)]


def _findings_of(check: CheckFunction, context: CheckInput) -> Iterator[Finding]:
    """Yield a check's findings; if it raises an exception, that is a finding, and the other checks still run."""
    try:
        yield from check(context)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{check.__name__} failed: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        yield warning("check", found, "report it; docs/commands.md says what it checks: check that by hand")


def gather(config_path: Path) -> CheckInput:
    """Read the input of the checks: the configuration, the ruleset, and the running daemon's status."""
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
    return CheckInput(
        config_path=config_path,
        config=config,
        why_no_config=why_no_config,
        ruleset=ruleset,
        why_no_ruleset=why_no_ruleset,
        status=status,
        why_no_status=why_no_status,
        hangs=hangs,
    )
