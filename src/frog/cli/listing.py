"""``frog list``: what there is, with symbol and source."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from frog.cli.console import OUT, say
from frog.cli.options import Format
from frog.errors import UnknownName

KINDS = ("metrics", "rankings", "scores", "rules", "granularities", "guards", "tasks", "ways",
         "allocators", "unit-scores")  # fmt: skip
WIDE = 120
EVIDENCE = {
    "rankings": "No ranking is shown to hold in general: docs/design-notes/008-ranking-layers.md",
    "scores": "No score was shown to beat a random choice: docs/selecting-weights.md",
    "rules": "No rule was shown to beat the uniform one: docs/budgets.md",
    "allocators": "No plan is better than uniform before frog verify says so: docs/compression.md",
    "unit-scores": "Plans by alpha lost to uniform ones: docs/compression.md",
    "ways": "No way was shown to beat even odds: docs/layer-sampling.md",
}


def list_names(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=", ".join(KINDS))],
    format: Format = "auto",
) -> None:
    """List metrics, rankings of layers, scores of weights, rules of budgets, granularities,
    guards, tasks of recipes, ways to draw layers, allocators and unit scores of compression."""
    from frog import api

    if kind not in KINDS:
        raise UnknownName("list", kind, KINDS)
    facts = {
        "metrics": api.list_metrics,
        "rankings": api.list_rankings,
        "scores": api.list_scores,
        "rules": api.list_rules,
        "granularities": api.list_granularities,
        "guards": api.list_guards,
        "tasks": api.list_tasks,
        "ways": api.list_ways,
        "allocators": api.list_allocators,
        "unit-scores": api.list_unit_scores,
    }[kind]()
    if format == "json":
        OUT.file.write(json.dumps(facts, indent=2) + "\n")
    if format in ("json", "quiet"):
        return
    if kind == "metrics":
        # on a narrow terminal the source is in the JSON and in the docs
        _print(facts, ["name", "symbol", "meaning", "source"][: 3 if OUT.width < WIDE else 4])
        return
    for fact in facts:
        fact["name"] += " (default)" if fact["default"] else ""
    narrow = OUT.width < WIDE and kind != "rankings"
    _print(
        facts,
        [x for x in ("name", "meaning", "source", "action") if x in facts[0]][: 2 if narrow else 3],
    )
    if kind in EVIDENCE:
        say(EVIDENCE[kind])


def _print(facts: list[dict[str, Any]], columns: list[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in ("name", "symbol"))
    for fact in facts:
        table.add_row(*(Text(str(fact[column])) for column in columns))
    OUT.print(table)
