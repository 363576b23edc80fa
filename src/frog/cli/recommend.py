"""``frog recommend``: what is worth doing with a model, how much to tune, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frog.cli.console import OUT, PARTIAL, Progress, say, suggest
from frog.cli.options import AllLayers, Device, Exclude, Format, Include, Jobs, UseCache
from frog.cli.outputs import Outputs
from frog.cli.plan import Roles
from frog.cli.running import resumable, run_of, tell_cached
from frog.errors import UnknownName, UsageError


def _policy(value: str) -> str:
    from frog.types import POLICIES

    if value not in POLICIES:
        raise UnknownName("choice for over-parameterised layers", value, POLICIES)
    return value


Policy = Annotated[
    str,
    typer.Option(
        help="tune (harder), prune or bits; open: the choice is named, and nothing done.",
        callback=_policy,
    ),
]
FullRate = Annotated[
    float | None, typer.Option(help="Learning rate that tuning all weights would use (AdamW).")
]


def recommend(  # noqa: PLR0913 - a flag is an argument here
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model, or a report that frog analyze --json wrote."
        ),
    ],
    over_parameterised: Policy = "open",
    full_rate: FullRate = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps to come.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Training tokens with a loss.")] = None,
    examples: Annotated[int | None, typer.Option(help="Training examples with a label.")] = None,
    classes: Annotated[int, typer.Option(help="Classes of the labels.")] = 2,
    include: Include = None,
    exclude: Exclude = None,
    role: Roles = None,
    json: Annotated[Path | None, typer.Option(help="Write the recommendation as JSON.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The tune plan that follows, as JSON.")
    ] = None,
    jobs: Jobs = None,
    device: Device = "auto",
    cache: UseCache = True,
    everything: AllLayers = False,
    format: Format = "auto",
) -> None:
    """What is worth doing with MODEL: ranked actions, how much to tune, and for how long."""
    from frog import api
    from frog.types import Workload

    work = Workload(full_rate=full_rate, steps=steps, tokens=tokens, examples=examples,
                    classes=classes)  # fmt: skip
    for path, others in ((json, (model, out)), (out, (model,))):
        outputs = Outputs(json=path)
        outputs.check()
        outputs.keep(*others)
    progress = Progress(quiet=format == "quiet")
    run = run_of(progress, jobs=jobs, device=device, cache=cache)
    with resumable(progress, kept=cache):
        found = api.recommend(
            model, work, over_parameterised=over_parameterised, include=include, exclude=exclude,
            roles=role or (), run=run,
        )  # fmt: skip
    if json is not None:
        found.to_json(json)
    if out is not None:
        if found.plan is None:
            raise UsageError(
                "a plan needs a layer to tune, got none: "
                + ("; ".join(found.notes) or "see the actions")
            )
        found.plan.to_json(out)
    if format == "json":
        OUT.file.write(found.to_json())
    elif format != "quiet":
        from frog.report.recommendations import recommendation_view

        OUT.print(recommendation_view(found, everything=everything))
    if format != "quiet":
        tell_cached(progress)
        for path in (json, out):
            if path is not None:
                say(f"wrote {path}")
        if out is not None:
            suggest("frog", "select", found.path, "--plan", str(out), "-o", "selection.safetensors")
        elif found.plan is not None:
            suggest("frog", "recommend", model, "-o", "plan.json")
    if any(x.kind == "mend" and x.certainty == "certain" for x in found.actions):
        raise typer.Exit(PARTIAL)
