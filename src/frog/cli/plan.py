"""``frog plan tune``: how much of each matrix is trained, as a file to review."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frog.cli.console import OUT, Progress, say, suggest
from frog.cli.options import AllLayers, Exclude, Format, Include, Jobs, UseCache
from frog.cli.running import resumable, run_of
from frog.errors import UnknownName, UsageError

PURPOSES = ("tune",)

Budget = Annotated[
    str, typer.Option(help="Weights to train: a share (1%, 0.01) or a count (5M, 250000).")
]
RuleName = Annotated[str, typer.Option("--rule", help="frog list rules; auto is uniform.")]
Knobs = Annotated[
    list[str] | None, typer.Option("--knob", help="A knob of the rule, such as power=-1.")
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", help="A saved report of MODEL: measures nothing again.")
]
Roles = Annotated[list[str] | None, typer.Option("--role", help="Only this role; repeatable.")]
Floor = Annotated[float, typer.Option(help="Least share of every matrix.")]
Cap = Annotated[float, typer.Option(help="Largest share of any matrix.")]
LayerRates = Annotated[str, typer.Option(help="Learning rates by alpha: none, sigmoid or linear.")]


def plan(  # noqa: PLR0913 - a flag is an argument here
    purpose: Annotated[str, typer.Argument(metavar="PURPOSE", help="tune")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, or a saved report.")],
    budget: Budget = "1%",
    rule: RuleName = "auto",
    knob: Knobs = None,
    report: ReportFile = None,
    include: Include = None,
    exclude: Exclude = None,
    role: Roles = None,
    floor: Floor = 0.0,
    cap: Cap = 1.0,
    layer_rates: LayerRates = "none",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The plan, as JSON.")] = None,
    jobs: Jobs = None,
    cache: UseCache = True,
    everything: AllLayers = False,
    format: Format = "auto",
) -> None:
    """Split a budget of trainable weights over the matrices of MODEL."""
    from frog import api
    from frog.types import Budget as Amount

    if purpose not in PURPOSES:
        raise UnknownName("purpose of a plan", purpose, PURPOSES)
    amount = Amount.trainable(budget, floor=floor, cap=cap)
    measured = report_of(model, report, jobs=jobs, cache=cache, quiet=format == "quiet")
    made = api.allocate(
        measured, amount, rule=rule, include=include, exclude=exclude, roles=role or (),
        knobs=knobs_of(knob or []),
    )  # fmt: skip
    if layer_rates != "none":
        made = api.layer_rates(made, measured, layer_rates)
    if out is not None:
        made.to_json(out)
    if format == "json":
        OUT.file.write(made.to_json())
    elif format != "quiet":
        from frog.report.plans import plan_table

        OUT.print(plan_table(made, everything=everything))
    if format != "quiet":
        if out is not None:
            say(f"wrote {out}")
            suggest("frog", "select", made.path, "--plan", str(out), "-o", "selection.safetensors")
        else:
            suggest("frog", "plan", "tune", model, "--budget", budget, "-o", "plan.json")


def report_of(
    model: str, report: Path | None, *, jobs: int | None, cache: bool, quiet: bool
) -> Any:
    """The report of a model: a saved one where one is named, else measured now."""
    from frog import api
    from frog.report.files import names_record, read_report
    from frog.types import Settings

    if report is not None:
        return read_report(report)
    if names_record(model):
        return read_report(model)
    progress = Progress(quiet=quiet)
    run = run_of(progress, jobs=jobs, device="auto", cache=cache)
    with resumable(progress, kept=cache):
        return api.analyze(model, Settings(bootstrap=0), run=run)


def knobs_of(words: list[str]) -> dict[str, float]:
    """``name=number`` words as a mapping."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise UsageError(f"--knob must read name=number, such as power=-1, got {word!r}")
    return found
