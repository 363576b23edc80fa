"""``frog select``: which weights are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frog.cli.console import OUT, say, suggest
from frog.cli.options import Exclude, Format, Include, Jobs, Model, Seed, UseCache
from frog.cli.plan import ReportFile, Roles, RuleName, report_of
from frog.errors import UnknownName, UsageError

EXPORTS = ("axolotl", "rank-pattern")
KEEP = ("all", "nonzero")


def select(  # noqa: PLR0913 - a flag is an argument here
    model: Model,
    plan: Annotated[Path | None, typer.Option(help="A plan of frog plan tune.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Without a plan: weights to train, such as 1% or 5M.")
    ] = None,
    rule: RuleName = "auto",
    report: ReportFile = None,
    include: Include = None,
    exclude: Exclude = None,
    role: Roles = None,
    score: Annotated[
        str, typer.Option(help="frog list scores, or 'a * b^-1'; auto is random.")
    ] = "auto",
    granularity: Annotated[str, typer.Option(help="element, row, column or block.")] = "element",
    rank: Annotated[
        int | None, typer.Option(help="Components of low-rank scores; 0: beyond the random bulk.")
    ] = None,
    protect: Annotated[
        int, typer.Option(help="Keep away from so many leading singular directions.")
    ] = 0,
    keep: Annotated[
        str, typer.Option(help="all, or nonzero: never the zeros of a pruned model.")
    ] = "all",
    bits: Annotated[int, typer.Option(help="Of the rounding that near-boundary looks at.")] = 4,
    group: Annotated[
        int, typer.Option(help="Inputs that share a scale in that rounding; 0: a whole row.")
    ] = 64,
    data: Annotated[
        Path | None,
        typer.Option(help="Rows for scores that need gradients: a file with --task, or a recipe."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Of --data: frog list tasks.")] = None,
    batches: Annotated[int, typer.Option(help="Batches that gradients are taken from.")] = 4,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The selection.")] = None,
    export: Annotated[
        str | None, typer.Option(help="axolotl or rank-pattern: the plan for other tools.")
    ] = None,
    top_fraction: Annotated[
        float, typer.Option(help="Share of modules that --export axolotl unfreezes.")
    ] = 0.5,
    jobs: Jobs = None,
    cache: UseCache = True,
    format: Format = "auto",
) -> None:
    """Choose the weights of MODEL that are trained."""
    from frog import api

    if (plan is None) == (budget is None):
        raise UsageError(
            "one of --plan FILE and --budget must be given, got "
            f"{'both' if plan is not None else 'neither'}: --budget 1% splits evenly"
        )
    if keep not in KEEP:
        raise UnknownName("value of --keep", keep, KEEP)
    if export is not None and export not in EXPORTS:
        raise UnknownName("export of a selection", export, EXPORTS)
    if plan is not None:
        from frog.types import Plan

        made = Plan.from_json(plan)
    else:
        measured = report_of(model, report, jobs=jobs, cache=cache, quiet=format == "quiet")
        made = api.allocate(
            measured, str(budget), rule=rule, include=include, exclude=exclude, roles=role or ()
        )
    if export is not None:
        text = api.export_plan(made, export, fraction=top_fraction)
        if out is None:
            OUT.file.write(text)
        else:
            from frog.serial.whole_file import write_whole

            write_whole(text.encode(), out)
            say(f"wrote {out}")
        return
    gradients = None
    if data is not None:
        gradients = api.gradients_from(model, made, data, task=task, batches=batches, seed=seed)
    elif task is not None:
        raise UsageError("--task is for --data FILE: give both, or neither")
    chosen = api.select(
        model, made, score=score, granularity=granularity, seed=seed,
        choice=api.Choice(
            rank=rank, protect=protect, gradients=gradients, bits=bits, group=group or None,
            keep=None if keep == "all" else keep,
        ),
    )  # fmt: skip
    if out is not None:
        chosen.save(out)
    if format == "json":
        import json

        from frog.serial.selection import selection_to_dict

        OUT.file.write(json.dumps(selection_to_dict(chosen), indent=2) + "\n")
    elif format != "quiet":
        from frog.report.plans import selection_table

        OUT.print(selection_table(chosen))
    if format != "quiet":
        if out is not None:
            say(f"wrote {out}")
        else:
            suggest("frog", "select", model, *(("--plan", str(plan)) if plan else
                    ("--budget", str(budget))), "-o", "selection.safetensors")  # fmt: skip
