"""What the page of a report shows: its data block and the words of its template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from frog.report.page.columns import metric_columns
from frog.report.page.curves import packed_curves
from frog.report.page.layers import indexes, layer_facts, line_order, value_lists
from frog.report.page.parts import (
    condition_shares,
    counted,
    edges,
    finding_rows,
    least_z,
    meaning_table,
    method_words,
    paths,
    quartiles,
    setting_words,
    severity_counts,
    short_path,
)
from frog.report.unread import unread_findings
from frog.report.words import reason_parts
from frog.types import Finding, LayerReport, ModelReport


def report_data(report: ModelReport) -> dict[str, Any]:
    """The data block of a report's page: a list a column, in the order of the measured layers."""
    layers = report.measured
    findings = _findings(report)
    places = indexes(layers)
    columns = metric_columns((x.values for x in layers), report.settings)
    return {
        "page": "report",
        "layers": {**layer_facts(layers), **_states(layers)},
        "lines": line_order(layers),
        "metrics": [asdict(column) for column in columns],
        "values": value_lists([x.values for x in layers], [c.key for c in columns]),
        "looks": _looks(layers),
        "sides": [{"label": "", "curves": packed_curves([x.curve for x in layers])}],
        "findings": finding_rows(findings, places),
        "meanings": meaning_table(findings),
        "ranking": [
            {**asdict(r), "at": places.get(r.layer)}
            for r in sorted(report.ranking, key=lambda r: r.place)
        ],
        "edges": edges(report.pairs, places),
        "paths": paths(report.pathways, places),
        "profiles": [asdict(profile) for profile in report.profiles],
        "window": report.settings.window,
    }


def report_context(report: ModelReport) -> dict[str, Any]:
    """The words of a report's page."""
    layers = report.measured
    findings = _findings(report)
    rows = finding_rows(findings, indexes(layers))
    alphas = [x.values.get("alpha", math.nan) for x in layers if x.averaged]
    places = indexes(layers)
    return {
        "title": short_path(report.path),
        "report": report,
        "summary": report.summary,
        "measured": len(layers),
        "params": sum(x.params for x in report.layers),
        "dtypes": ", ".join(dict.fromkeys(x.dtype for x in layers)),
        "half": quartiles(alphas),
        "severities": severity_counts(findings),
        "conditions": condition_shares(layers),
        "groups": finding_groups(rows),
        **_ranking_words(report, places),
        "flow": bool(report.pairs),
        "least_z": least_z(len(report.pairs)),
        "skipped": _skipped(report),
        "settings": setting_words(report.settings),
        "method": method_words(report.settings),
        "thresholds": report.settings.usual_alpha is not None,
    }


def finding_groups(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings by severity and kind, in the order of the rows."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["severity"], row["kind"]), []).append(row)
    return [
        {"severity": severity, "kind": kind, "mark": members[0]["mark"], "rows": members}
        for (severity, kind), members in groups.items()
    ]


def _ranking_words(report: ModelReport, places: Mapping[str, int]) -> dict[str, Any]:
    """The ranked layers; what they are ordered by stands once, where all say the same."""
    ranked = sorted(report.ranking, key=lambda r: r.place)
    parts = [reason_parts(r.reason) for r in ranked]
    orders = {order for order, _ in parts if order}
    one = orders.pop() if len(orders) == 1 else ""
    return {
        "ranked_by": one,
        "ranking": [
            (r, facts if order == one else r.reason, places.get(r.layer))
            for r, (order, facts) in zip(ranked, parts, strict=True)
        ],
    }


def _findings(report: ModelReport) -> tuple[Finding, ...]:
    return (*unread_findings(report), *report.findings)


def _states(layers: Sequence[LayerReport]) -> dict[str, Any]:
    return {
        "dtype": [x.dtype for x in layers],
        "kind": [x.kind for x in layers],
        "averaged": [x.averaged for x in layers],
        "condition": [x.condition for x in layers],
        "status": [x.fit_status for x in layers],
        "verdicts": [list(x.verdicts) for x in layers],
        "notes": [list(x.notes) for x in layers],
        "aliases": [list(x.aliases) for x in layers],
        "rule": [x.rule for x in layers],
    }


def _looks(layers: Sequence[LayerReport]) -> dict[str, Any]:
    """The looks at the null by name: value, range and percentile, a list each."""
    names = dict.fromkeys(name for layer in layers for name in layer.null)
    parts = ("value", "low", "high", "percentile")
    return {
        name: {
            part: [getattr(x.null[name], part) if name in x.null else None for x in layers]
            for part in parts
        }
        for name in names
    }


def _skipped(report: ModelReport) -> list[dict[str, Any]]:
    """Tensors that were not measured, by reason."""
    left_out = {x.name: x for x in report.layers if x.skipped is not None}
    groups = counted({name: x.skipped or "" for name, x in left_out.items()})
    return [
        {
            "reason": reason,
            "rows": [left_out[name] for name in names],
            "params": sum(left_out[name].params for name in names),
        }
        for reason, names in groups
    ]
