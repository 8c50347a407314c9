"""Reads from `nft -j list ruleset` the rules that decide which flows conntrack tracks, and with which attributes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 30.0
LEGACY = (Path("/proc/net/ip_tables_names"), Path("/proc/net/ip6_tables_names"))
GRE = frozenset({"gre", 47})

ChainId = tuple[str, str, str]  # family, table, name


class RulesetError(Exception):
    """Raised if the ruleset cannot be read; the message has the reason."""


@dataclass(frozen=True)
class Ruleset:
    """Holds chains and rules as nft prints them in JSON."""

    chains: dict[ChainId, dict[str, Any]]
    rules: dict[ChainId, list[list[dict[str, Any]]]]
    objects: tuple[dict[str, Any], ...]
    legacy: frozenset[str] = frozenset()  # names of tables of iptables-legacy, which nft does not see

    def uses_labels(self) -> bool:
        """Return whether a rule reads or sets labels: only then do the kernel's new entries have room for labels."""
        return any(
            mapping.get("ct") == {"key": "label"} or _name(mapping.get("xt")) == "connlabel"
            for mapping in self._mappings()
        )

    def uses_conntrack(self) -> bool:
        """Return whether a rule that uses conntrack, or NAT, makes the kernel track flows."""
        return self.translates() or any("ct" in mapping or "xt" in mapping for mapping in self._mappings())

    def translates(self) -> bool:
        """Return whether the ruleset has NAT."""
        return "nat" in self.legacy or any(chain.get("type") == "nat" for chain in self.chains.values())

    def is_partly_opaque(self) -> bool:
        """Return whether the ruleset has rules of iptables, which nft prints in part only, or not at all."""
        return bool(self.legacy) or any("xt" in mapping for mapping in self._mappings())

    def mentions_gre(self) -> bool:
        """Return whether a rule or a helper concerns GRE."""
        rights = (_values(mapping["match"].get("right")) for mapping in self._mappings() if "match" in mapping)
        helpers = (thing.get("ct helper", {}).get("type") for thing in self.objects)
        return any(not GRE.isdisjoint(values) for values in rights) or "pptp" in helpers

    def drops_invalid(self, hook: str) -> bool:
        """Return whether a rule or a policy drops packets that belong to no flow at `hook`."""
        for chain_id, chain in self.chains.items():
            if chain.get("hook") != hook or chain.get("type") != "filter":
                continue
            if chain.get("policy") == "drop":
                return True
            if any(
                _drops_invalid(rule) for reached in self._reachable(chain_id) for rule in self.rules.get(reached, ())
            ):
                return True
        return False

    def _reachable(self, start: ChainId) -> set[ChainId]:
        reached: set[ChainId] = set()
        waiting = [start]
        while waiting:
            chain_id = waiting.pop()
            if chain_id in reached:
                continue
            reached.add(chain_id)
            targets = {
                mapping[verdict]["target"]
                for mapping in _mappings(self.rules.get(chain_id, []))
                for verdict in ("jump", "goto")
                if isinstance(mapping.get(verdict), dict)
            }
            waiting += [(*chain_id[:2], target) for target in targets]
        return reached

    def _mappings(self) -> Iterator[dict[str, Any]]:
        return _mappings(list(self.rules.values()))


def read_ruleset() -> Ruleset:
    """Return the ruleset of this network namespace.  Raises RulesetError if nft is not installed or fails."""
    command = ["nft", "-j", "list", "ruleset"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise RulesetError("nft is not installed") from None
    except OSError as error:
        raise RulesetError(f"nft cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise RulesetError(f"nft took longer than {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").split("\n")[0]
        raise RulesetError(f"nft failed: {words}")
    try:
        return parse(json.loads(done.stdout), _legacy_tables())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RulesetError("nft printed JSON of an unknown form") from None


def _legacy_tables() -> frozenset[str]:
    names: set[str] = set()
    for file in LEGACY:
        with suppress(OSError):  # the kernel has no such table, or this process is not root's
            names |= set(file.read_text().split())
    return frozenset(names)


def parse(document: dict[str, Any], legacy: frozenset[str] = frozenset()) -> Ruleset:
    """Return the ruleset in nft's JSON; `legacy` are the names of tables of iptables-legacy."""
    chains: dict[ChainId, dict[str, Any]] = {}
    rules: dict[ChainId, list[list[dict[str, Any]]]] = {}
    objects = []
    for thing in document["nftables"]:
        if "chain" in thing:
            chain = thing["chain"]
            chains[chain["family"], chain["table"], chain["name"]] = chain
        elif "rule" in thing:
            rule = thing["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule["expr"])
        else:
            objects.append(thing)
    return Ruleset(chains, rules, tuple(objects), legacy)


def _mappings(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in a tree."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _mappings(part)


def _drops_invalid(rule: list[dict[str, Any]]) -> bool:
    drops = any("drop" in expression for expression in rule)
    for expression in rule:
        match = expression.get("match")
        if drops and match and match["left"] == {"ct": {"key": "state"}}:
            named = "invalid" in _values(match["right"])
            if named == (match["op"] != "!="):
                return True
        verdicts = expression.get("vmap")
        if verdicts and verdicts["key"] == {"ct": {"key": "state"}} and isinstance(verdicts["data"], dict):
            return ["invalid", {"drop": None}] in verdicts["data"].get("set", [])
    return False


def _values(right: Any) -> set[Any]:
    """Return the plain values on the right side of a match: a value, a list, or an anonymous set."""
    if isinstance(right, dict):
        right = right.get("set", [])
    values = right if isinstance(right, list) else [right]
    return {value for value in values if isinstance(value, str | int)}


def _name(extension: Any) -> str | None:
    name = extension.get("name") if isinstance(extension, dict) else None
    return name if isinstance(name, str) else None
