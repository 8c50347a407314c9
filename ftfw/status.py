"""What `ftfw status` prints for people.

The daemon may be newer or older than the command: keys that are absent are not shown, unknown ones are.
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

PLAIN_WIDTH = 200  # columns where the output is no terminal: nothing is to be wrapped
ABSENT = "-"

HEAD = ("node", "role", "ready", "synced", "why_not_synced", "conflict", "flows", "expectations")
SECTIONS = ("peers", "link", "links", "kernel", "last_commit", "gate")

Section = tuple[str, Table]


def print_status(status: dict[str, Any]) -> None:
    """Print the daemon's status to standard output."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    for title, table in _sections(status):
        if title:
            console.print(f"\n{title}")
        console.print(Padding(table, (0, 0, 0, 2 if title else 0), expand=False))


def _sections(status: dict[str, Any]) -> list[Section]:
    others = {key: value for key, value in status.items() if key not in (*HEAD, *SECTIONS)}
    sections = [("", _pairs({key: status[key] for key in HEAD if key in status}))]
    sections += _table("peers", status.get("peers") or [])
    links = status.get("links") or [status[key] for key in ("link",) if key in status]
    sections += _table("links", [_without(link, "dropped") for link in links])
    sections += _list("dropped, by reason", _dropped(status.get("link") or {}, links))
    sections += _list("kernel", status.get("kernel") or {})
    sections += _list("last commit", status.get("last_commit") or {})
    sections += _list("gate", status.get("gate") or {})
    return sections + _list("more", others)


def _without(mapping: dict[str, Any], left_out: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != left_out}


def _dropped(total: dict[str, Any], links: list[dict[str, Any]]) -> dict[str, Any]:
    """All links' drops; where there are several links, each one's too."""
    drops = dict(total.get("dropped") or {})
    if len(links) > 1:
        for position, link in enumerate(links):
            name = link.get("name", position)
            drops |= {f"{name}: {reason}": count for reason, count in (link.get("dropped") or {}).items()}
    return drops


def _list(title: str, mapping: dict[str, Any]) -> list[Section]:
    return [(title, _pairs(mapping))] if mapping else []


def _pairs(mapping: dict[str, Any]) -> Table:
    """Lay out one key and its value per line, a nested table's under "key.key"."""
    table = Table.grid(padding=(0, 2))
    for key, value in _flat(mapping):
        table.add_row(key, _shown(value))
    return table


def _table(title: str, rows: list[dict[str, Any]]) -> list[Section]:
    """Lay out one row per mapping, with the columns in the order in which keys appear."""
    flat_rows = [dict(_flat(row)) for row in rows]
    columns = list(dict.fromkeys(key for row in flat_rows for key in row))
    if not columns:
        return []
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in flat_rows:
        table.add_row(*(_shown(row.get(column)) for column in columns))
    return [(title, table)]


def _flat(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _shown(value: object) -> str:
    match value:
        case None:
            return ABSENT
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}"
        case dict() | list():
            return ", ".join(map(str, value)) or "none"
    return str(value)
