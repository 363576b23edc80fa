"""What it costs to give no learning rate: ``python -m benchmarks.tuning.rates``.

The recipe of the library on test, over multiples of its automatic rate, judged leave-one-task-out;
writes ``rates.md`` beside the packed records.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks import measuring
from benchmarks.tuning import records
from benchmarks.tuning.cells import Catalogue, catalogue
from benchmarks.tuning.stages import SHARE
from benchmarks.tuning.statistics import Drawn, Interval, draw, interval
from benchmarks.tuning.task import Task
from benchmarks.tuning.verdicts import GAP, Records, runs_of, shown

NEW_HEAD, NO_HEAD = "default", "random+auto+by-loss"
"""What the library does where a head is new, and where none is."""
STEPS = (-2.0, -1.0, 0.0, 0.5, 1.0)
LIBRARY = 0.0
"""The step of the automatic rate as it is."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """The recipe on one task over its steps; ``unit`` turns qualities into points or percent."""

    task: str
    method: str
    seeds: int
    drawn: Drawn
    unit: float

    def lost(self, step: float) -> Interval:
        """New quality lost at a step to the step with the best mean."""
        new = self.drawn.new
        place = self.drawn.steps.index(step)
        return interval(self.unit * (new[:, self.drawn.best] - new[:, place]))


def swept_of(there: Records, task: Task, draws: int) -> Swept | None:
    """The runs of a task with seeds that all its steps have; None without any."""
    method = NEW_HEAD if task.head else NO_HEAD
    mine = [
        c for c, r in there.items()
        if (c.task, c.method, c.share, c.split) == (task.name, method, SHARE, "test")
        and r["status"] == "done" and c.step in STEPS
    ]  # fmt: skip
    steps = {c.step for c in mine}
    seeds = sorted(
        s for s in {c.seed for c in mine} if {c.step for c in mine if c.seed == s} == steps
    )
    runs = runs_of(there, task=task.name, method=method, seeds=seeds) if seeds else None
    if runs is None:
        return None
    drawn = draw(runs, task.quality_of, draws=draws)
    unit = 1.0 if task.unit == "points" else 100.0 / abs(float(drawn.new[0].max()))
    return Swept(task=task.name, method=method, seeds=len(seeds), drawn=drawn, unit=unit)


def mildest(others: Sequence[Swept]) -> float | None:
    """The smallest step that loses at most ``GAP`` on each of these tasks: it forgets least."""
    common = sorted(set.intersection(*(set(x.drawn.steps) for x in others)))
    fit = [s for s in common if all(x.lost(s).difference <= GAP for x in others)]
    return fit[0] if fit else None


def keenest(others: Sequence[Swept]) -> float:
    """The step with the best new quality on average over these tasks."""
    common = sorted(set.intersection(*(set(x.drawn.steps) for x in others)))
    return min(common, key=lambda s: sum(x.lost(s).difference for x in others))


def report(found: Mapping[str, Swept], draws: int) -> str:
    """The curves, and what each way to set the step costs on the task that it did not see."""
    lines = [
        "# No learning rate given", "",
        f"{date.today().isoformat()}, `python -m benchmarks.tuning.rates`, {draws} draws", "",
        f"Machine: `{json.dumps(measuring.machine())}`", "",
        f"The recipe of the library at 1 % of the weights, on test: `{NEW_HEAD}` where a head is "
        f"new, `{NO_HEAD}` where none is. Steps are half decades around its automatic rate (0: as "
        "it is). New / old quality:", "",
        "| task | seeds | " + " | ".join(f"k = {s:g}" for s in STEPS) + " |",
        "| --- | --- |" + " --- |" * len(STEPS),
    ]  # fmt: skip
    for x in found.values():
        at = {s: f"{x.drawn.new[0, i]:.2f} / {x.drawn.old[0, i]:.2f}"
              for i, s in enumerate(x.drawn.steps)}  # fmt: skip
        lines.append(f"| {x.task} | {x.seeds} | " + " | ".join(at.get(s, "") for s in STEPS) + " |")
    lines += [
        "", "New quality lost to the step with the best mean on test, which knows the answer "
        f"(points, percent of the loss for `plays`; at most {GAP:g} is the aim), with 95 % "
        "intervals over seeds and test examples. *Library*: the automatic rate as it is, which was "
        "there before these runs. *Mildest*: the smallest step that loses at most "
        f"{GAP:g} on every other task. *Keenest*: the step that is best on average over the other "
        "tasks, whatever it makes them forget.", "",
        "| task | library | lost | mildest | lost | keenest | lost |", "|" + " --- |" * 7,
    ]  # fmt: skip
    within: dict[str, list[bool]] = {"library": [], "mildest": [], "keenest": []}
    for name, mine in found.items():
        others = [x for task, x in found.items() if task != name]
        cells = []
        chosen = {"library": LIBRARY, "mildest": mildest(others), "keenest": keenest(others)}
        for way, step in chosen.items():
            lost = None if step is None else mine.lost(step)
            within[way].append(lost is not None and lost.high < GAP)
            cells += ["none", "-"] if step is None or lost is None else [f"{step:g}", shown(lost)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    told = ", ".join(f"{way} on {sum(x)} of {len(x)}" for way, x in within.items())
    lines += ["", f"The whole interval lies below {GAP:g}: {told} tasks."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning.rates", description=__doc__)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--catalogue", default="", help="module with TASKS and METHODS")
    parser.add_argument("--folder", type=Path, help="where the records and the report are")
    given = parser.parse_args(arguments)
    known: Catalogue = catalogue(given.catalogue)
    packed = given.folder or records.PACKED
    there = records.load(given.folder or records.WORK, packed)
    found = {
        name: swept
        for name, make in known.tasks.items()
        if (swept := swept_of(there, make(), given.draws)) is not None
    }
    if len(found) < 2:
        print("two tasks or more must have runs of the recipe on test: docs/benchmarks says how")
        return 2
    records.write(packed / "rates.md", report(found, given.draws))
    print(packed / "rates.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
