"""A record on stdout, in the format asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frog.cli.console import OUT

if TYPE_CHECKING:
    from frog.types import Comparison, ModelReport, Series


def show(
    record: ModelReport | Comparison | Series, *, format: str, all_layers: bool = False
) -> None:
    """Print a report, a comparison or a series: JSON as in its file, else for people."""
    if format == "json":
        OUT.file.write(record.to_json())
    elif format != "quiet":
        from frog.report.text import pieces

        for place, piece in enumerate(pieces(record, width=OUT.width, all_layers=all_layers)):
            if place:
                OUT.print()
            OUT.print(piece)
