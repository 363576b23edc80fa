"""``frog plan tune|bits|prune``: how much of each matrix, as a file to review."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frog.cli.console import OUT, Progress, say, suggest
from frog.cli.levels import Compress, plan_levels
from frog.cli.options import AllLayers, Exclude, Format, Include, Jobs, UseCache
from frog.cli.running import resumable, run_of
from frog.errors import UnknownName, UsageError

PURPOSES = ("tune", "bits", "prune")
TUNE = ("role", "floor", "cap", "layer_rates")
BITS = ("group", "asymmetric")
PRUNE = ("importance", "within", "pattern")
DATA = ("calibration", "column", "task", "rows", "length", "rounds", "levels", "pin", "tie",
        "dry_run")  # fmt: skip
BUDGETS = {"tune": "1%", "bits": "4", "prune": "40%"}

Budget = Annotated[
    str | None,
    typer.Option(
        help="tune: weights to train, a share (1%, 0.01) or a count (5M); bits: bits a weight on "
        "average (4); prune: share of weights that become zero (40%)."
    ),
]
RuleName = Annotated[str, typer.Option("--rule", help="frog list rules; auto is uniform.")]
LevelRuleName = Annotated[
    str,
    typer.Option("--rule", help="frog list rules, or (bits, prune) frog list allocators; auto."),
]
Knobs = Annotated[
    list[str] | None, typer.Option("--knob", help="A knob of the rule, such as power=-1.")
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", help="A saved report of MODEL: measures nothing again.")
]
Roles = Annotated[list[str] | None, typer.Option("--role", help="Only this role; repeatable.")]
Floor = Annotated[float, typer.Option(help="tune: least share of every matrix.")]
Cap = Annotated[float, typer.Option(help="tune: largest share of any matrix.")]
LayerRates = Annotated[
    str, typer.Option(help="tune: learning rates by alpha: none, sigmoid or linear.")
]
Calibration = Annotated[
    Path | None,
    typer.Option(help="Text, a table or tensors: measures what each matrix loses (bits, prune)."),
]
Column = Annotated[str | None, typer.Option(help="Column of --calibration: text, image.")]
Task = Annotated[str | None, typer.Option(help="What MODEL is; default: by its class.")]
Rows = Annotated[int, typer.Option(help="Rows of --calibration.")]
Length = Annotated[int | None, typer.Option(help="Tokens of a row at most.")]
Rounds = Annotated[
    int | None,
    typer.Option(min=0, help="Sweeps around the plan so far; default: 3 to prune, 0 for bits."),
]
Levels = Annotated[
    str | None, typer.Option(help="Levels to choose from: 2,3,4,8 bits, or 0.2,0.5 sparsities.")
]
Pins = Annotated[list[str] | None, typer.Option("--pin", help="REGEX=LEVEL: settled; repeatable.")]
Tie = Annotated[
    str, typer.Option(help="Who shares a level: tensor, serving (q+k+v, gate+up) or block.")
]


def plan(  # noqa: PLR0913 - a flag is an argument here
    context: typer.Context,
    purpose: Annotated[str, typer.Argument(metavar="PURPOSE", help="tune, bits or prune")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model; tune: or its report.")],
    budget: Budget = None,
    rule: LevelRuleName = "auto",
    knob: Knobs = None,
    report: ReportFile = None,
    include: Include = None,
    exclude: Exclude = None,
    role: Roles = None,
    floor: Floor = 0.0,
    cap: Cap = 1.0,
    layer_rates: LayerRates = "none",
    calibration: Calibration = None,
    column: Column = None,
    task: Task = None,
    rows: Rows = 64,
    length: Length = None,
    rounds: Rounds = None,
    levels: Levels = None,
    pin: Pins = None,
    tie: Tie = "tensor",
    group: Annotated[
        int, typer.Option(help="bits: inputs that share a scale; 0: a whole row.")
    ] = 64,
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="bits: with zero points.")
    ] = False,
    importance: Annotated[
        str, typer.Option(help="prune: magnitude, wanda or relevance.")
    ] = "magnitude",
    within: Annotated[str, typer.Option(help="prune: compare in a matrix or a row.")] = "matrix",
    pattern: Annotated[str | None, typer.Option(help="prune: 2:4, whole matrices.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be measured, and how long it takes.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The plan, as JSON.")] = None,
    jobs: Jobs = None,
    cache: UseCache = True,
    everything: AllLayers = False,
    format: Format = "auto",
) -> None:
    """How much of each matrix of MODEL: trained weights (tune), bit widths (bits), sparsity
    (prune)."""
    if purpose not in PURPOSES:
        raise UnknownName("purpose of a plan", purpose, PURPOSES)
    _refuse_senseless(context, purpose)
    budget = BUDGETS[purpose] if budget is None else budget
    knobs = knobs_of(knob or [])
    if purpose != "tune":
        asked = Compress(
            purpose=purpose, model=model, budget=budget, rule=rule, knobs=knobs, report=report,
            include=include, exclude=exclude, calibration=calibration, column=column, task=task,
            rows=rows, length=length, rounds=rounds, levels=levels, pins=pin or [], tie=tie,
            group=group or None,
            symmetric=not asymmetric, importance=importance, within=within, pattern=pattern,
            out=out, jobs=jobs, cache=cache, everything=everything, format=format,
        )  # fmt: skip
        plan_levels(asked, dry_run=dry_run)
        return
    from frog import api
    from frog.types import Budget as Amount

    amount = Amount.trainable(budget, floor=floor, cap=cap)
    measured = report_of(model, report, jobs=jobs, cache=cache, quiet=format == "quiet")
    made = api.allocate(
        measured, amount, rule=rule, include=include, exclude=exclude, roles=role or (),
        knobs=knobs,
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


def _refuse_senseless(context: typer.Context, purpose: str) -> None:
    """UsageError for a flag that means nothing for the purpose."""
    senseless = {
        "tune": (*BITS, *PRUNE, *DATA),
        "bits": (*TUNE, *PRUNE),
        "prune": (*TUNE, *BITS),
    }[purpose]
    for name in senseless:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = f"--{name.replace('_', '-')}"
            fits = [x for x, names in (("tune", TUNE), ("bits", (*BITS, *DATA)),
                                       ("prune", (*PRUNE, *DATA))) if name in names]  # fmt: skip
            raise UsageError(
                f"{flag} means nothing for 'plan {purpose}', it is for {' and '.join(fits)}: "
                "leave it out"
            )


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
