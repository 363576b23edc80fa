"""A report in the terminal: summary, findings, and a row a layer, within 80 columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from frog.errors import UnknownName
from frog.report.sparklines import depth_line
from frog.report.unread import unread_findings
from frog.report.words import (
    count,
    middle,
    natural,
    number,
    percent,
    printable,
    quantity,
    reason_parts,
    short_name,
    times,
)
from frog.types import Finding, LayerReport, ModelReport

TABLE_LAYERS = 60
"""Layers that the summary prints; the rest is in the files."""

MARKS = {"error": ("✖", "red"), "warning": ("!", "yellow"), "info": ("·", "cyan")}
SHOWN_FINDINGS = 3
SHOWN_RANKED = 3
SHOWN_STEPS = 5
UNJUDGED = "unjudged"
WIDE = 100
NARROW = 76
NAME = "layer"
MIN_NAME = 12
ADVERBS = {"certain": "certainly", "possible": "possibly"}
WHY_NO_ALPHA = {
    "too_few": "with too few eigenvalues",
    "degenerate": "without a tail",
    "nonfinite": "with NaN or Inf",
    "no_optimum": "that the estimator does not fit",
}
KINDS = {"correlation-trap": "with correlation traps", "scale-outlier": "of outlying scale"}
"""Kinds of finding that do not complete "3 layers are certainly ..."."""

TRAINED = ("trained", "possibly trained")


def summary_panel(report: ModelReport) -> RenderableType:
    """Model, means with their counts, what was found, what was not measured."""
    summary = report.summary
    measured = report.measured
    params = sum(layer.params for layer in report.layers)
    head = Text.assemble(
        (printable(report.path), "bold"),
        f" · {count(len(measured), 'matrix')} · {quantity(params)} parameters",
        f" · {_dtypes(measured)}",
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row("Model", Text(_means(summary)))
    depth = depth_line(measured, "alpha", "α")
    if depth is not None:
        grid.add_row("Depth", depth)
    for title, words in (
        ("Fitted", _fitted(report)),
        *_verdict_rows(report),
        *_shares(report),
        *_heaviest_path(report),
        *_most_worth(report),
    ):
        grid.add_row(title, Text(words))
    lines: list[RenderableType] = [head, "", grid]
    if report.notes:
        lines += [Text(printable(f"note: {note}"), style="dim") for note in report.notes]
    findings = findings_grid((*unread_findings(report), *report.findings))
    if findings is not None:
        lines += ["", findings]
    return Group(*lines)


def layer_table(report: ModelReport, *, sort: str | None = None, limit: int | None = None,
                width: int = 80) -> Table:  # fmt: skip
    """A row a measured layer; ``sort`` names a column, ``limit`` keeps the first rows.

    From 100 characters on, the table also has the scale and the stable rank; a narrow one
    leaves out the distance and the interval.
    """
    layers = sorted(report.measured, key=lambda layer: natural(layer.name))
    if sort is not None:
        known = sorted({name for layer in layers for name in layer.values})
        if sort not in known:
            raise UnknownName("column", sort, known)
        layers.sort(key=lambda x: _last_if_nan(x.values.get(sort, math.nan)))
    shown = layers if limit is None else layers[:limit]
    columns = [column for column in COLUMNS if width >= column.least]
    cells = [[column.cell(layer) for column in columns] for layer in shown]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    taken = 0
    for i, column in enumerate(columns):
        table.add_column(column.title, justify=column.justify, no_wrap=True)
        if column.title != NAME:
            taken += 2 + max(len(text) for text in (column.title, *(row[i].plain for row in cells)))
    names = max(MIN_NAME, width - taken)
    for row in cells:
        row[1] = Text(middle(row[1].plain, names))
        table.add_row(*row)
    if len(shown) < len(layers):
        table.add_row("…", Text(count(len(layers) - len(shown), "more layer"), style="dim"))
    return table


def _means(summary: Any) -> str:
    return (
        f"α {number(summary.get('alpha'))}"
        f"   α̂ {number(summary.get('alpha_weighted'))}"
        f"   log‖W‖² {number(summary.get('log_norm'))}"
        f"   log λ₁ {number(summary.get('log_spectral_norm'))}"
        f"   stable rank {number(summary.get('stable_rank'))}"
    )


def _fitted(report: ModelReport) -> str:
    summary = report.summary
    fitted = int(summary.get("layers_fitted", 0))
    averaged = int(summary.get("layers_averaged", summary.get("layers_measured", 0)))
    words = [f"{fitted} of {count(averaged, 'matrix')} in the means"]
    outside = sum(not layer.averaged for layer in report.measured)
    if outside and "layers_averaged" in summary:
        words.append(f"{outside} outside (embeddings, heads, ...)")
    unfitted = Counter(
        layer.fit_status for layer in report.measured if layer.fit_status not in ("ok", "")
    )
    words += [
        f"{n} {WHY_NO_ALPHA.get(status, printable(status))}" for status, n in unfitted.items()
    ]
    skipped = sum(layer.skipped is not None for layer in report.layers)
    if skipped:
        words.append(f"{count(skipped, 'tensor')} not measured")
    return " · ".join(words)


def _verdict_rows(report: ModelReport) -> list[tuple[str, str]]:
    tally = Counter(
        (finding.certainty, finding.kind)
        for finding in report.findings
        if finding.severity != "error" and finding.layer  # without a layer: the whole model
    )
    # what asks for attention first, and the certain before the possible
    order = sorted(tally, key=lambda pair: (pair[1] in TRAINED, pair[1], pair[0]))
    words = [
        f"{tally[(sure, kind)]} {ADVERBS.get(sure, sure)} {KINDS.get(kind, kind)}"
        for sure, kind in order
    ]
    return [("Found", printable(" · ".join(words)))] if words else []


def _shares(report: ModelReport) -> list[tuple[str, str]]:
    """The share of the measured parameters by condition, the largest first."""
    params: Counter[str] = Counter()
    for layer in report.measured:
        params[layer.condition] += layer.params
    total = params.total()
    if not total or set(params) == {UNJUDGED}:
        return []
    words = [f"{percent(n / total)} {word}" for word, n in params.most_common() if n]
    return [("Share", f"{' · '.join(words)} (of the measured parameters)")]


def _heaviest_path(report: ModelReport) -> list[tuple[str, str]]:
    """How many pairs the flow has, and the two ends of its heaviest path."""
    if not report.pairs:
        return []
    steering = sum(pair.kind == "qk" for pair in report.pairs)
    words = count(len(report.pairs) - steering, "pair") + " of writer and reader"
    if steering:
        words += f", {steering} of query and key"
    if report.pathways:
        names = _in_short(report, report.pathways[0].layers)
        shown = names if len(names) <= SHOWN_STEPS else [*names[:2], "…", *names[-2:]]
        words += f" · heaviest path: {' → '.join(shown)}"
    return [("Flow", printable(words))]


def _most_worth(report: ModelReport) -> list[tuple[str, str]]:
    """The first few of the layers most worth tuning, and by what; the figures are in the files."""
    places = sorted(report.ranking, key=lambda ranked: ranked.place)
    first = places[:SHOWN_RANKED]
    if not first:
        return []
    why, _ = reason_parts(first[0].reason)
    names = ", ".join(_in_short(report, [ranked.layer for ranked in first]))
    by = f", by {why}" if why else ""
    return [("Tune", printable(f"first of {count(len(places), 'layer')}{by}: {names}"))]


def _in_short(report: ModelReport, names: Sequence[str]) -> list[str]:
    """Names from their block on, behind the number of the block."""
    blocks = {layer.name: layer.block for layer in report.layers}
    short = [(blocks.get(name), short_name(name, blocks.get(name))) for name in names]
    return [name if block is None else f"{block} {name}" for block, name in short]


def findings_grid(findings: Sequence[Finding]) -> RenderableType | None:
    """What is worth saying, the gravest first, a few of each kind; None where there is nothing."""
    worth_saying = [f for f in findings if f.severity != "info"]
    if not worth_saying:
        return None
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    kinds = dict.fromkeys((f.severity, f.kind) for f in worth_saying)
    for severity, kind in sorted(kinds, key=lambda pair: list(MARKS).index(pair[0])):
        members = [f for f in worth_saying if (f.severity, f.kind) == (severity, kind)]
        members.sort(key=lambda f: f.certainty != "certain")
        mark, colour = MARKS[severity]
        told: set[str] = set()
        for finding in members[:SHOWN_FINDINGS]:
            words, colon, advice = finding.text.rpartition(": ")
            text = words if colon and advice in told else finding.text  # the same advice once
            told.add(advice)
            grid.add_row(Text(mark, style=colour), Text(printable(text)))
        if len(members) > SHOWN_FINDINGS:
            more = count(len(members) - SHOWN_FINDINGS, "more finding")
            grid.add_row("", Text(f"… {more} of kind {kind}", style="dim"))
    return grid


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table: title, alignment, cell, and the least width of the terminal."""

    title: str
    justify: Literal["left", "right"]
    cell: Callable[[LayerReport], Text]
    least: int = 0


def _value(name: str, digits: int = 2) -> Callable[[LayerReport], Text]:
    return lambda layer: Text(number(layer.values.get(name), digits))


def _name(layer: LayerReport) -> Text:
    """The name from its block on: the block has a column of its own."""
    return Text(short_name(layer.name, layer.block))


def _interval(layer: LayerReport) -> Text:
    low, high = layer.values.get("alpha_low", math.nan), layer.values.get("alpha_high", math.nan)
    return Text("" if math.isnan(low) else f"{low:.1f}–{high:.1f}")


def _verdict(layer: LayerReport) -> Text:
    """The verdict that asks for attention; a trailing question mark where it is only possible."""
    if layer.fit_status not in ("ok", "") and not layer.verdicts:
        return Text(printable(layer.fit_status.replace("_", " ")), style="dim")
    notable = [verdict for verdict in layer.verdicts if verdict not in TRAINED]
    words = notable[:1] or list(layer.verdicts[:1])
    certain = [w.removeprefix("possibly ") + "?" * w.startswith("possibly ") for w in words]
    return Text(printable("".join(certain)), style="yellow" if notable else "")


COLUMNS = [
    Column("", "right", lambda layer: Text("" if layer.block is None else str(layer.block))),
    Column(NAME, "left", _name),
    Column("shape", "right", lambda layer: Text(times(layer.shape))),
    Column("α", "right", _value("alpha")),
    Column("interval", "right", _interval, least=NARROW),
    Column("D", "right", _value("D", 3), least=NARROW),
    Column("log λ₁", "right", _value("log_spectral_norm"), least=WIDE),
    Column("log‖W‖²", "right", _value("log_norm"), least=WIDE),
    Column("stable rank", "right", _value("stable_rank", 1), least=WIDE),
    Column("verdict", "left", _verdict),
]


def _dtypes(layers: Sequence[LayerReport]) -> str:
    return printable(", ".join(dict.fromkeys(x.dtype for x in layers))) or "nothing measured"


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
