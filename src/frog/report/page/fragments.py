"""Small pieces of HTML for notebooks: no script, readable on a light and on a dark ground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from frog.report.page.assets import environment
from frog.report.page.parts import condition_shares, short_path
from frog.report.page.series_view import strategy_table
from frog.report.unread import unread_findings
from frog.report.words import count, number, quantity, short_name, times
from frog.types import Comparison, Finding, LayerChange, ModelReport, Series

ROWS = 8


def report_fragment(report: ModelReport) -> str:
    """Means, conditions, the gravest findings and the first layers of a report.

    >>> from frog.types import Settings
    >>> piece = report_fragment(ModelReport(path="<b>", digest="", format="", frog_version="",
    ...                                     settings=Settings(), layers=()))
    >>> "<b>&lt;b&gt;</b>" in piece, "<script" in piece
    (True, False)
    """
    summary, layers = report.summary, report.measured
    names = (("α", "alpha"), ("α̂", "alpha_weighted"), ("median α", "alpha_median"))
    ranked = [x.layer for x in sorted(report.ranking, key=lambda r: r.place)]
    known = {layer.name: layer for layer in layers}
    order = [known[name] for name in ranked if name in known] or list(layers)
    return _fragment(
        title=short_path(report.path),
        subtitle=f"{count(len(layers), 'matrix')}, {quantity(sum(x.params for x in report.layers))}"
        " parameters",
        facts=[(title, number(summary.get(key))) for title, key in names],
        conditions=condition_shares(layers),
        findings=(*unread_findings(report), *report.findings),
        heads=("layer", "block", "shape", "α", "condition"),
        rows=[
            (
                short_name(x.name, x.block),
                "" if x.block is None else x.block,
                times(x.shape),
                number(x.values.get("alpha")),
                x.condition,
            )
            for x in order
        ],
    )


def comparison_fragment(comparison: Comparison) -> str:
    """The verdict, the gravest findings and the layers that moved most."""
    return _fragment(
        title=f"{short_path(comparison.before.path)} → {short_path(comparison.after.path)}",
        subtitle=f"{count(len(comparison.layers), 'layer')} compared",
        sentence=comparison.verdict,
        findings=comparison.findings,
        heads=("layer", "block", "shape", "α before", "α after", "Δα", "drift"),
        rows=[
            (
                short_name(x.name, x.block),
                "" if x.block is None else x.block,
                times(x.shape),
                number(x.before.get("alpha")),
                number(x.after.get("alpha")),
                number(x.change.get("alpha")),
                number(x.drift, 3),
            )
            for x in sorted(comparison.layers, key=_moved)
        ],
    )


def series_fragment(series: Series) -> str:
    """The verdict and a row a member; of strategies what each gained, cost and changed."""
    if series.strategies:
        heads, cells = strategy_table(series.strategies)
        return _fragment(
            title=f"{count(len(series.strategies), 'way')} to tune {series.labels[0]}",
            subtitle="quality, forgetting, cost and change",
            sentence=series.verdict,
            heads=heads,
            rows=cells,
            limit=len(cells),
        )
    return _fragment(
        title=f"{count(len(series.reports), 'model')}",
        subtitle="in order",
        sentence=series.verdict,
        heads=("member", "step", "α", "median α", "α̂", "log ‖W‖²"),
        rows=[
            (
                label,
                f"{step:g}",
                number(report.summary.get("alpha")),
                number(report.summary.get("alpha_median")),
                number(report.summary.get("alpha_weighted")),
                number(report.summary.get("log_norm")),
            )
            for label, step, report in zip(series.labels, series.steps, series.reports, strict=True)
        ],
        limit=len(series.reports),
    )


def _fragment(
    *,
    title: str,
    subtitle: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Any]],
    findings: Sequence[Finding] = (),
    limit: int = ROWS,
    **rest: Any,
) -> str:
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.severity != "info":
            kinds.setdefault((finding.severity, finding.kind), []).append(finding)
    order = sorted(kinds, key=lambda kind: kind[0] != "error")
    grave = [
        (min(kinds[kind], key=lambda f: f.certainty != "certain"), len(kinds[kind]) - 1)
        for kind in order
    ]
    return (
        environment()
        .get_template("fragment.html.j2")
        .render(
            title=title,
            subtitle=subtitle,
            heads=heads,
            rows=rows[:limit],
            more=max(0, len(rows) - limit),
            findings=grave,
            **{"sentence": "", "facts": (), "conditions": (), **rest},
        )
    )


def _moved(layer: LayerChange) -> float:
    """Smaller for what moved more; what cannot be told comes last."""
    moved = abs(layer.drift) if math.isfinite(layer.drift) else layer.change.get("alpha", math.nan)
    return -abs(moved) if math.isfinite(moved) else math.inf
