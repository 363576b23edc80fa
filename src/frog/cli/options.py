"""Arguments that several verbs take."""

from __future__ import annotations

import re
from pathlib import Path
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
Html = Annotated[Path | None, typer.Option(help="Write a page for the browser, in one file.")]
AllLayers = Annotated[bool, typer.Option("--all", help="Print every layer.")]

# what the numbers depend on: the same flags, help and defaults wherever a model is measured
Estimator = Annotated[str, typer.Option(help="ks, hill or tpl.")]
Window = Annotated[
    str, typer.Option(help="full, or farms: windows of one aspect ratio, to compare shapes.")
]
Precision = Annotated[str, typer.Option(help="exact (float64) or fast (float32, guarded).")]
Bootstrap = Annotated[int, typer.Option(help="Resamples for alpha's 95 % interval; 0: none.")]
Randomize = Annotated[
    int, typer.Option(help="Random permutations of each matrix, for correlation traps; 0: none.")
]
MinEvals = Annotated[int, typer.Option(help="Fewest eigenvalues that are fitted.")]
Seed = Annotated[int, typer.Option(help="Seed of what is drawn.")]

# how the work is done: nothing here changes a number
Jobs = Annotated[int | None, typer.Option(help="Layers at once; default: all processors.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
UseCache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep and reuse layers.")]


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """``i/n`` as two numbers."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise UsageError(f"--shard must be i/n, such as 1/4, got {text!r}")
    return int(found[1]), int(found[2])
