"""A comparison and a series in the terminal: the verdict first, then what changed, by size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from frog.errors import UnknownName
from frog.report.sparklines import bars_for, folded, sparkline
from frog.report.terminal import findings_grid
from frog.report.words import count, middle, natural, number, printable, short_name, times
from frog.types import Comparison, LayerChange, Series

TABLE_CHANGES = 40
"""Layers that the comparison prints; the rest is in the files."""

NARROW = 76
WIDE = 100
WIDEST = 120
MIN_NAME = 12
SHOWN_NAMES = 3
FEWEST_BARS = 3
TRAINED = ("trained", "possibly trained")
OWN_COLUMNS = (
    "drift",
    "spectral_share",
    "rotation_left",
    "rotation_right",
    "intruders",
    "scale_z",
)
SUMMARY = {
    "alpha": "α",
    "alpha_weighted": "α̂",
    "log_norm": "log‖W‖²",
    "log_spectral_norm": "log λ₁",
    "stable_rank": "stable rank",
}


# -------------------------------------------------------------------------- comparison


def comparison_panel(comparison: Comparison) -> RenderableType:
    """Verdict, both models, the means before and after, what has no partner, what was found."""
    before, after = comparison.before, comparison.after
    sides = [
        Text(printable(f"before  {before.path}{_weightless(before.weights)}")),
        Text(printable(f"after   {after.path}{_weightless(after.weights)}")),
        Text(_counts(comparison)),
    ]
    remarks = [
        Text(printable(f"only {side}: {_some(list(names))}"), style="yellow")
        for side, names in (("before", comparison.only_before), ("after", comparison.only_after))
        if names
    ]
    remarks += [Text(printable(f"note: {note}"), style="dim") for note in comparison.notes]
    parts = (
        Text(printable(comparison.verdict), style="bold"),
        Group(*sides),
        _means(comparison),
        Group(*remarks) if remarks else None,
        findings_grid(comparison.findings),
    )
    return _apart([part for part in parts if part is not None])


def _apart(parts: Sequence[RenderableType]) -> RenderableType:
    """Parts with a blank line between them."""
    return Group(*[line for part in parts for line in (part, "")][:-1])


def change_table(comparison: Comparison, *, sort: str | None = None, limit: int | None = None,
                 width: int = 80) -> Table:  # fmt: skip
    """A row a changed layer, the largest change first; identical layers are only counted.

    ``sort`` names a number (``drift``, ``rotation_left``, ``alpha``, ...) by whose size the rows
    are ordered; without it drift where the weights were at hand, else the change of alpha.
    From 100 characters on, the table also has the interval of the change of alpha, the change of
    scale and the rotation; from 120 on the shape and the intruders.
    """
    changed = [layer for layer in comparison.layers if not layer.identical]
    key = _size(comparison, sort)
    changed.sort(key=lambda layer: (key(layer), natural(layer.name)))
    shown = changed if limit is None else changed[:limit]
    table = column_table(CHANGE_COLUMNS, shown, width, name=1)
    rest = len(changed) - len(shown)
    identical = len(comparison.layers) - len(changed)
    if rest:
        table.add_row("…", Text(count(rest, "more layer"), style="dim"))
    if identical:
        table.add_row("=", Text(count(identical, "identical layer"), style="dim"))
    return table


def _size(comparison: Comparison, sort: str | None) -> Callable[[LayerChange], float]:
    """Sort key: the larger the change the smaller the key, NaN last."""
    known = {name for layer in comparison.layers for name in layer.change} | set(OWN_COLUMNS)
    if sort is not None and sort not in known:
        raise UnknownName("column", sort, known)
    if sort is None:
        drifts = any(not math.isnan(layer.drift) for layer in comparison.layers)
        sort = "drift" if drifts else "alpha"

    def key(layer: LayerChange) -> float:
        value = _number(layer, sort)
        return math.inf if math.isnan(value) else -abs(value)

    return key


def _number(layer: LayerChange, name: str) -> float:
    return getattr(layer, name) if name in OWN_COLUMNS else layer.change.get(name, math.nan)


def _weightless(weights: bool) -> str:
    return "" if weights else " (a saved report: no weights)"


def _counts(comparison: Comparison) -> str:
    identical = sum(layer.identical for layer in comparison.layers)
    words = [f"{count(len(comparison.layers), 'layer')} compared"]
    if identical:
        words.append(f"{identical} identical")
    unmatched = len(comparison.only_before) + len(comparison.only_after)
    if unmatched:
        words.append(f"{count(unmatched, 'tensor')} without a partner")
    return " · ".join(words)


def _means(comparison: Comparison) -> Table | None:
    """The means of both models; None where neither has any."""
    summary = comparison.summary
    rows = [
        [title, *(summary.get(f"{name}_{part}") for part in ("before", "after", "change"))]
        for name, title in SUMMARY.items()
    ]
    rows = [row for row in rows if not all(x is None or math.isnan(x) for x in row[1:])]
    if not rows:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("mean")
    for title in ("before", "after", "change"):
        table.add_column(title, justify="right")
    for title, before, after, change in rows:
        table.add_row(Text(title), number(before), number(after), signed(change))
    return table


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


# ------------------------------------------------------------------------------ series


def series_panel(series: Series) -> RenderableType:
    """Verdict, notes, and the findings of the last member against the first."""
    lines: list[RenderableType] = [Text(printable(series.verdict), style="bold")]
    lines += [Text(printable(f"note: {note}"), style="dim") for note in series.notes]
    if series.strategies:  # strategies have no last one: what was found in each is on the page
        return Group(*lines)
    last = series.comparisons[-1] if series.comparisons else None
    findings = findings_grid(last.findings) if last is not None else None
    if last is not None and findings is not None:
        title = f"{series.labels[-1]} against {series.labels[0]}"
        lines += ["", Text(printable(title), style="bold"), findings]
    return Group(*lines)


def series_table(series: Series, *, width: int = 80) -> Table:
    """A row a member: step, means, drift against the first, and how many layers are judged how."""
    members = [Member(series=series, place=i) for i in range(len(series.reports))]
    return column_table(MEMBER_COLUMNS, members, width, name=1)


@dataclass(frozen=True, slots=True)
class SeriesPictures:
    """Each number of a series as a row of bars, first member to last, with both ends in figures."""

    series: Series

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        members = [Member(series=self.series, place=i) for i in range(len(self.series.reports))]
        grid = Table.grid(padding=(0, 2))
        for title, value in PICTURES.items():
            values = [value(member) for member in members]
            if sum(math.isfinite(x) for x in values) < FEWEST_BARS:
                continue
            bars, _ = folded(values, max(options.max_width // 2, FEWEST_BARS))
            shown = small if title == "drift" else number
            ends = f"{shown(values[0])} → {shown(values[-1])}"
            grid.add_row(title, sparkline(bars, bars=bars_for(options.encoding)), ends)
        if grid.row_count:
            yield grid


@dataclass(frozen=True, slots=True)
class Member:
    """One model of a series, with its comparison against the first."""

    series: Series
    place: int

    @property
    def comparison(self) -> Comparison | None:
        """Against the first; None for the first itself."""
        return self.series.comparisons[self.place - 1] if self.place else None

    def mean(self, name: str) -> float:
        """A mean of the report."""
        return float(self.series.reports[self.place].summary.get(name, math.nan))

    @property
    def drift(self) -> float:
        """||W' - W||_F / ||W||_F of all layers as one vector; 0 for the first against itself."""
        if self.comparison is None:
            return 0.0
        return float(self.comparison.summary.get("drift_total", math.nan))

    def verdicts(self, word: str) -> int:
        """Layers that are judged so, certainly or possibly."""
        words = {word, f"possibly {word}"}
        return sum(not words.isdisjoint(x.verdicts) for x in self.series.reports[self.place].layers)


# ----------------------------------------------------------------------------- columns


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: title, alignment, cell, and the least width of the terminal."""

    title: str
    justify: Literal["left", "right"]
    cell: Callable[[Any], Text]
    least: int = 0


def column_table(columns: Sequence[Column], rows: Sequence[Any], width: int, *, name: int) -> Table:
    """A table of those columns for which the terminal is wide enough; the name's is cut to fit."""
    columns = [column for column in columns if width >= column.least]
    cells = [[column.cell(row) for column in columns] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    taken = 0
    for i, column in enumerate(columns):
        table.add_column(column.title, justify=column.justify, no_wrap=True)
        if i != name:
            taken += 2 + max(len(text) for text in (column.title, *(row[i].plain for row in cells)))
    for row in cells:
        row[name] = Text(middle(row[name].plain, max(MIN_NAME, width - taken)))
        table.add_row(*row)
    return table


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign; a dash where there is none.

    >>> signed(0.5), signed(-0.001), signed(math.nan)
    ('+0.50', '0.00', '–')
    """
    text = "–" if value is None or math.isnan(value) else f"{value:+.{digits}f}"
    return text[1:] if text.strip("+-0.") == "" else text  # nothing has no sign


def _change(name: str, digits: int = 2) -> Callable[[LayerChange], Text]:
    return lambda layer: Text(signed(layer.change.get(name), digits))


def _beside(name: str) -> Callable[[LayerChange], Text]:
    """Before and after in one cell."""
    return lambda layer: Text(f"{number(layer.before.get(name))} → {number(layer.after.get(name))}")


def small(value: float) -> str:
    """A share: two significant digits, so that a drift of 0.0004 is not 0.00."""
    return number(value) if math.isnan(value) or value == 0 else f"{value:#.2g}".rstrip(".")


def _interval(layer: LayerChange) -> Text:
    low, high = layer.alpha_change_low, layer.alpha_change_high
    return Text("" if math.isnan(low) or math.isnan(high) else f"{low:+.1f} to {high:+.1f}")


def _verdict(layer: LayerChange) -> Text:
    """What happened to the layer: its scale first, then a verdict that is new."""
    if layer.scale:
        return Text(printable(layer.scale), style="red" if layer.scale == "collapse" else "")
    known = {*layer.verdicts_before, *TRAINED}
    new = [verdict for verdict in layer.verdicts_after if verdict not in known]
    words = new[0].removeprefix("possibly ") + "?" * new[0].startswith("possibly ") if new else ""
    return Text(printable(words), style="yellow")


CHANGE_COLUMNS = [
    Column("", "right", lambda layer: Text("" if layer.block is None else str(layer.block))),
    Column("layer", "left", lambda layer: Text(short_name(layer.name, layer.block))),
    Column("shape", "right", lambda layer: Text(times(layer.shape)), least=WIDEST),
    Column("drift", "right", lambda layer: Text(small(layer.drift))),
    Column("α", "right", _beside("alpha")),
    Column("Δα", "right", _change("alpha")),
    Column("95 %", "right", _interval, least=WIDE),
    Column("Δlog λ₁", "right", _change("log_spectral_norm"), least=WIDE),
    Column("rotation", "right", lambda layer: Text(small(layer.rotation_left)), least=WIDE),
    Column("intruders", "right", lambda layer: Text(number(layer.intruders, 0)), least=WIDEST),
    Column("now", "left", _verdict),
]


def _mean(name: str) -> Callable[[Member], Text]:
    return lambda member: Text(number(member.mean(name)))


def _tally(word: str) -> Callable[[Member], Text]:
    return lambda member: Text(str(member.verdicts(word)))


MEMBER_COLUMNS = [
    Column("step", "right", lambda member: Text(f"{member.series.steps[member.place]:g}")),
    Column("model", "left", lambda member: Text(printable(member.series.labels[member.place]))),
    Column("α", "right", _mean("alpha")),
    Column("α̂", "right", _mean("alpha_weighted")),
    Column("stable rank", "right", _mean("stable_rank"), least=NARROW),
    Column("log‖W‖²", "right", _mean("log_norm"), least=WIDE),
    Column("drift", "right", lambda member: Text(small(member.drift))),
    Column("over-par.", "right", _tally("over-parameterised"), least=NARROW),
    Column("over-tr.", "right", _tally("over-trained"), least=NARROW),
]

PICTURES: dict[str, Callable[[Member], float]] = {
    "α": lambda member: member.mean("alpha"),
    "α̂": lambda member: member.mean("alpha_weighted"),
    "stable rank": lambda member: member.mean("stable_rank"),
    "drift": lambda member: member.drift,
}
