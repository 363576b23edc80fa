"""Every record as text: what the command line prints, and what ``print`` shows in Python."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from frog.report.changes import (
    TABLE_CHANGES,
    SeriesPictures,
    change_table,
    comparison_panel,
    series_panel,
    series_table,
)
from frog.report.gate import gate_lines
from frog.report.strategies import strategies_view
from frog.report.terminal import TABLE_LAYERS, layer_table, summary_panel
from frog.types import Comparison, GateResult, ModelReport, Series

Record = ModelReport | Comparison | Series


def pieces(record: Record, *, width: int = 80, all_layers: bool = False) -> list[RenderableType]:
    """What is printed of a record, one under the other with a blank line between."""
    if isinstance(record, ModelReport):
        rows = None if all_layers else TABLE_LAYERS
        table = layer_table(record, limit=rows, width=width) if record.measured else None
        found = [summary_panel(record), table]
    elif isinstance(record, Series):
        found = [series_panel(record), *_of_series(record, width)]
    else:
        rows = None if all_layers else TABLE_CHANGES
        table = change_table(record, limit=rows, width=width) if record.layers else None
        found = [comparison_panel(record), table]
    return [piece for piece in found if piece is not None]


def _of_series(series: Series, width: int) -> list[RenderableType]:
    """Strategies have no order, so that pictures from the first to the last would say nothing."""
    table = series_table(series, width=width)
    if series.strategies:
        return [strategies_view(series, width=width), table]
    return [table, SeriesPictures(series)]


def as_text(record: Record | GateResult, *, width: int = 80) -> str:
    """A record as plain text, at most ``width`` columns wide (the lines of a gate are whole)."""
    if isinstance(record, GateResult):
        return "\n".join(line.plain for line in gate_lines(record))
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    for place, piece in enumerate(pieces(record, width=width)):
        console.print(*([] if place == 0 else [""]), piece, sep="\n")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
