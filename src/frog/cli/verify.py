"""``frog verify``: a plan of compression held against the uniform one, on other data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frog.cli.console import OUT, Progress, say, suggest
from frog.cli.levels import Rows, calibrated
from frog.cli.options import Format, Seed
from frog.errors import UsageError

if TYPE_CHECKING:
    from frog.types.level_plans import Calibration, LevelPlan

REFUSED = 3


def verify(  # noqa: PLR0913 - a flag is an argument here
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A file of frog plan bits or frog plan prune.")
    ],
    calibration: Annotated[
        Path, typer.Option(help="Rows that the plan was not made on: text, a table or tensors.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Where the model is now; default: as in the plan.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of --calibration.")] = None,
    task: Annotated[str | None, typer.Option(help="What the model is.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of --calibration.")] = 64,
    length: Annotated[int | None, typer.Option(help="Tokens of a row at most.")] = None,
    planned_on: Annotated[
        Path | None, typer.Option(help="For a plan by Wanda: the rows that it was made with.")
    ] = None,
    by: Annotated[str, typer.Option(help="What decides: error, angle or perplexity.")] = "error",
    randoms: Annotated[int, typer.Option(help="Random plans of equal size beside it.")] = 3,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The plan with its verdict; default: PLAN.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Exit 0 also where it is worse.")] = False,
    format: Format = "auto",
) -> None:
    """Run the plan, the uniform one and random ones of its size on rows that it was not made on.

    Exit code 3 where it is worse than the uniform one; a plan of a pattern (2:4): than the mean of
    five random ones or more. The verdict is kept in the plan.
    """
    from frog import api
    from frog.types.level_plans import LevelPlan

    made = LevelPlan.from_json(plan)
    if made.data and made.calibration and _same(made.calibration, calibration):
        raise UsageError(
            f"{calibration}: the plan was made on rows of this file: verify it on others"
        )
    quiet = format == "quiet"
    where = model or made.path

    def read(file: Path | None) -> Calibration | None:
        data = Rows(
            model=where, calibration=file, column=column if file else None,
            task=task if file else None, rows=rows, length=length if file else None, quiet=quiet,
        )  # fmt: skip
        return calibrated(data, Progress(quiet=True), None)

    given = read(calibration)
    assert given is not None
    before = read(planned_on)
    if not quiet:
        uniform = "" if getattr(made.how, "pattern", None) else "the uniform one and "
        count = randoms if uniform else max(randoms, 5)
        say(f"running the plan, {uniform}{count} random ones of its size")
    found = api.verify_plan(
        where, made, calibration=given, planned_on=before, by=by, randoms=randoms, seed=seed
    )
    found.to_json(out or plan)
    _show(found, out or plan, where, format)
    assert found.verification is not None
    if found.verification.verdict == "worse":
        say(f"frog: the plan is worse than {found.verification.baseline}: frog apply refuses it")
        if not force:
            raise typer.Exit(REFUSED)


def _show(plan: LevelPlan, file: Path, model: str, format: str) -> None:
    assert plan.verification is not None
    if format == "json":
        OUT.file.write(plan.verification.to_json())
    elif format != "quiet":
        from frog.report.level_plans import judgement_table

        OUT.print(judgement_table(plan.verification, plan.action))
    if format != "quiet":
        say(f"wrote the verdict to {file}")
        if plan.verification.verdict != "worse":
            suggest("frog", "apply", str(file), "-o", "compressed")
        elif plan.verification.against == "uniform":
            budget = f"{plan.budget:g}"
            suggest("frog", "plan", plan.action, model, "--budget", budget, "--rule", "uniform",
                    "-o", str(file))  # fmt: skip


def _same(one: str, other: Path) -> bool:
    return Path(one).absolute() == other.absolute()
