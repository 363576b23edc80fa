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
from frog.report.words import count, middle, natural, number, printable, quantity, short_name, times
from frog.types import Finding, LayerReport, ModelReport

TABLE_LAYERS = 60
"""Layers that the summary prints; the rest is in the files."""

MARKS = {"error": ("✖", "red"), "warning": ("!", "yellow"), "info": ("·", "cyan")}
SHOWN_FINDINGS = 3
SHOWN_RANKED = 3
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
        *_most_worth(report),
    ):
        grid.add_row(title, Text(words))
    lines: list[RenderableType] = [head, "", grid]
    if report.notes:
        lines += [Text(printable(f"note: {note}"), style="dim") for note in report.notes]
    findings = findings_grid((*_unread(report), *report.findings))
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
        if finding.severity != "error"
    )
    # what asks for attention first, and the certain before the possible
    order = sorted(tally, key=lambda pair: (pair[1] in TRAINED, pair[1], pair[0]))
    words = [f"{tally[pair]} {ADVERBS.get(pair[0], pair[0])} {pair[1]}" for pair in order]
    return [("Found", printable(" · ".join(words)))] if words else []


def _shares(report: ModelReport) -> list[tuple[str, str]]:
    """The share of the measured parameters by condition, the largest first."""
    params: Counter[str] = Counter()
    for layer in report.measured:
        params[layer.condition] += layer.params
    total = params.total()
    if not total:
        return []
    words = [f"{100 * n / total:.1f} % {word}" for word, n in params.most_common() if n]
    return [("Share", f"{' · '.join(words)} (of the measured parameters)")]


def _most_worth(report: ModelReport) -> list[tuple[str, str]]:
    """The first few of the layers most worth tuning, with the reason."""
    first = sorted(report.ranking, key=lambda ranked: ranked.place)[:SHOWN_RANKED]
    # the reason goes on with figures, which are in the files
    lines = [printable(f"{r.place}. {r.layer}: {r.reason.partition(';')[0]}") for r in first]
    return [("Tune", "\n".join(lines))] if lines else []


def _unread(report: ModelReport) -> list[Finding]:
    """Matrices that could not be read, in the form of findings: they belong beside them."""
    return [
        Finding(
            kind="unreadable",
            certainty="certain",
            severity="error",
            layer=layer.name,
            value=math.nan,
            threshold=math.nan,
            text=f"{layer.name} {layer.skipped}",
        )
        for layer in report.failed
        if layer.skipped is not None
    ]


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
        for finding in members[:SHOWN_FINDINGS]:
            grid.add_row(Text(mark, style=colour), Text(printable(finding.text)))
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
