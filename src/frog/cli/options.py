"""Arguments that several verbs take."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from frog.errors import UsageError

FORMATS = ("auto", "human", "json", "quiet")


def _format(value: str) -> str:
    if value not in FORMATS:
        raise typer.BadParameter(f"must be one of {', '.join(FORMATS)}, got {value!r}")
    return value


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder, a .safetensors file, a *.index.json, an adapter folder, a .pt/.bin file "
        "(weights only), or a hub id with @revision.",
    ),
]
Base = Annotated[str | None, typer.Option(help="Base model of an adapter: measure the sum.")]
Include = Annotated[str | None, typer.Option(help="Only names that match this regex.")]
Exclude = Annotated[str | None, typer.Option(help="No names that match this regex.")]
Format = Annotated[str, typer.Option(help="auto, human, json or quiet.", callback=_format)]


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """``i/n`` as two numbers."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise UsageError(f"--shard must be i/n, such as 1/4, got {text!r}")
    return int(found[1]), int(found[2])
