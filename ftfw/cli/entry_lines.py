"""Formats commits, flows and expectations, each in one line.

The daemon may be newer or older than the command: absent keys are left out, unknown keys are shown.
"""

from typing import Any

# Not shown as key=value at the end of an entry's line.
ENTRY_HEAD = ("protocol", "family", "timeout", "tcp", "sctp", "original", "expected", "reply", "status")


def commit_summary(commit: dict[str, Any]) -> str:
    """Return a commit's counts in one line."""
    failed = commit.get("failed") or 0
    reasons = ""
    if isinstance(failed, dict):
        reasons = f" ({', '.join(f'{count} {reason}' for reason, count in failed.items())})"
        failed = sum(failed.values())
    counts = ", ".join(f"{commit.get(what, 0)} {what}" for what in ("created", "updated", "deleted"))
    return f"{counts}, {failed} failed{reasons} in {commit.get('seconds', 0):.3f} s"


def entry_line(entry: dict[str, Any]) -> str:
    """Return a flow or an expectation in one line, much like `conntrack -L`."""
    words = [str(entry[key]) for key in ("family", "protocol", "timeout") if entry.get(key) is not None]
    words += [entry[layer]["state"] for layer in ("tcp", "sctp") if "state" in (entry.get(layer) or {})]
    for direction in ("original", "expected", "reply"):
        words += _words(entry.get(direction) or {})
    if "status" in entry:
        words += _flags(entry["status"] or [])
    rest = {key: value for key, value in entry.items() if key not in ENTRY_HEAD}
    for layer in ("tcp", "sctp"):
        if details := {key: value for key, value in (entry.get(layer) or {}).items() if key != "state"}:
            rest[layer] = details
    return " ".join(words + _words(rest))


def _flags(status: list[str]) -> list[str]:
    flags = [] if "seen_reply" in status else ["[UNREPLIED]"]
    return flags + [f"[{name.upper()}]" for name in status if name == "assured"]


def _words(mapping: dict[str, Any]) -> list[str]:
    words = []
    for key, value in mapping.items():
        if value in (None, "", [], {}):
            continue
        match value:
            case dict():
                words.append(f"{key}=({' '.join(_words(value))})")
            case list():
                words.append(f"{key}={','.join(map(str, value))}")
            case int() if key in {"mark", "mask"} and not isinstance(value, bool):
                words.append(f"{key}={value:#x}")
            case _:
                words.append(f"{key}={value}")
    return words
