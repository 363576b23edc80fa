"""``frog analyze``: measure a model and write what was found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frog.cli.console import PARTIAL, Progress, say, suggest
from frog.cli.options import (
    AllLayers,
    Base,
    Bootstrap,
    Device,
    Estimator,
    Exclude,
    Format,
    Html,
    Include,
    Jobs,
    MinEvals,
    Model,
    Precision,
    Randomize,
    Seed,
    UseCache,
    Window,
    parse_shard,
)
from frog.cli.outputs import Outputs
from frog.cli.running import resumable, run_of, tell_cached
from frog.cli.showing import show
from frog.report.words import count
from frog.types import Settings

if TYPE_CHECKING:
    from frog.types import ModelReport


def analyze(  # noqa: PLR0913 - a flag is an argument here
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for report.json, report.html and layers.csv."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    html: Html = None,
    csv: Annotated[Path | None, typer.Option(help="Write the layers as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the layers as Parquet.")] = None,
    base: Base = None,
    include: Include = None,
    exclude: Exclude = None,
    estimator: Estimator = "ks",
    window: Window = "full",
    precision: Precision = "exact",
    compat: Annotated[
        str | None, typer.Option(help="weightwatcher: its numbers to the digit.")
    ] = None,
    bootstrap: Bootstrap = 200,
    goodness: Annotated[
        int, typer.Option(help="Synthetic samples for alpha's goodness of fit; 0: none.")
    ] = 0,
    randomize: Randomize = 0,
    flow: Annotated[
        bool | None,
        typer.Option(
            "--flow/--no-flow",
            help="Overlap of what layers write and read. Default: where a page is written.",
        ),
    ] = None,
    min_evals: MinEvals = 50,
    seed: Seed = 0,
    save_spectra: Annotated[
        bool, typer.Option(help="Keep every singular value in the JSON.")
    ] = False,
    jobs: Jobs = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: measure the i-th of n parts; frog merge joins them.")
    ] = None,
    cluster: Annotated[bool, typer.Option(help="Spread the layers over a Ray cluster.")] = False,
    device: Device = "auto",
    cache: UseCache = True,
    all_layers: AllLayers = False,
    format: Format = "auto",
) -> None:
    """Measure every weight matrix of MODEL: no data, no model class, no forward pass."""
    from frog import api

    outputs = Outputs.of(out, json=json, html=html, csv=csv, parquet=parquet)
    outputs.check()
    outputs.keep(model)
    part = parse_shard(shard)
    settings = Settings(
        estimator=estimator,
        window=window,
        precision=precision,
        compat=compat,
        min_evals=min_evals,
        bootstrap=bootstrap,
        goodness=goodness,
        randomize=randomize,
        # a part of a model has not both ends of every edge
        flow=flow if flow is not None else outputs.html is not None and part is None,
        seed=seed,
        save_spectra=save_spectra,
    )
    progress = Progress(quiet=format == "quiet")
    run = run_of(progress, jobs=jobs, device=device, cache=cache, shard=part, cluster=cluster)
    with resumable(progress, kept=cache):
        report = api.analyze(model, settings, base=base, include=include, exclude=exclude, run=run)
        progress.stop()
        outputs.write(report)
    show(report, format=format, all_layers=all_layers)
    if format != "quiet":
        tell_cached(progress)
        outputs.tell()
    if report.failed:
        say(f"{count(len(report.failed), 'layer')} could not be measured; everything else was")
    if format != "quiet":
        _next(model, report, outputs)
    if report.failed:
        raise typer.Exit(PARTIAL)


def _next(model: str, report: ModelReport, outputs: Outputs) -> None:
    unclear = any("matrix?" in layer.role for layer in report.measured)
    if unclear or report.failed or not report.measured:
        suggest("frog", "inspect", model)
    elif outputs.json is None:
        suggest("frog", *sys.argv[1:], "-o", "frog-out")  # with all flags that were given
    else:
        suggest("frog", "list", "metrics")
