"""``frog merge``: the reports of all shards become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frog.cli.console import PARTIAL, say
from frog.cli.options import Format, Html
from frog.cli.outputs import Outputs
from frog.cli.showing import show
from frog.report.words import count


def merge(
    parts: Annotated[list[Path], typer.Argument(help="Reports of --shard 1/n to n/n.")],
    json: Annotated[Path | None, typer.Option(help="Write the whole report as JSON.")] = None,
    html: Html = None,
    csv: Annotated[Path | None, typer.Option(help="Write the layers as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the layers as Parquet.")] = None,
    format: Format = "auto",
) -> None:
    """Join the reports of all shards of one model."""
    from frog import api
    from frog.report.files import read_report

    outputs = Outputs(json=json, html=html, csv=csv, parquet=parquet)
    outputs.check()
    outputs.keep(*parts)
    report = api.merge_reports([read_report(part) for part in parts])
    outputs.write(report)
    show(report, format=format)
    if format != "quiet":
        outputs.tell()
    if report.failed:
        say(f"{count(len(report.failed), 'layer')} could not be measured; everything else was")
        raise typer.Exit(PARTIAL)
