"""``frog apply``: a plan of compression carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frog.cli.console import OUT, Progress, say, suggest
from frog.cli.levels import Rows, calibrated
from frog.cli.options import Format


def apply(  # noqa: PLR0913 - a flag is an argument here
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A file of frog plan bits or frog plan prune.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Must not exist yet.")],
    to: Annotated[
        str,
        typer.Option(
            help="plain (same files, new values), torchao, compressed-tensors; or the plan for "
            "llm-compressor, auto-round."
        ),
    ] = "plain",
    model: Annotated[
        str | None, typer.Option(help="Where the model is now; default: as in the plan.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="For a plan by Wanda: the rows that it was made with.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of --calibration.")] = None,
    task: Annotated[str | None, typer.Option(help="What the model is.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of --calibration.")] = 64,
    length: Annotated[int | None, typer.Option(help="Tokens of a row at most.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where the plan was worse than the uniform one.")
    ] = False,
    format: Format = "auto",
) -> None:
    """Write a compressed copy of the model of PLAN, whole or not at all."""
    from frog import api
    from frog.types.level_plans import LevelPlan

    made = LevelPlan.from_json(plan)
    if format != "quiet" and not api.is_judged(made):
        say(f"{plan} was not verified: frog verify says whether it is better than uniform")
    where = model or made.path
    data = Rows(
        model=where, calibration=calibration, column=column, task=task, rows=rows, length=length,
        quiet=format == "quiet",
    )  # fmt: skip
    given = calibrated(data, Progress(quiet=True), None)
    api.apply_plan(where, made, out=out, format=to, calibration=given, force=force)
    size = _size(out)
    if format == "json":
        import json

        facts = {"plan": str(plan), "out": str(out), "to": to, "bytes": size,
                 "reached": made.reached}  # fmt: skip
        OUT.file.write(json.dumps({"format": "frog-apply", "version": 1, **facts}, indent=2) + "\n")
    elif format != "quiet":
        done = (
            f"{made.reached:.3f} bits a weight" if made.action == "bits"
            else f"{made.params - made.size:,} of {made.params:,} weights are zero"
        )  # fmt: skip
        OUT.print(f"{done}: {out} ({size:,} bytes)", soft_wrap=True)
        if to == "plain":
            suggest("frog", "compare", where, str(out))


def _size(out: Path) -> int:
    files = [out] if out.is_file() else [x for x in out.rglob("*") if x.is_file()]
    return sum(x.stat().st_size for x in files)
