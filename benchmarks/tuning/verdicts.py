"""The final comparison judged: ``python -m benchmarks.tuning.verdicts``.

Reads ``final.json`` and its records on the test split, writes ``final.md`` and ``final.json``
beside the packed records.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from benchmarks.tuning import records
from benchmarks.tuning.cells import Catalogue, Cell, catalogue
from benchmarks.tuning.curves import LEVELS, Point, anchor_of
from benchmarks.tuning.stages import FINAL, SHARE, STAGES, Wanted
from benchmarks.tuning.statistics import (
    Drawn,
    Interval,
    Runs,
    draw,
    holm,
    interval,
    kept_more,
    learnt_more,
)
from benchmarks.tuning.tables import number
from benchmarks.tuning.task import Task

MARGIN = 1.0
"""Points of new quality that the default may be behind full tuning."""
LOSS_MARGIN = 0.5
"""The same in percent of full tuning's loss, for tasks that are scored by their loss."""
BELOW = (0.8, 0.9)
"""Levels told beside those of the claim, without a correction: where 1 % of the weights arrives."""
GAP = 1.5
"""Points of new quality that a rate from the other tasks may cost."""
Records = dict[Cell, records.Record]


@dataclass(frozen=True, kw_only=True)
class Against:
    """Old quality of the default minus that of a comparator, at one level of the new quality."""

    task: str
    comparator: str
    share: float
    level: float
    ours: float
    theirs: float
    kept: Interval
    corrected: float = math.nan
    """p-value after Holm's correction."""

    @property
    def won(self) -> bool:
        """The interval lies above 0, also after the correction."""
        return self.kept.low > 0 and self.corrected < 0.05


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One task: learnt as much, forgot less than whom, and what an automatic rate cost."""

    task: str
    anchor: Point
    learnt: Interval
    """Best new quality of the default minus full tuning's."""
    margin: float
    against: tuple[Against, ...]
    methods: Mapping[str, Drawn]
    seeds: int
    asked: int
    """Seeds that were planned."""

    @property
    def not_inferior(self) -> bool:
        """The lower bound is above minus the margin."""
        return self.learnt.low > -self.margin

    def forgets_less(self, names: Sequence[str]) -> bool:
        """Than each of these comparators, at every level."""
        mine = [x for x in self.against if x.comparator in names and x.share in LEVELS]
        return bool(mine) and all(x.won for x in mine)


def runs_of(
    there: Records, *, task: str, method: str, seeds: Sequence[int], split: str = "test"
) -> Runs | None:
    """Values of the examples of the steps that all seeds came to the end of; None without any."""
    found: dict[float, dict[int, records.Record]] = {}
    for cell, record in there.items():
        wanted = (cell.task, cell.method, cell.share, cell.split) == (task, method, SHARE, split)
        if wanted and cell.seed in seeds and record["status"] == "done":
            found.setdefault(cell.step, {})[cell.seed] = record
    whole = {step: [x[s] for s in seeds] for step, x in found.items() if len(x) == len(seeds)}
    if not whole:
        return None
    new, old = (
        {
            step: np.stack([records.unpack(x[side]["each"]) for x in runs])
            for step, runs in whole.items()
        }
        for side in ("new", "old")
    )
    return Runs(new=new, old=old)


def anchors_of(head: Drawn | None, anchor: Point, count: int) -> np.ndarray:
    """New and old quality before tuning, by draw (1 + draws, 2): the head alone where one is new.

    Where none is, only the means are known: the same for all draws.
    """
    if head is None:
        return np.tile(np.asarray(anchor, dtype=float), (count, 1))
    return np.stack([head.new[:, 0], head.old[:, 0]], axis=1)


def judge(
    there: Records, task: Task, plan: Mapping[str, Any], *, seeds: Sequence[int], draws: int
) -> Verdict:
    """One task, from the records of all methods of the plan."""
    names = [plan["default"], *plan["comparators"], *plan["controls"]]
    drawn = {}
    for name in dict.fromkeys(names):
        runs = runs_of(there, task=task.name, method=name, seeds=seeds)
        if runs is not None:
            drawn[name] = draw(runs, task.quality_of, draws=draws)
    mine = {c: r for c, r in there.items() if c.split == "test" and c.seed in seeds}
    anchor = anchor_of(mine, task=task.name, split="test", seeds=seeds)
    if anchor is None or "full" not in drawn or plan["default"] not in drawn:
        raise ValueError(
            f"{task.name} must have records of the head or the start, of full tuning and of the "
            "default on the test split: run --stage final first"
        )
    ours, full = drawn[plan["default"]], drawn["full"]
    starts = anchors_of(drawn.get("head"), anchor, len(full.new))
    gains = full.new[:, full.best] - starts[:, 0]
    against = []
    for share in (*BELOW, *LEVELS):
        levels = starts[:, 0] + share * gains
        for name, theirs in drawn.items():
            if name != plan["default"]:
                against.append(Against(
                    task=task.name, comparator=name, share=share, level=float(levels[0]),
                    ours=float(ours.old_at(levels, starts)[0]),
                    theirs=float(theirs.old_at(levels, starts)[0]),
                    kept=kept_more(ours, theirs, level=levels, anchor=starts),
                ))  # fmt: skip
    best = float(full.new[0, full.best])
    margin = MARGIN if task.unit == "points" else LOSS_MARGIN / 100 * abs(best)
    count = plan["seeds_fast"] if task.name in plan["fast"] else plan["seeds_slow"]
    return Verdict(
        task=task.name, anchor=anchor, learnt=learnt_more(ours, full), margin=margin,
        against=tuple(against), methods=drawn, seeds=len(seeds), asked=count,
    )  # fmt: skip


def corrected(verdicts: Sequence[Verdict], names: Sequence[str]) -> list[Verdict]:
    """The verdicts with p-values corrected over all tasks, levels and these comparators.

    Controls are told beside the claim: they are corrected among themselves.
    """
    found: dict[tuple[str, str, float], float] = {}
    for inside in (True, False):
        members = [
            x for v in verdicts for x in v.against
            if (x.comparator in names) == inside and x.share in LEVELS
        ]  # fmt: skip
        ps = [1.0 if math.isnan(x.kept.p) else x.kept.p for x in members]
        found |= {
            (x.task, x.comparator, x.share): p for x, p in zip(members, holm(ps), strict=True)
        }
    return [
        replace(v, against=tuple(
            replace(x, corrected=found.get((x.task, x.comparator, x.share), math.nan))
            for x in v.against
        ))
        for v in verdicts
    ]  # fmt: skip


def rate_gaps_of(verdicts: Sequence[Verdict], default: str) -> dict[str, tuple[float, Interval]]:
    """Step from the other tasks, and the new quality that it loses to the best one, by task.

    Qualities of a task are taken relative to its best step, in points, or in percent of the loss
    where that is the score; the step of a task is the one with the best mean over the others.
    """
    scaled = {}
    for v in verdicts:
        drawn = v.methods[default]
        unit = 1.0 if v.margin == MARGIN else 100.0 / abs(float(drawn.new[0].max()))
        scaled[v.task] = {s: unit * drawn.new[:, i] for i, s in enumerate(drawn.steps)}
    common = sorted(set.intersection(*(set(x) for x in scaled.values())))
    found = {}
    for task, mine in scaled.items():
        others = [
            {s: x[s][0] - max(x[c][0] for c in common) for s in common}
            for name, x in scaled.items() if name != task
        ]  # fmt: skip
        chosen = max(common, key=lambda s: float(np.mean([x[s] for x in others])))
        best = max(mine, key=lambda s: float(mine[s][0]))
        found[task] = chosen, interval(mine[best] - mine[chosen])
    return found


def shown(found: Interval, digits: int = 2) -> str:
    """A difference with its interval; words where only one of two reaches the level."""
    if math.isnan(found.difference):
        return "neither reaches it"
    if math.isinf(found.difference):
        return "only the default reaches it" if found.difference > 0 else "not reached by it"
    return f"{found.difference:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def curve_lines(v: Verdict) -> list[str]:
    """New / old quality of every method and step."""
    steps = sorted({s for x in v.methods.values() for s in x.steps})
    lines = ["| method | " + " | ".join(f"k = {s:g}" for s in steps) + " |",
             "| --- |" + " --- |" * len(steps)]  # fmt: skip
    for name, drawn in v.methods.items():
        cells = {s: f"{drawn.new[0, i]:.2f} / {drawn.old[0, i]:.2f}"
                 for i, s in enumerate(drawn.steps)}  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells.get(s, "") for s in steps) + " |")
    return lines


def verdict_lines(v: Verdict, plan: Mapping[str, Any]) -> list[str]:
    """The section of one task."""
    unit = "" if v.margin == MARGIN else f" ({LOSS_MARGIN:g} % of full tuning's loss)"
    lines = [
        f"## {v.task}", "",
        f"{v.seeds} paired seeds of {v.asked} planned. Before tuning: new {number(v.anchor[0])}, "
        f"old {number(v.anchor[1])}.", "",
        f"Best new quality, default minus full tuning: {shown(v.learnt)}; margin "
        f"-{v.margin:.2f}{unit}: **{'not inferior' if v.not_inferior else 'not shown'}**.", "",
        "New / old quality by step of the learning rate:", "", *curve_lines(v), "",
        "| at | against | its old quality | the default's | difference [95 %] | p (Holm) | less |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for x in v.against:
        kind = "" if x.comparator in plan["comparators"] else " (control)"
        won = ("yes" if x.won else "no") if x.share in LEVELS else ""
        lines.append(
            f"| {x.share:.0%} ({x.level:.2f}) | {x.comparator}{kind} | {number(x.theirs)} | "
            f"{number(x.ours)} | {shown(x.kept)} | {number(x.corrected, 3)} | {won} |"
        )
    return [*lines, ""]


def report(verdicts: Sequence[Verdict], plan: Mapping[str, Any], draws: int) -> str:
    """The whole report."""
    claims = {v.task: (v.not_inferior, v.forgets_less(plan["comparators"])) for v in verdicts}
    held = sum(all(x) for x in claims.values())
    lines = [
        "# The final comparison", "",
        f"{date.today().isoformat()}, `python -m benchmarks.tuning.verdicts`; the plan, fixed "
        "before the test split was touched, is `benchmarks/tuning/final.json`.", "",
        f"Machine: `{json.dumps(measuring.machine())}`", "",
        f"Default: `{plan['default']}`, 1 % of the weights. Old quality is read on each method's "
        f"curve over learning rates, at {' and '.join(f'{x:.0%}' for x in LEVELS)} of the best "
        f"gain of full tuning. Intervals: paired bootstrap over seeds and test examples, {draws} "
        "draws; the level and the point before tuning are drawn along; p-values corrected by Holm "
        "over tasks, levels and comparators. The levels of "
        f"{' and '.join(f'{x:.0%}' for x in BELOW)} are told beside, without a correction: they "
        "were added when the results were known. Controls have the recipe of the default over "
        "other weights, or train the head alone.",
        "", "| task | learns as much as full tuning | forgets less than " +
        ", ".join(plan["comparators"]) + " |", "| --- | --- | --- |",
    ]  # fmt: skip
    for task, (learns, keeps) in claims.items():
        lines.append(f"| {task} | {'yes' if learns else 'no'} | {'yes' if keeps else 'no'} |")
    lines += ["", f"Both hold on {held} of {len(claims)} tasks.", ""]
    for v in verdicts:
        lines += verdict_lines(v, plan)
    if len(verdicts) > 1:
        lines += ["## The learning rate from the other tasks", "",
                  "New quality lost to the best step on the grid (points, percent of the loss for "
                  f"`plays`); at most {GAP:g} is asked for.", "",
                  "| task | step of the others | lost [95 %] | within |",
                  "| --- | --- | --- | --- |"]  # fmt: skip
        for task, (step, lost) in rate_gaps_of(verdicts, plan["default"]).items():
            within = "yes" if lost.high < GAP else "no"
            lines.append(f"| {task} | {step:g} | {shown(lost)} | {within} |")
    return "\n".join(lines).rstrip() + "\n"


def plain(v: Verdict) -> dict[str, Any]:
    """A verdict as JSON; the curves are in the records."""
    return {
        "task": v.task, "anchor": v.anchor, "seeds": v.seeds, "learnt": asdict(v.learnt),
        "margin": v.margin, "not_inferior": v.not_inferior,
        "against": [{**asdict(x), "won": x.won} for x in v.against],
    }  # fmt: skip


def as_json(value: Any) -> str:
    """JSON that every reader takes: infinite numbers as text, those that are none as null."""

    def finite(x: Any) -> Any:
        if isinstance(x, Mapping):
            return {key: finite(inner) for key, inner in x.items()}
        if isinstance(x, list | tuple):
            return [finite(inner) for inner in x]
        if not isinstance(x, float) or math.isfinite(x):
            return x
        return None if math.isnan(x) else str(x)

    return json.dumps(finite(value), indent=1, allow_nan=False)


def common_seeds(
    there: Records, cells: Sequence[Cell], controls: Sequence[str] = ()
) -> dict[str, list[int]]:
    """Seeds of each task whose cells but the controls' are all there, in whatever way they ended.

    A control that has not all of these seeds is left out by :func:`runs_of`.
    """
    found: dict[str, list[int]] = {}
    for task in dict.fromkeys(c.task for c in cells):
        mine = [c for c in cells if c.task == task and c.method not in controls]
        seeds = sorted({c.seed for c in mine})
        found[task] = [s for s in seeds if all(c in there for c in mine if c.seed == s)]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning.verdicts",
                                     description=__doc__)  # fmt: skip
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--plan", type=Path, default=FINAL)
    parser.add_argument("--catalogue", default="", help="module with TASKS and METHODS")
    parser.add_argument("--folder", type=Path, help="where the records and the report are")
    given = parser.parse_args(arguments)
    plan = json.loads(given.plan.read_text())
    known: Catalogue = catalogue(given.catalogue)
    packed = given.folder or records.PACKED
    there = records.load(given.folder or records.WORK, packed)
    cells = STAGES["final"](known, Wanted(), there)
    seeds = common_seeds(there, cells, plan["controls"])
    verdicts = [
        judge(there, known.tasks[task](), plan, seeds=some, draws=given.draws)
        for task, some in seeds.items()
        if some
    ]
    if not verdicts:
        print("no task has a whole seed: run python -m benchmarks.tuning.run --stage final first")
        return 2
    verdicts = corrected(verdicts, plan["comparators"])
    records.write(packed / "final.md", report(verdicts, plan, given.draws))
    records.write(packed / "final.json", as_json([plain(v) for v in verdicts]) + "\n")
    print(packed / "final.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
