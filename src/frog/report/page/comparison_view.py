"""What the page of a comparison shows: its data block and the words of its template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from frog.report.page.columns import (
    CHANGES,
    Column,
    change_columns,
    metric_columns,
    scale_of,
)
from frog.report.page.curves import packed_curves
from frog.report.page.layers import indexes, layer_facts, line_order, value_lists
from frog.report.page.parts import (
    counted,
    finding_rows,
    meaning_table,
    method_words,
    setting_words,
    severity_counts,
    short_path,
)
from frog.report.page.report_view import finding_groups
from frog.report.words import brief, short_name
from frog.types import Comparison, LayerChange

NEED_WEIGHTS = tuple(CHANGES)


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """The data block of a comparison's page: a list a column, in the order of the layers."""
    layers = comparison.layers
    places = indexes(layers)
    columns, values = _columns(comparison)
    return {
        "page": "comparison",
        "layers": {**layer_facts(layers), **_states(layers)},
        "lines": line_order(layers),
        "metrics": [asdict(column) for column in columns],
        "values": values,
        "looks": {},
        "sides": [
            {"label": "before", "curves": packed_curves([x.curve_before for x in layers])},
            {"label": "after", "curves": packed_curves([x.curve_after for x in layers])},
        ],
        "findings": finding_rows(comparison.findings, places),
        "meanings": meaning_table(comparison.findings),
        "ranking": [],
        "edges": None,
        "paths": [],
        "profiles": [],
        "window": comparison.after.settings.window,
    }


def comparison_context(comparison: Comparison) -> dict[str, Any]:
    """The words of a comparison's page."""
    places = indexes(comparison.layers)
    rows = finding_rows(comparison.findings, places)
    summary = summary_rows(comparison.summary)
    return {
        "title": f"{short_path(comparison.before.path)} → {short_path(comparison.after.path)}",
        "comparison": comparison,
        "sides": (("before", comparison.before), ("after", comparison.after)),
        "summary": [row for row in summary if not _counts(row["name"])],
        "counts": [row for row in summary if _counts(row["name"])],
        "health": _health(comparison),
        "standouts": _standouts(comparison, places),
        "severities": severity_counts(comparison.findings),
        "groups": finding_groups(rows),
        "missing": _missing(comparison.layers),
        "alone": [
            ("only before", counted(comparison.only_before)),
            ("only after", counted(comparison.only_after)),
        ],
        "identical": sum(x.identical for x in comparison.layers),
        "settings": setting_words(comparison.after.settings),
        "method": method_words(comparison.after.settings),
    }


def _health(comparison: Comparison) -> tuple[str, str]:
    """The gravest severity among the findings, and what it says in two words or three."""
    found = {finding.severity for finding in comparison.findings}
    if "error" in found:
        return "error", "not healthy"
    if "warning" in found:
        return "warning", "look closer"
    weighed = any(math.isfinite(layer.drift) for layer in comparison.layers)
    return "info", "no warning" if weighed else "no warning, drift not measured"


STANDOUTS = (
    ("most drift", "drift"),
    ("largest Δ α", "alpha"),
    ("largest Δ log ‖W‖²", "log_norm"),
    ("largest Δ stable rank", "stable_rank"),
)


def _standouts(comparison: Comparison, places: Mapping[str, int]) -> list[dict[str, Any]]:
    """For the telling numbers the layer that changed most, where any changed."""
    found = []
    for title, key in STANDOUTS:
        moved = {
            layer.name: layer.drift if key == "drift" else layer.change.get(key, math.nan)
            for layer in comparison.layers
        }
        known = {name: x for name, x in moved.items() if math.isfinite(x) and x}
        if known:
            most = max(known, key=lambda name: abs(known[name]))
            sign = "+" if known[most] > 0 else ""
            drifted = f"{brief(100 * known[most], 3)} %"
            text = drifted if key == "drift" else f"{sign}{brief(known[most], 3)}"
            layer = comparison.layers[places[most]]
            short = f"{'' if layer.block is None else layer.block} {short_name(most, layer.block)}"
            found.append({"title": title, "text": text, "at": places[most], "short": short.strip()})
    return found


def summary_rows(summary: Mapping[str, int | float]) -> list[dict[str, Any]]:
    """``{name, before, after, change}`` from flat keys; names without all three are left out.

    >>> summary_rows({"alpha_before": 3.0, "alpha_after": 4.0, "alpha_change": 1.0, "layers": 2})
    [{'name': 'alpha', 'before': 3.0, 'after': 4.0, 'change': 1.0}]
    """
    names = [key.removesuffix("_change") for key in summary if key.endswith("_change")]
    parts = ("before", "after", "change")
    return [
        {"name": name, **{part: summary[f"{name}_{part}"] for part in parts}}
        for name in names
        if all(f"{name}_{part}" in summary for part in parts)
    ]


def _counts(name: str) -> bool:
    """Whether a number of the summary counts layers or parameters."""
    return name.endswith("_layers") or name.startswith(("layers_", "params_"))


def _columns(comparison: Comparison) -> tuple[list[Column], dict[str, list[Any]]]:
    layers = comparison.layers
    changes = change_columns(x.change for x in layers)
    values = {
        column.key: [x.change.get(column.key.removeprefix("change:")) for x in layers]
        for column in changes
    }
    values["change:alpha_low"] = [x.alpha_change_low for x in layers]
    values["change:alpha_high"] = [x.alpha_change_high for x in layers]
    weighed = []
    for key in NEED_WEIGHTS:
        numbers = [getattr(x, key) for x in layers]
        known = [n for n in numbers if math.isfinite(n)]
        if known:
            title, words = CHANGES[key]
            scale = "diverging" if key == "scale_z" else scale_of(known)
            weighed.append(Column(key=key, title=title, help=words, scale=scale, group="change"))
            values[key] = numbers
    both = []
    for side in ("before", "after"):
        tables = [getattr(x, side) for x in layers]
        for column in metric_columns(tables, getattr(comparison, side).settings):
            values[f"{side}:{column.key}"] = value_lists(tables, [column.key])[column.key]
            both.append(_sided(column, side))
    return [*changes[:1], *weighed, *changes[1:], *both], values


def _sided(column: Column, side: str) -> Column:
    band = column.band and (f"{side}:{column.band[0]}", f"{side}:{column.band[1]}")
    return Column(
        key=f"{side}:{column.key}",
        title=f"{column.title} {side}",
        help=f"{column.help}, {side}",
        scale=column.scale,
        band=band,
        usual=column.usual,
        group=side,
    )


def _states(layers: Sequence[LayerChange]) -> dict[str, Any]:
    return {
        "verdicts": [list(x.verdicts_after) for x in layers],
        "verdicts_before": [list(x.verdicts_before) for x in layers],
        "condition": [_change_of(x) for x in layers],
        "scale": [x.scale for x in layers],
        "identical": [x.identical for x in layers],
        "missing": [dict(x.missing) for x in layers],
        "notes": [[] for _ in layers],
    }


def _change_of(layer: LayerChange) -> str:
    """In a word, what became of a layer: the word that the table filters by."""
    if layer.identical:
        return "identical"
    if layer.scale:
        return f"scale {layer.scale}"
    changed = layer.verdicts_before != layer.verdicts_after
    return "verdict changed" if changed else "verdict as before"


def _missing(layers: Sequence[LayerChange]) -> list[dict[str, Any]]:
    """What could not be measured, by reason: which numbers, of how many layers."""
    groups: dict[str, dict[str, int]] = {}
    for layer in layers:
        for what, reason in layer.missing.items():
            names = groups.setdefault(reason, {})
            names[what] = names.get(what, 0) + 1
    return [{"reason": reason, "what": list(n.items())} for reason, n in groups.items()]
