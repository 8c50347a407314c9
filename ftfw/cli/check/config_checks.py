"""Checks the configuration, and the keys, interfaces and addresses that it names."""

from __future__ import annotations

from collections.abc import Iterator

from ftfw.cli.check import host_probes
from ftfw.cli.check.finding import CheckInput, Finding, ok, problem, warning
from ftfw.config.config_errors import ConfigError
from ftfw.config.schema import require_complete
from ftfw.daemon.requirements import gate_lack
from ftfw.security import key_file
from ftfw.system.interfaces import interface

LISTEN_REMEDY = "name an address of this host, and a port that no other program uses"


def check_config(context: CheckInput) -> Iterator[Finding]:
    """Check that the configuration file is valid and complete."""
    problems = context.why_no_config
    if context.config is not None:
        try:
            require_complete(context.config, context.config_path)
        except ConfigError as error:
            problems = str(error)
        else:
            yield ok("configuration", f"{context.config_path}: node {context.config.node.name}")
    for line in problems.splitlines():
        found, _, expected = line.partition("; ")
        yield problem("configuration", found, expected)


def check_keys(context: CheckInput) -> Iterator[Finding]:
    """Check that the daemon, and no other user, can read every key file."""
    if context.config is None:
        return
    user = host_probes.daemon_user(context.config.control.socket)
    for file in context.config.security.key_files:
        try:
            key_file.read(file)
        except key_file.KeyFileError as error:
            found, _, remedy = str(error).rpartition("; ")
            yield problem("key file", found, remedy)
        else:
            owner = host_probes.owner(file)
            if user in ("root", owner):
                yield ok("key file", f"{file}: readable, mode correct")
            else:
                found = f"{file}: only {owner} may read it, and ftfw runs as {user}"
                yield problem("key file", found, f"`chown {user}: {file}`")


def check_gate(context: CheckInput) -> Iterator[Finding]:
    """Check that the gate can be created, and that its interfaces exist."""
    if context.config is None:
        return
    if lack := gate_lack(context.config):
        yield problem(*lack)
    for name in context.config.takeover.gate_interfaces:
        if interface(name) is None:
            yield problem("takeover.gate_interfaces", f"no interface {name}", "create it, or correct the key")


def check_metrics(context: CheckInput) -> Iterator[Finding]:
    """Check that the daemon listens for Prometheus, or could."""
    listen = context.config.metrics.listen if context.config else None
    if listen is None:
        return
    if context.status is None:
        trouble = host_probes.listen_trouble(*listen)
        found, remedy = f"{listen.host} port {listen.port}: {trouble}" if trouble else "", LISTEN_REMEDY
    else:
        reported = (context.status.get("metrics") or {}).get("trouble") or ""
        found, _, remedy = reported.removeprefix("metrics.listen: ").partition("; ")
    if found:
        yield warning("metrics.listen", found, remedy)
    else:
        yield ok("metrics.listen", f"{listen.host} port {listen.port}")
