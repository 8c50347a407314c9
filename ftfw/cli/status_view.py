"""Prints the status for people, as `ftfw.control.status_fields` orders and colours its fields.

The daemon may be newer or older than the command: absent fields are not shown, unknown fields are shown without colour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ftfw.control.client import ControlError
from ftfw.control.status_fields import FIELDS, Grade, Parts, Status, field_at, grade

PLAIN_WIDTH = 200  # columns where the output is no terminal: nothing is to be wrapped
ABSENT = "-"

STYLES: Final = {Grade.GOOD: "green", Grade.DOUBTFUL: "yellow", Grade.BAD: "bold red", None: ""}
HEAD: Final = tuple(field.path for field in FIELDS if len(field.parts) == 1 and not field.for_machines)
# Sections that are mappings, in their order; the others are shown in the tables of peers and links.
LISTED: Final = tuple(
    section
    for section in dict.fromkeys(field.parts[0] for field in FIELDS if len(field.parts) > 1)
    if section not in {"peers[]", "links[]", "link"}
)
KNOWN: Final = {field.parts[0].removesuffix("[]") for field in FIELDS}

Section = tuple[str, Table]


def print_status(status: Status) -> None:
    """Print the daemon's status to standard output, coloured on a terminal."""
    _console().print(_laid_out(status))


def watch_status(ask: Callable[[], Status], every_s: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Print the status that `ask` returns, again and again; on a terminal, each in the place of the one before.

    If the daemon does not answer (ControlError), print why, above the last status that it gave.
    """
    console, shown = _console(), Group()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            heading = Text(f"{time.strftime('%H:%M:%S')}, every {every_s:g} s; Ctrl-C ends it\n")
            try:
                shown = _laid_out(ask())
            except ControlError as error:
                heading = Text(f"{time.strftime('%H:%M:%S')} {error}\n", style=STYLES[Grade.BAD])
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


def _laid_out(status: Status) -> Group:
    parts: list[Padding | str] = []
    for title, table in _sections(status):
        if title:
            parts.append(f"\n{title}")
        parts.append(Padding(table, (0, 0, 0, 2 if title else 0), expand=False))
    return Group(*parts)


def _sections(status: Status) -> Iterator[Section]:
    yield "", _pairs({key: status[key] for key in HEAD if key in status}, ())
    yield from _table("peers", status.get("peers") or [], ("peers[]",))
    links = status.get("links") or [status[key] for key in ("link",) if key in status]
    yield from _table("links", [_without_drops(link) for link in links], ("links[]",))
    yield from _list("dropped, by reason", _drops(status.get("link") or {}, links), ("link", "dropped"))
    for section in LISTED:
        yield from _list(section.replace("_", " "), status.get(section) or {}, (section,))
    yield from _list("more", {key: value for key, value in status.items() if key not in KNOWN}, ())


def _without_drops(link: Status) -> Status:
    return {key: value for key, value in link.items() if key != "dropped"}


def _drops(total: Status, links: list[Status]) -> Status:
    """Return all links' drops; where there are several links, each one's as well."""
    drops = dict(total.get("dropped") or {})
    if len(links) > 1:
        for position, link in enumerate(links):
            name = link.get("name", position)
            drops |= {f"{name}: {reason}": count for reason, count in (link.get("dropped") or {}).items()}
    return drops


def _list(title: str, mapping: Status, place: Parts) -> Iterator[Section]:
    if mapping:
        yield title, _pairs(mapping, place)


def _pairs(mapping: Status, place: Parts) -> Table:
    """Lay out one key and its value per line, a nested mapping's under "key.key"; `place` leads to the mapping."""
    table = Table.grid(padding=(0, 2))
    for parts, value in _flat(mapping, place):
        table.add_row(".".join(parts[len(place) :]), _cell(parts, value))
    return table


def _table(title: str, rows: list[Status], place: Parts) -> Iterator[Section]:
    """Lay out one row per mapping, with the columns in the order in which the keys appear."""
    flat_rows = [dict(_flat(row, place)) for row in rows]
    columns = list(dict.fromkeys(parts for row in flat_rows for parts in row))
    if not columns:
        return
    table = Table(*(".".join(parts[1:]) for parts in columns), box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in flat_rows:
        table.add_row(*(_cell(parts, row.get(parts)) for parts in columns))
    yield title, table


def _flat(mapping: Status, place: Parts) -> Iterator[tuple[Parts, Any]]:
    for key, value in mapping.items():
        parts = (*place, key)
        if (field := field_at(parts)) is not None and field.for_machines:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, parts)
        else:
            yield parts, value


def _cell(parts: Parts, value: object) -> Text:
    return Text(_shown(value), style=STYLES[grade(parts, value)])


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
