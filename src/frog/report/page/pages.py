"""A record becomes one page that stands alone."""

from __future__ import annotations

from typing import Any

from frog.report.page.assets import environment, json_block, plotly_packed, scripts, styles
from frog.report.page.comparison_view import comparison_context, comparison_data
from frog.report.page.report_view import report_context, report_data
from frog.report.page.series_view import series_context, series_data
from frog.serial.whole_file import write_whole
from frog.types import Comparison, ModelReport, Series


def report_page(report: ModelReport) -> str:
    """The measurement of a model as one self-contained page of HTML.

    >>> from frog.types import Settings
    >>> page = report_page(ModelReport(path="m", digest="", format="", frog_version="",
    ...                                settings=Settings(), layers=()))
    >>> page.startswith("<!DOCTYPE html>"), "https://" in page.split("plotly-packed")[0]
    (True, False)
    """
    return _page("report.html.j2", report_data(report), report_context(report))


def comparison_page(comparison: Comparison) -> str:
    """Before against after as one self-contained page of HTML."""
    context = comparison_context(comparison)
    return _page("comparison.html.j2", comparison_data(comparison), context)


def series_page(series: Series) -> str:
    """A series of models as one self-contained page of HTML."""
    return _page("series.html.j2", series_data(series), series_context(series))


def write_page(html: str, path: Any) -> str:
    """The page again; also written to ``path``, whole or not at all, where one is given.

    Raises :class:`~frog.errors.UsageError` when the folder does not exist or must not be
    written to, :class:`~frog.errors.FrogError` when the disk is full.
    """
    if path is not None:
        write_whole(html.encode("utf-8", "backslashreplace"), path)
    return html


def _page(template: str, data: dict[str, Any], context: dict[str, Any]) -> str:
    return (
        environment()
        .get_template(template)
        .render(
            **context,
            data_json=json_block(data),
            style_text=styles(),
            script_text=scripts(),
            plotly_text=plotly_packed(),
        )
    )
