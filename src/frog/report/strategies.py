"""Ways to fine-tune one model in the terminal: a row each, and how the table is to be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from frog.report.changes import Column, column_table, small
from frog.report.tuning import PERCENT, metric_change, metric_value, size
from frog.report.words import number, percent, printable, quantity
from frog.types import Series, Strategy

MINUTE, HOUR = 60.0, 3600.0
WITH_OVERLAP, WITH_ALL = 88, 124
"""Characters from which on a terminal has more columns."""


def strategies_view(series: Series, *, width: int = 80) -> RenderableType:
    """The table of strategies, what its columns are, and why a number is missing.

    From 88 characters on it has the overlap of the leading directions, from 124 on the learning
    rate, the processor time, the size of the delta and the intruders; all are in the file.
    """
    rows = series.strategies
    table = column_table(columns_of(rows), rows, width, name=0)
    lines = [
        Text(line, style="dim")
        for line in (*legend(rows, overlap=width >= WITH_OVERLAP), *reasons(rows))
    ]
    return Group(table, *lines)


def columns_of(rows: Sequence[Strategy]) -> list[Column]:
    """The columns of the terminal; that of quality has the name of the metric."""
    first = _measured(rows)
    metric = first.metric if first is not None else "quality"
    return [
        Column("strategy", "left", lambda x: Text(printable(x.label))),
        Column(metric, "right", lambda x: Text(metric_value(x.metric, x.quality_after))),
        Column("gain", "right", lambda x: _changed(x, x.quality_before, x.quality_after)),
        Column("old", "right", lambda x: _changed(x, x.old_before, x.old_after)),
        Column("trains", "right", lambda x: Text(share_of(x))),
        Column("memory", "right", lambda x: Text(bytes_of(x.memory))),
        Column("time", "right", lambda x: Text(time_of(x.seconds))),
        Column("|Δα|", "right", lambda x: Text(number(x.alpha_shift))),
        Column("drift", "right", lambda x: Text(small(x.drift))),
        Column("overlap", "right", lambda x: Text(number(x.overlap, 3)), least=WITH_OVERLAP),
        Column("rate", "right", lambda x: Text(rate_of(x)), least=WITH_ALL),
        Column("CPU", "right", lambda x: Text(time_of(x.cpu_seconds)), least=WITH_ALL),
        Column("delta", "right", lambda x: Text(bytes_of(x.delta_bytes)), least=WITH_ALL),
        Column("intruders", "right", lambda x: Text(number(x.intruders, 0)), least=WITH_ALL),
    ]


def legend(rows: Sequence[Strategy], *, overlap: bool = True) -> list[str]:
    """What the columns hold: rows that were measured, units, what memory is that of."""
    found = []
    first = _measured(rows)
    if first is not None:
        before = metric_value(first.metric, first.quality_before)
        one = len({x.quality_before for x in rows if not math.isnan(x.quality_before)}) == 1
        start = f", {before} before" if one else ""
        found.append(f"{first.metric}: on {first.rows:,} {first.split} rows{start}; gain: "
                     f"its change{' in points' if first.metric in PERCENT else ''}")  # fmt: skip
    old = next((x for x in rows if x.old_rows), None)
    if old is not None:
        found.append(f"old: change of {old.metric} on {old.old_rows:,} rows of what was known "
                     "before")  # fmt: skip
    devices = list(dict.fromkeys(x.device for x in rows if x.device))
    of = "the process" if devices in ([], ["cpu"]) else "the GPU" if len(devices) == 1 else "each"
    found.append(f"memory: peak of {of} while training; time: of training")
    found.append("|Δα|: mean change of alpha; drift: ‖W' − W‖ / ‖W‖ of all layers")
    if overlap:
        found.append("overlap: of the leading directions before and after, 1 where they stayed")
    return [printable(line) for line in found]


def reasons(rows: Sequence[Strategy]) -> list[str]:
    """Why numbers are missing, by strategy; what is not comparable is told in the notes.

    >>> reasons([Strategy(label="a", path="a", missing={"memory": "not recorded"})])
    ['– a: not recorded']
    """
    found = []
    for row in rows:
        why = dict.fromkeys(x for name, x in row.missing.items() if name not in row.unlike)
        if why:
            found.append(printable(f"– {row.label}: {', '.join(why)}"))
    return found


def share_of(row: Strategy) -> str:
    """Trainable weights in percent of all; of a delta those that changed, as a number.

    >>> share_of(Strategy(label="a", path="a", trainable=5.0, params=1000.0))
    '0.5 %'
    """
    if not math.isnan(row.share):
        return percent(row.share) if row.share >= 0.001 else quantity(int(row.trainable))
    return "–" if math.isnan(row.changed) else quantity(int(row.changed))


def bytes_of(value: float) -> str:
    """Bytes in a unit; a dash where they are not known.

    >>> bytes_of(5.6e8), bytes_of(math.nan)
    ('560 MB', '–')
    """
    return "–" if math.isnan(value) else size(int(value))


def time_of(seconds: float) -> str:
    """A time in two or three digits and one unit.

    >>> time_of(1.56), time_of(75.0), time_of(600.0), time_of(9000.0), time_of(math.nan)
    ('1.6 s', '75 s', '10 min', '2.5 h', '–')
    """
    if math.isnan(seconds):
        return "–"
    if seconds < 2 * MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def rate_of(row: Strategy) -> str:
    """The learning rate."""
    return "–" if math.isnan(row.learning_rate) else f"{row.learning_rate:.2g}"


def gain_of(row: Strategy) -> str:
    """The change of quality with its sign."""
    return _changed(row, row.quality_before, row.quality_after).plain


def old_of(row: Strategy) -> str:
    """The change on the old rows with its sign."""
    return _changed(row, row.old_before, row.old_after).plain


CELLS: dict[str, Callable[[Strategy], str]] = {
    "trains": share_of,
    "memory": lambda x: bytes_of(x.memory),
    "time": lambda x: time_of(x.seconds),
    "CPU": lambda x: time_of(x.cpu_seconds),
    "rate": rate_of,
    "delta": lambda x: bytes_of(x.delta_bytes),
    "mean |Δα|": lambda x: number(x.alpha_shift),
    "drift": lambda x: small(x.drift),
    "overlap": lambda x: number(x.overlap, 3),
    "intruders": lambda x: number(x.intruders, 0),
}
"""The columns of the page after those of quality."""


def _changed(row: Strategy, before: float, after: float) -> Text:
    return metric_change(row.metric, before, after, higher=row.higher)


def _measured(rows: Sequence[Strategy]) -> Strategy | None:
    """The first row with quality: it sets what the column means."""
    return next((x for x in rows if not math.isnan(x.quality_after)), None)
