"""A record on stdout, in the format asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frog.cli.console import OUT

if TYPE_CHECKING:
    from frog.types import Comparison, ModelReport, Series


def show(
    record: ModelReport | Comparison | Series, *, format: str, all_layers: bool = False
) -> None:
    """Print a report, a comparison or a series: JSON as in its file, else for people."""
    from frog.types import ModelReport, Series

    if format == "json":
        OUT.file.write(record.to_json())
    elif format == "quiet":
        return
    elif isinstance(record, ModelReport):
        _show_report(record, all_layers)
    elif isinstance(record, Series):
        _show_series(record)
    else:
        _show_comparison(record, all_layers)


def _show_report(report: ModelReport, all_layers: bool) -> None:
    from frog.report.terminal import TABLE_LAYERS, layer_table, summary_panel

    OUT.print(summary_panel(report))
    if not report.measured:
        return
    OUT.print()
    OUT.print(layer_table(report, limit=None if all_layers else TABLE_LAYERS, width=OUT.width))


def _show_comparison(comparison: Comparison, all_layers: bool) -> None:
    from frog.report.changes import TABLE_CHANGES, change_table, comparison_panel

    OUT.print(comparison_panel(comparison))
    if not comparison.layers:
        return
    OUT.print()
    limit = None if all_layers else TABLE_CHANGES
    OUT.print(change_table(comparison, limit=limit, width=OUT.width))


def _show_series(series: Series) -> None:
    from frog.report.changes import SeriesPictures, series_panel, series_table

    OUT.print(series_panel(series))
    OUT.print()
    OUT.print(series_table(series, width=OUT.width))
    OUT.print()
    OUT.print(SeriesPictures(series))
