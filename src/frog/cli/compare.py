"""``frog compare``: a model after against a model before, or several in order."""

from __future__ import annotations

import sys
from dataclasses import replace
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
    Precision,
    Randomize,
    Seed,
    UseCache,
    Window,
)
from frog.cli.outputs import Outputs
from frog.cli.running import resumable, run_of, tell_cached
from frog.cli.showing import show
from frog.errors import UsageError
from frog.report.files import names_record, read_report
from frog.report.words import count
from frog.types import Settings

if TYPE_CHECKING:
    from frog.types import Comparison, Series

SETTINGS = (
    "estimator",
    "window",
    "precision",
    "bootstrap",
    "randomize",
    "flow",
    "min_evals",
    "seed",
)
"""Flags on which the numbers depend: where none is given, a saved report's settings hold."""


def compare(  # noqa: PLR0913 - a flag is an argument here
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C ...]",
            help="Models or reports that frog analyze --json wrote, the one before first.",
        ),
    ],
    json: Annotated[Path | None, typer.Option(help="Write the comparison as JSON.")] = None,
    html: Html = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a row a layer (a row a model of a series) as CSV.")
    ] = None,
    base: Base = None,
    include: Include = None,
    exclude: Exclude = None,
    estimator: Estimator = "ks",
    window: Window = "full",
    precision: Precision = "exact",
    bootstrap: Bootstrap = 200,
    randomize: Randomize = 0,
    flow: Annotated[
        bool,
        typer.Option(
            "--flow/--no-flow", help="Overlap of what layers write and read; finds lost pathways."
        ),
    ] = False,
    min_evals: MinEvals = 50,
    seed: Seed = 0,
    jobs: Jobs = None,
    device: Device = "auto",
    cache: UseCache = True,
    all_layers: AllLayers = False,
    format: Format = "auto",
) -> None:
    """Compare B with A, layer by layer; more than two become a series against the first.

    Several outputs of frog tune, or deltas, become a table of strategies beside their base.
    """
    from frog import api

    outputs = Outputs(json=json, html=html, csv=csv)
    outputs.check()
    outputs.keep(*models)
    if len(models) < 2:
        raise UsageError(f"compare needs at least two models, got {models[0]} alone")
    given = [name for name in SETTINGS if _given(context, name)]
    if given and all(names_record(model) for model in models):
        flag = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{flag} is for measuring, got saved reports alone: leave it out")
    settings = Settings(
        estimator=estimator,
        window=window,
        precision=precision,
        bootstrap=bootstrap,
        randomize=randomize,
        flow=flow,
        min_evals=min_evals,
        seed=seed,
    )
    if given:
        settings = _beside_reports(settings, models, given)
    progress = Progress(quiet=format == "quiet")
    run = run_of(progress, jobs=jobs, device=device, cache=cache)
    with resumable(progress, kept=cache):
        # base= is for adapters there, and the model that the strategies came from here
        verb = api.compare_runs if api.are_strategies(models, base=base) else api.compare
        found = verb(
            *models,
            settings=settings if given else None,
            base=base,
            include=include,
            exclude=exclude,
            run=run,
        )
        progress.stop()
        outputs.write(found)
    show(found, format=format, all_layers=all_layers)
    if format != "quiet":
        tell_cached(progress)
        outputs.tell()
    partial = _left_out(found)
    if partial:
        say(f"{partial}; everything else was compared")
    if format != "quiet":
        _next(models, base, outputs, strategies=verb is api.compare_runs)
    if partial:
        raise typer.Exit(PARTIAL)


def _beside_reports(settings: Settings, models: list[str], given: list[str]) -> Settings:
    """The flags that were given, on the settings of the first saved report where there is one."""
    saved = next((model for model in models if names_record(model)), None)
    if saved is None:
        return settings
    named = {name: getattr(settings, name) for name in given}
    return replace(read_report(saved).settings, **named)


def _left_out(found: Comparison | Series) -> str:
    """What could not be compared, in words; nothing where all could."""
    from frog.types import Series

    comparisons = found.comparisons if isinstance(found, Series) else (found,)
    alone = sum(len(x.only_before) + len(x.only_after) for x in comparisons)
    broken = sum(
        "nonfinite" in (*layer.verdicts_before, *layer.verdicts_after)
        for x in comparisons
        for layer in x.layers
    )
    words = []
    unlike = found.unlike_rows if isinstance(found, Series) else ()
    if unlike:
        words.append(f"quality of {', '.join(unlike)} measured on other rows")
    if alone:
        words.append(f"{count(alone, 'tensor')} without a partner")
    if broken:
        words.append(f"{count(broken, 'layer')} with NaN or Inf")
    return " and ".join(words)


def _given(context: typer.Context, name: str) -> bool:
    """Whether the user named this flag."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _next(models: list[str], base: str | None, outputs: Outputs, *, strategies: bool) -> None:
    if outputs.html is None:  # with all flags: others would measure something else
        suggest("frog", *sys.argv[1:], "--html", "compare.html")
    elif not strategies:
        below = () if base is None else ("--base", base)
        suggest("frog", "gate", models[-1], "--baseline", models[0], *below)
