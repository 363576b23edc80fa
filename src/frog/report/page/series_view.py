"""What the page of a series shows: its data block and the words of its template."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from frog.report.page.columns import CHANGES, FIRST, Column, metric_columns
from frog.report.page.layers import layer_facts, line_order
from frog.report.page.parts import (
    condition_shares,
    method_words,
    setting_words,
    severity_counts,
    short_path,
)
from frog.report.strategies import CELLS, gain_of, legend, old_of, reasons
from frog.report.tuning import metric_value
from frog.types import Finding, LayerReport, ModelReport, Series, Strategy

DIGITS = 7
SHORT = 16
"""Characters of a label that need no shortening."""

LAYER_METRICS = (*FIRST, "log_alpha_norm", "spikes", "xmin", "num_pl_spikes")
"""Metrics of single layers that a series holds; the reports of its members have the rest."""

FROM_COMPARISON = ("drift", "rotation_left", "rotation_right", "intruders", "scale_z")


def series_data(series: Series) -> dict[str, Any]:
    """The data block of a series' page: a table member x layer for each metric."""
    layers = _all_layers(series.reports)
    members = [{x.name: x.values for x in report.measured} for report in series.reports]
    tables = [[member.get(layer.name, {}) for layer in layers] for member in members]
    settings = series.reports[0].settings if series.reports else None
    columns = []
    if settings is not None:
        flat = [table for row in tables for table in row]
        columns = [asdict(c) for c in metric_columns(flat, settings) if c.key in LAYER_METRICS]
    values = {
        column["key"]: [[_short(table.get(column["key"])) for table in row] for row in tables]
        for column in columns
    }
    for key, rows in _compared(series, layers).items():
        values[key] = rows
    return {
        "page": "series",
        "layers": {**layer_facts(layers), "averaged": [x.averaged for x in layers]},
        "lines": line_order(layers),
        "metrics": columns + _compared_columns(values),
        "values": values,
        "members": [
            {"label": label, "short": short, "step": step, "summary": dict(report.summary)}
            for label, short, step, report in zip(
                series.labels,
                unlike(series.labels),
                series.steps,
                series.reports,
                strict=True,
            )
        ],
        "conditions": [_conditions(report, layers) for report in series.reports],
    }


def series_context(series: Series) -> dict[str, Any]:
    """The words of a series' page."""
    settings = series.reports[0].settings if series.reports else None
    return {
        "title": f"{len(series.labels)} models: {_span(series.labels)}",
        "series": series,
        "members": [
            {
                "label": label,
                "step": step,
                "report": report,
                "severities": severity_counts(_findings(series, i)),
                "shares": condition_shares(report.measured),
                "verdict": _verdict(series, i),
            }
            for i, (label, step, report) in enumerate(
                zip(series.labels, series.steps, series.reports, strict=True)
            )
        ],
        "strategies": _strategies(series.strategies) if series.strategies else None,
        "settings": setting_words(settings) if settings else [],
        "method": method_words(settings) if settings else "",
    }


def strategy_table(rows: Sequence[Strategy]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of strategies, the label first."""
    metric = next((x.metric for x in rows if math.isfinite(x.quality_after)), "quality")
    heads = ["strategy", "before", metric, "gain", "old rows", *CELLS]
    cells = [
        [
            row.label,
            metric_value(row.metric, row.quality_before),
            metric_value(row.metric, row.quality_after),
            gain_of(row),
            old_of(row),
            *(cell(row) for cell in CELLS.values()),
        ]
        for row in rows
    ]
    return heads, cells


def _strategies(rows: Sequence[Strategy]) -> dict[str, Any]:
    """The table, a class for each cell that tells better from worse, and how it is read."""
    heads, cells = strategy_table(rows)
    made = [
        {
            "path": row.path,
            "label": words[0],
            "cells": [
                {"text": text, "class": _way(row, head), "why": _why_missing(row, head, text)}
                for head, text in zip(heads[1:], words[1:], strict=True)
            ],
        }
        for row, words in zip(rows, cells, strict=True)
    ]
    return {"heads": heads, "rows": made, "legend": legend(rows), "reasons": reasons(rows)}


FIELDS = {
    "gain": "quality_after",
    "old rows": "old_after",
    "trains": "trainable",
    "memory": "memory",
    "time": "seconds",
    "CPU": "cpu_seconds",
    "rate": "learning_rate",
    "delta": "delta_bytes",
    "mean |Δα|": "alpha_shift",
}
"""The field of a strategy whose reason stands where a column has no number."""


def _way(row: Strategy, head: str) -> str:
    change = {"gain": row.gain, "old rows": row.old_change}.get(head, math.nan)
    if not change or math.isnan(change):
        return ""
    return "better" if (change > 0) == row.higher else "worse"


def _why_missing(row: Strategy, head: str, text: str) -> str:
    if text != "–":
        return ""
    return row.missing.get(FIELDS.get(head, head if head in CELLS else "quality_after"), "")


def _verdict(series: Series, i: int) -> str:
    """The sentence of the comparison of member i with the first."""
    return series.comparisons[i - 1].verdict if 0 < i <= len(series.comparisons) else ""


def _findings(series: Series, i: int) -> tuple[Finding, ...]:
    """What was found in a member by itself, and in it against the first."""
    changes = series.comparisons[i - 1].findings if 0 < i <= len(series.comparisons) else ()
    own = series.reports[i].findings
    # a condition that is new against the first is in both lists
    known = {(x.kind, x.layer, x.severity) for x in own}
    return (*own, *(x for x in changes if (x.kind, x.layer, x.severity) not in known))


def _all_layers(reports: Sequence[ModelReport]) -> list[LayerReport]:
    """Every layer that some member has, as met."""
    met: dict[str, LayerReport] = {}
    for report in reports:
        for layer in report.measured:
            met.setdefault(layer.name, layer)
    return list(met.values())


def _conditions(report: ModelReport, layers: Sequence[LayerReport]) -> list[str | None]:
    by_name = {layer.name: layer.condition for layer in report.measured}
    return [by_name.get(layer.name) for layer in layers]


def _compared(series: Series, layers: Sequence[LayerReport]) -> dict[str, Any]:
    """Drift, rotation and the like against the first member, which itself has none."""
    found: dict[str, Any] = {}
    for key in FROM_COMPARISON:
        rows: list[list[float | None]] = [[None] * len(layers)]
        for comparison in series.comparisons:
            by_name = {x.name: getattr(x, key) for x in comparison.layers}
            rows.append([_short(by_name.get(layer.name)) for layer in layers])
        rows.extend([None] * len(layers) for _ in range(len(series.reports) - len(rows)))
        if any(value is not None for row in rows for value in row):
            found[key] = rows
    return found


def _compared_columns(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        asdict(Column(key=key, title=CHANGES[key][0], help=CHANGES[key][1], group="change"))
        for key in FROM_COMPARISON
        if key in values
    ]


def _short(value: float | None) -> float | None:
    """A number to seven digits: a series holds very many."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def unlike(labels: Sequence[str]) -> list[str]:
    """Labels without the words that all begin or end with; short ones as they are.

    >>> unlike(["run_a_dense.safetensors", "run_a_pruned.safetensors"]), unlike(["x-1", "x-2"])
    (['dense', 'pruned'], ['x-1', 'x-2'])
    """
    if len(set(labels)) < 2 or max(map(len, labels)) <= SHORT:
        return list(labels)
    words = [[word for word in re.split(r"([/_.\-])", label) if word] for label in labels]
    least = min(map(len, words))
    front = next((i for i in range(least) if len({w[i] for w in words}) > 1), least)
    rest = least - front
    back = next((i for i in range(rest) if len({w[-1 - i] for w in words}) > 1), rest)
    made = ["".join(w[front : len(w) - back]).strip("/_.-") for w in words]
    return made if all(made) and len(set(made)) == len(set(labels)) else list(labels)


def _span(labels: Sequence[str]) -> str:
    if not labels:
        return "none"
    short = unlike(labels)
    first, last = short_path(short[0]), short_path(short[-1])
    return first if len(labels) == 1 else f"{first} … {last}"
