"""The table of results: medians, ratios and targets from the figures of all runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich import box
from rich.table import Table

from bench.scenarios import Figures

NO_DAEMON = ""
Results = dict[str, dict[str, list[Figures]]]  # scenario → program → one set of figures per run


@dataclass(frozen=True, kw_only=True)
class Target:
    """Holds a target for ftfw. `limit` bounds its own median, or its ratio to conntrackd's if `relative`."""

    text: str
    limit: float
    at_least: bool = False
    relative: bool = False

    def met(self, ours: float, ratio: float | None) -> bool | None:
        """Tell whether the target is met; None if it is relative and conntrackd did not run."""
        value = ratio if self.relative else ours
        if value is None:
            return None
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Describes one row: its name, where its figure comes from, and its format.

    `less_baseline` subtracts the same figure of the runs without a daemon.
    """

    name: str
    scenario: str
    figure: Callable[[Figures], float]
    form: str
    target: Target | None = None
    combine: Callable[[Sequence[float]], float] = median
    less_baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """Holds one row with its figures; a figure is None if the program did not run."""

    quantity: Quantity
    conntrackd: float | None
    ftfw: float | None

    @property
    def ratio(self) -> float | None:
        """Return the figure of ftfw divided by that of conntrackd; None if one is missing."""
        return self.ftfw / self.conntrackd if self.ftfw is not None and self.conntrackd else None

    @property
    def met(self) -> bool | None:
        """Tell whether the target is met; None without a target or without the figures."""
        if self.quantity.target is None or self.ftfw is None:
            return None
        return self.quantity.target.met(self.ftfw, self.ratio)


def _key(name: str) -> Callable[[Figures], float]:
    return lambda figures: figures[name]


_A_QUARTER = Target(text="≤ 1/4", limit=0.25, relative=True)
_NONE = Target(text="0", limit=0)
_QUIET = Target(text="≤ 5 %", limit=0.05)
QUANTITIES = (
    Quantity(
        name="active CPU per event",
        scenario="cpu",
        figure=_key("active_us"),
        form="{:.2f} µs",
        target=_A_QUARTER,
    ),
    Quantity(name="  of that, user", scenario="cpu", figure=_key("active_user_us"), form="{:.2f} µs"),
    Quantity(
        name="backup CPU per event",
        scenario="cpu",
        figure=_key("backup_us"),
        form="{:.2f} µs",
        target=_A_QUARTER,
    ),
    Quantity(name="  of that, user", scenario="cpu", figure=_key("backup_user_us"), form="{:.2f} µs"),
    Quantity(
        name="bytes on the wire per event",
        scenario="cpu",
        figure=_key("wire_bytes"),
        form="{:.1f} B",
        target=Target(text="≤ 50 B", limit=50),
    ),
    Quantity(
        name="packets' path, CPU per event",
        scenario="cpu",
        figure=_key("traffic_us"),
        form="{:.2f} µs",
        less_baseline=True,
    ),
    Quantity(
        name="pace held",
        scenario="cpu",
        figure=_key("pace"),
        form="{:.1%}",
        target=Target(text="≥ 99 %", limit=0.99, at_least=True),
        combine=min,
    ),
    Quantity(
        name="machine busy otherwise",
        scenario="cpu",
        figure=_key("neighbours"),
        form="{:.0%}",
        target=_QUIET,
        combine=max,
    ),
    Quantity(
        name="netlink overruns",
        scenario="cpu",
        figure=_key("overruns"),
        form="{:,.0f}",
        target=_NONE,
        combine=max,
    ),
    Quantity(
        name="entries missing on the backup",
        scenario="cpu",
        figure=_key("missing"),
        form="{:,.0f}",
        target=_NONE,
        combine=max,
    ),
    Quantity(
        name="event to hot backup, median",
        scenario="latency",
        figure=_key("p50_ms"),
        form="{:.1f} ms",
    ),
    Quantity(
        name="event to hot backup, 99 %",
        scenario="latency",
        figure=_key("p99_ms"),
        form="{:.1f} ms",
        target=Target(text="≤ 10 ms", limit=10),
    ),
    Quantity(
        name="entries missing, hot",
        scenario="latency",
        figure=_key("missing"),
        form="{:,.0f}",
        target=_NONE,
        combine=max,
    ),
    Quantity(
        name="warm commit",
        scenario="commit",
        figure=_key("rate"),
        form="{:,.0f}/s",
        target=Target(text="≥ 4 x", limit=4, at_least=True, relative=True),
    ),
    Quantity(
        name="  share of the kernel's own",
        scenario="commit",
        figure=lambda figures: figures["rate"] / figures["kernel_rate"],
        form="{:.0%}",
        target=Target(text="≥ 80 %", limit=0.8, at_least=True),
    ),
    Quantity(
        name="entries missing after commit",
        scenario="commit",
        figure=_key("missing"),
        form="{:,.0f}",
        target=_NONE,
        combine=max,
    ),
    Quantity(
        name="machine busy otherwise, commit",
        scenario="commit",
        figure=_key("neighbours"),
        form="{:.0%}",
        target=_QUIET,
        combine=max,
    ),
    Quantity(
        name="backup memory per entry",
        scenario="memory",
        figure=_key("bytes"),
        form="{:.0f} B",
        target=Target(text="≤ 300 B", limit=300),
    ),
)


def rows(results: Results) -> list[Row]:
    """Return all rows for which the results have figures."""

    def combined(quantity: Quantity, program: str) -> float | None:
        runs = results[quantity.scenario].get(program)
        if not runs:
            return None
        value = quantity.combine([quantity.figure(run) for run in runs])
        if quantity.less_baseline:
            value -= quantity.combine([quantity.figure(run) for run in results[quantity.scenario][NO_DAEMON]])
        return value

    return [
        Row(quantity=each, conntrackd=combined(each, "conntrackd"), ftfw=combined(each, "ftfw"))
        for each in QUANTITIES
        if each.scenario in results
    ]


def table(computed: Sequence[Row], title: str) -> Table:
    """Return the rows as a table for the terminal."""
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("quantity", "conntrackd", "ftfw", "ratio", "target", "met"):
        drawn.add_column(heading, justify="left" if heading == "quantity" else "right", no_wrap=True)
    for row in computed:
        verdict = {True: "[green]yes", False: "[red]no", None: ""}[row.met]
        drawn.add_row(
            row.quantity.name,
            "" if row.conntrackd is None else row.quantity.form.format(row.conntrackd),
            "" if row.ftfw is None else row.quantity.form.format(row.ftfw),
            "" if row.ratio is None else f"{row.ratio:.2f} x",
            row.quantity.target.text if row.quantity.target else "",
            verdict,
        )
    return drawn


def as_json(computed: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as data for JSON, without rounding."""
    return [
        {
            "quantity": row.quantity.name.strip(),
            "scenario": row.quantity.scenario,
            "conntrackd": row.conntrackd,
            "ftfw": row.ftfw,
            "ratio": row.ratio,
            "target": row.quantity.target.text if row.quantity.target else None,
            "met": row.met,
        }
        for row in computed
    ]
