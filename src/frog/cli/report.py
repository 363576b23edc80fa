"""``frog report``: a saved report, comparison or series, shown or written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frog.cli.console import suggest
from frog.cli.options import AllLayers, Format, Html
from frog.cli.outputs import Outputs
from frog.cli.showing import show


def report(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON of frog analyze or frog compare.")
    ],
    html: Html = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV.")] = None,
    all_layers: AllLayers = False,
    format: Format = "auto",
) -> None:
    """Show FILE again, as a page or a table: nothing is measured."""
    from frog.report.files import read_record

    outputs = Outputs(html=html, csv=csv)
    outputs.check()
    outputs.keep(file)
    record = read_record(file)
    outputs.write(record)
    show(record, format=format, all_layers=all_layers)
    if format != "quiet":
        outputs.tell()
        if html is None:
            suggest("frog", "report", str(file), "--html", f"{file.with_suffix('')}.html")
