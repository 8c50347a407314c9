"""What `ftfw status` prints for people.

The daemon may be newer or older than the command: keys that are absent are not shown, unknown ones are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ftfw.control.client import ControlError

PLAIN_WIDTH = 200  # columns where the output is no terminal: nothing is to be wrapped
ABSENT = "-"

HEAD = ("node", "role", "ready", "synced", "why_not_synced", "conflict", "flows", "expectations", "mode", "version")
SECTIONS = ("peers", "link", "links", "stream", "kernel", "last_commit", "keepalived", "gate", "metrics")
FOR_MACHINES = {"facts", "heard_for_s"}  # `ftfw check` makes of them what there is to be done

GOOD, DOUBTFUL, BAD = "green", "yellow", "bold red"
# By the last part of a key: what is good and what is not.  Counters of what went wrong are doubtful unless they are 0.
WANTED = {"ready": True, "synced": True, "up": True, "conflict": False}
LATE_S = {"last_seen_s": (1.0, 3.0), "lag_s": (0.1, 1.0)}  # doubtful from here on, and bad
TROUBLES = {"why_not_synced": DOUBTFUL, "keepalived.disagreement": BAD, "metrics.trouble": DOUBTFUL}
COUNTED = ("overruns", "behind", "gaps", "outrun")
COUNTED_UNDER = ("dropped.", "inject_failed.", "failed.", "otherwise.", "repaired.")
EXPECTED = ("duplicate", "no_state", "not_listed", "hook_overruled", "hook_overtaken")  # reasons that say nothing bad

Section = tuple[str, Table]


def print_status(status: dict[str, Any]) -> None:
    """Print the daemon's status to standard output, coloured on a terminal."""
    _console().print(_laid_out(status))


def watch_status(
    ask: Callable[[], dict[str, Any]], every_s: float, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Print the status that `ask` gives, again and again; on a terminal, each in the place of the last.

    A daemon that does not answer (ControlError) is told of, above what it said last.
    """
    console, shown = _console(), Group()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            heading = Text(f"{time.strftime('%H:%M:%S')}, every {every_s:g} s; Ctrl-C ends it\n")
            try:
                shown = _laid_out(ask())
            except ControlError as error:
                heading = Text(f"{time.strftime('%H:%M:%S')} {error}\n", style=BAD)
            if console.is_terminal:
                live.update(Group(heading, shown), refresh=True)
            else:
                console.print(heading, shown)
            sleep(every_s)


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def _laid_out(status: dict[str, Any]) -> Group:
    parts: list[Padding | str] = []
    for title, table in _sections(status):
        if title:
            parts.append(f"\n{title}")
        parts.append(Padding(table, (0, 0, 0, 2 if title else 0), expand=False))
    return Group(*parts)


def _sections(status: dict[str, Any]) -> list[Section]:
    others = {key: value for key, value in status.items() if key not in (*HEAD, *SECTIONS, *FOR_MACHINES)}
    sections = [("", _pairs({key: status[key] for key in HEAD if key in status}))]
    sections += _table("peers", [_without(peer, FOR_MACHINES) for peer in status.get("peers") or []])
    links = status.get("links") or [status[key] for key in ("link",) if key in status]
    sections += _table("links", [_without(link, {"dropped"}) for link in links])
    sections += _list("dropped, by reason", _dropped(status.get("link") or {}, links), "dropped.")
    for section in ("stream", "kernel", "last_commit", "keepalived", "gate", "metrics"):
        sections += _list(section.replace("_", " "), status.get(section) or {}, f"{section}.")
    return sections + _list("more", others)


def _without(mapping: dict[str, Any], left_out: set[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in left_out}


def _dropped(total: dict[str, Any], links: list[dict[str, Any]]) -> dict[str, Any]:
    """All links' drops; where there are several links, each one's too."""
    drops = dict(total.get("dropped") or {})
    if len(links) > 1:
        for position, link in enumerate(links):
            name = link.get("name", position)
            drops |= {f"{name}: {reason}": count for reason, count in (link.get("dropped") or {}).items()}
    return drops


def _list(title: str, mapping: dict[str, Any], place: str = "") -> list[Section]:
    return [(title, _pairs(mapping, place))] if mapping else []


def _pairs(mapping: dict[str, Any], place: str = "") -> Table:
    """Lay out one key and its value per line, a nested table's under "key.key"; `place` is where all that stands."""
    table = Table.grid(padding=(0, 2))
    for key, value in _flat(mapping):
        table.add_row(key, Text(_shown(value), style=_style(f"{place}{key}", value)))
    return table


def _table(title: str, rows: list[dict[str, Any]]) -> list[Section]:
    """Lay out one row per mapping, with the columns in the order in which keys appear."""
    flat_rows = [dict(_flat(row)) for row in rows]
    columns = list(dict.fromkeys(key for row in flat_rows for key in row))
    if not columns:
        return []
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in flat_rows:
        cells = [(column, row.get(column)) for column in columns]
        table.add_row(*(Text(_shown(value), style=_style(column, value)) for column, value in cells))
    return [(title, table)]


def _flat(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _style(key: str, value: object) -> str:
    """The colour of what stands at this key; none for what is neither good nor bad."""
    last = key.rpartition(".")[2]
    style = ""
    match value:
        case bool() if key in WANTED:
            style = GOOD if value is WANTED[key] else BAD
        case False if key == "keepalived.fifo_writer":
            style = BAD
        case int() | float() if last in LATE_S:
            doubtful, bad = LATE_S[last]
            style = BAD if value >= bad else DOUBTFUL if value >= doubtful else GOOD
        case int() if value and (last in COUNTED or any(part in key for part in COUNTED_UNDER)):
            style = "" if last.endswith(EXPECTED) else DOUBTFUL
        case str() if key == "keepalived.fifo":
            style = GOOD if value == "open" else BAD
        case str():
            style = TROUBLES.get(key, "")
    return style


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
