"""``frog list``: what there is, with symbol and source."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from frog.cli.console import OUT
from frog.cli.options import Format
from frog.errors import UnknownName

KINDS = ("metrics",)
WIDE = 120


def list_names(
    kind: Annotated[str, typer.Argument(help="metrics")],
    format: Format = "auto",
) -> None:
    """List the metrics with symbol, meaning and source."""
    from frog import api

    if kind not in KINDS:
        raise UnknownName("list", kind, KINDS)
    facts = api.list_metrics()
    if format == "json":
        OUT.file.write(json.dumps(facts, indent=2) + "\n")
    if format in ("json", "quiet"):
        return
    from rich.table import Table
    from rich.text import Text

    columns = ["name", "symbol", "meaning", "source"]
    if OUT.width < WIDE:  # the source is in the JSON and in the docs
        columns.remove("source")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column != "meaning")
    for fact in facts:
        table.add_row(*(Text(str(fact[column])) for column in columns))
    OUT.print(table)
