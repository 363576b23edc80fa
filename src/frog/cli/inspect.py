"""``frog inspect``: every tensor of a model, without numerics."""

from __future__ import annotations

import json

from frog.cli.console import OUT, suggest
from frog.cli.options import Base, Exclude, Format, Include, Model


def inspect(
    model: Model,
    base: Base = None,
    include: Include = None,
    exclude: Exclude = None,
    format: Format = "auto",
) -> None:
    """List every tensor of MODEL: what will be measured or skipped, and why."""
    from frog import api
    from frog.report.listing import listing_dict, listing_table

    listed = api.inspect(model, base=base, include=include, exclude=exclude)
    if format == "json":
        OUT.file.write(json.dumps(listing_dict(listed), indent=2) + "\n")
    elif format != "quiet":
        OUT.print(listing_table(listed, width=OUT.width))
        suggest("frog", "analyze", model)
