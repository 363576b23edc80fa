"""``frog plan bits`` and ``frog plan prune``: the data, the sweep, the plan."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from frog.cli.console import INTERRUPTED, OUT, Progress, say, suggest
from frog.errors import UsageError

if TYPE_CHECKING:
    from frog.types.level_plans import Calibration, Pruning, Quantisation, Targets

REPORTED = ("alpha", "over-parameterised")
"""Scores for which a model is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The flags of --calibration."""

    model: str
    calibration: Path | None
    column: str | None
    task: str | None
    rows: int
    length: int | None
    quiet: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compress:
    """The flags of ``frog plan bits`` and ``frog plan prune``."""

    purpose: str
    model: str
    budget: str
    rule: str = "auto"
    knobs: Mapping[str, float] = field(default_factory=dict)
    report: Path | None = None
    include: str | None = None
    exclude: str | None = None
    calibration: Path | None = None
    column: str | None = None
    task: str | None = None
    rows: int = 64
    length: int | None = None
    rounds: int | None = None
    levels: str | None = None
    pins: Sequence[str] = ()
    tie: str = "tensor"
    group: int | None = 64
    symmetric: bool = True
    importance: str = "magnitude"
    within: str = "matrix"
    pattern: str | None = None
    out: Path | None = None
    jobs: int | None = None
    cache: bool = True
    everything: bool = False
    format: str = "auto"

    @property
    def quiet(self) -> bool:
        return self.format == "quiet"


def plan_levels(asked: Compress, *, dry_run: bool = False) -> None:
    """Make the plan, or say what it would take."""
    from frog import api
    from frog.types.level_plans import LevelRule

    budget, how, targets = budget_of(asked), how_of(asked), targets_of(asked)
    rule = LevelRule.named(asked.rule, asked.knobs)
    _check_out(asked)
    progress = Progress(quiet=asked.quiet)
    given = calibrated(asked, progress, _log(asked))
    if dry_run:
        seen = api.preview_levels(
            asked.purpose, asked.model, budget, rule=rule, calibration=given, how=how,
            targets=targets,
        )  # fmt: skip
        _show_preview(seen, asked)
        return
    report = _report(asked, rule)
    made: Any = None
    make: Any = api.plan_bits if asked.purpose == "bits" else api.plan_prune
    with contextlib.suppress(KeyboardInterrupt), stopping(progress):
        made = make(
            asked.model, budget, rule=rule, calibration=given, how=how, targets=targets,
            report=report,
        )  # fmt: skip
    if made is None:
        _interrupted(progress, None if given is None else given.log)
    if asked.out is not None:
        made.to_json(asked.out)
    if asked.format == "json":
        OUT.file.write(made.to_json())
    elif not asked.quiet:
        from frog.report.level_plans import level_plan_table

        OUT.print(level_plan_table(made, everything=asked.everything))
    if asked.quiet:
        return
    if asked.out is None:
        suggest("frog", *_again(asked, "-o", "plan.json"))
    else:
        say(f"wrote {asked.out}")
        suggest("frog", "verify", str(asked.out), "--calibration", "OTHER_ROWS")


def calibrated(asked: Compress | Rows, progress: Progress, log: Path | None) -> Calibration | None:
    """The model and the rows of --calibration, None where there is none."""
    from frog import api

    if asked.calibration is None:
        for name in ("column", "task", "length", "rounds"):
            if getattr(asked, name, None) is not None:
                raise UsageError(f"--{name} is for --calibration FILE: give both, or neither")
        return None
    if not asked.quiet:
        say(f"loading {asked.model} and rows of {asked.calibration}")
    made = api.read_calibration(
        asked.model, asked.calibration, task=asked.task, column=asked.column, rows=asked.rows,
        length=asked.length, log=log,
    )  # fmt: skip

    last = 0, 0

    def on_cell(done: int, total: int, unit: str, level: str) -> None:
        nonlocal last
        if done <= last[0] or total != last[1]:  # a sweep begins
            progress.start([1.0] * (total - done + 1))
        last = done, total
        progress.step(f"{unit} {level.split()[0]}", 1.0, cached=False)

    rounds = asked.rounds if isinstance(asked, Compress) else None
    return replace(made, on_cell=on_cell, rounds=rounds)


@contextlib.contextmanager
def stopping(progress: Progress) -> Iterator[None]:
    """Progress ends in any case."""
    try:
        yield
    finally:
        progress.stop()


def _interrupted(progress: Progress, log: Path | None) -> NoReturn:
    """Say what is kept and how to go on, and leave."""
    if log is not None and progress.done:
        done = f"{progress.done} of {progress.total}"
        say(f"interrupted: {done} cells are kept in {log}; the same command goes on:")
        suggest("frog", *sys.argv[1:])
    else:
        say("interrupted: nothing is written")
    raise typer.Exit(INTERRUPTED)


def budget_of(asked: Compress) -> float:
    """Bits a weight (4, 3.5), or a share (40%, 0.4)."""
    text = asked.budget.strip()
    share = text.endswith("%") and asked.purpose == "prune"
    try:
        value = float(text.removesuffix("%") if share else text) / (100 if share else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        form = "bits a weight, such as 4" if asked.purpose == "bits" else "a share, such as 40%"
        raise UsageError(f"--budget must be {form}, got {asked.budget!r}")
    return value


def how_of(asked: Compress) -> Quantisation | Pruning:
    """Rounding or pruning as the flags say."""
    from frog.types.level_plans import BITS, SPARSITIES, Pruning, Quantisation

    if asked.purpose == "bits":
        widths = numbers_of(asked.levels, BITS, "--levels")
        return Quantisation(
            widths=tuple(int(x) if x == int(x) else x for x in widths),  # type: ignore[misc]
            group=asked.group,
            symmetric=asked.symmetric,
        )
    pattern = None
    if asked.pattern is not None:
        found = re.fullmatch(r"(\d+):(\d+)", asked.pattern)
        if found is None:
            raise UsageError(f"--pattern must read N:M, such as 2:4, got {asked.pattern!r}")
        if asked.levels is not None:
            raise UsageError("--levels means nothing beside --pattern: leave one out")
        pattern = (int(found[1]), int(found[2]))
    return Pruning(
        shares=numbers_of(asked.levels, SPARSITIES, "--levels"),
        importance=asked.importance,
        within=asked.within,  # type: ignore[arg-type]
        pattern=pattern,
    )


def targets_of(asked: Compress) -> Targets:
    """Who is compressed, and who shares a level."""
    from frog.types.level_plans import Targets

    pins = {}
    for word in asked.pins:
        name, equals, value = word.rpartition("=")
        try:
            pins[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise UsageError(f"--pin must read REGEX=LEVEL, such as down_proj=8, got {word!r}")
    return Targets(include=asked.include, exclude=asked.exclude, pins=pins, tie=asked.tie)


def numbers_of(text: str | None, default: tuple[Any, ...], flag: str) -> tuple[Any, ...]:
    """Numbers with commas between."""
    if text is None:
        return default
    try:
        return tuple(float(x) for x in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} must be numbers with commas between, got {text!r}") from None


def _log(asked: Compress) -> Path | None:
    """Where cells are kept: beside the output, else in the cache."""
    from frog import api

    if asked.out is not None:
        return asked.out.with_name(f"{asked.out.stem}.sweep.jsonl")
    return api.default_log(asked.model) if asked.cache else None


def _report(asked: Compress, rule: Any) -> Any:
    """A report where the score needs one, or one was named."""
    from frog.cli.plan import report_of
    from frog.report.files import read_report

    if asked.report is not None:
        return read_report(asked.report)
    by_report = rule.score.removeprefix("-") in REPORTED
    if by_report or (rule.allocator == "linear_map" and not rule.score):
        return report_of(asked.model, None, jobs=asked.jobs, cache=asked.cache, quiet=asked.quiet)
    return None


def _check_out(asked: Compress) -> None:
    """Refuse an output that cannot be written before hours are spent."""
    from frog.cli.outputs import Outputs

    outputs = Outputs(json=asked.out)
    outputs.check()
    outputs.keep(asked.model, asked.calibration, asked.report)


def _show_preview(seen: Any, asked: Compress) -> None:
    if asked.format == "json":
        import json
        from dataclasses import asdict

        plain = {"format": "frog-level-preview", "version": 1, **asdict(seen),
                 "total_seconds": seen.total}  # fmt: skip
        OUT.file.write(json.dumps(plain, indent=2) + "\n")
    elif not asked.quiet:
        from frog.report.level_plans import sweep_preview

        OUT.print(sweep_preview(seen))
    if not asked.quiet:
        suggest("frog", *_again(asked))


def _again(asked: Compress, *more: str) -> list[str]:
    """The words of the same command, without --dry-run."""
    return [x for x in sys.argv[1:] if x != "--dry-run"] + list(more)
