"""Tables of a stage: ``python -m benchmarks.tuning.tables --stage screen``."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks import measuring
from benchmarks.tuning import records
from benchmarks.tuning.cells import Catalogue, Cell, catalogue
from benchmarks.tuning.curves import LEVELS, Curve, anchor_of, curve, level_of, old_at
from benchmarks.tuning.stages import STAGES, records_of
from benchmarks.tuning.statistics import rate_gaps

HEADER = (
    "| method | family | share | k | seeds | new | old at best | old at 95 % | old at 99 % | "
    "trained | bytes a weight | step / LoRA |"
)
Records = dict[Cell, records.Record]


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def at_level(found: Curve, level: float | None) -> str:
    """Old quality at a level of the new one."""
    if level is None:
        return "-"
    old = old_at(found, level)
    return "not reached" if math.isnan(old) else number(old)


def best_row(
    there: Records, known: Catalogue, *, place: Cell, found: Curve, levels: Sequence[float | None],
    lora: float | None,
) -> str:  # fmt: skip
    """One method at its best learning rate; ``place`` is any of its cells."""
    method = known.methods[place.method]
    runs = [
        r for c, r in there.items()
        if (c.method, c.share, c.step) == (place.method, place.share, found.best)
        and r["status"] == "done"
    ]  # fmt: skip
    new = [r["new"]["quality"] for r in runs]
    error = float(np.std(new, ddof=1) / math.sqrt(len(new))) if len(new) > 1 else math.nan
    trained = statistics.median(r["trainable"] for r in runs)
    size = statistics.median(r["delta_bytes"] for r in runs)
    seconds = statistics.median(r["step_seconds"] for r in runs)
    fields = [
        method.name, method.family, f"{place.share:g}" if method.budgeted else "-",
        f"{found.best:g}", str(len(runs)), f"{number(statistics.mean(new))} ± {number(error)}",
        number(found.points[found.best][1]), *(at_level(found, level) for level in levels),
        f"{trained:,.0f}", number(size / trained if trained else None),
        number(seconds / lora if lora else None),
    ]  # fmt: skip
    return "| " + " | ".join(fields) + " |"


def common_seeds(done: Records, method: str, share: float) -> set[int]:
    """Seeds that ran at two rates or more, all where there are none such: a curve needs both."""
    seeds = [c.seed for c in done if (c.method, c.share) == (method, share)]
    return {x for x in seeds if seeds.count(x) > 1} or set(seeds)


def task_lines(there: Records, known: Catalogue, task: str) -> list[str]:
    """The table of one task from its records of one split, and what stands beside it."""
    split = next(iter(there)).split
    done = {c: r for c, r in there.items() if r["status"] == "done"}
    seeds = {m: {c.seed for c in done if c.method == m} for m in known.methods}
    everything = {c.seed for c in done}
    anchor = anchor_of(done, task=task, split=split, seeds=everything)
    start = anchor or (math.nan, math.nan)
    found = {
        (c.method, c.share): curve(done, task=task, method=c.method, share=c.share, split=split,
                                   seeds=common_seeds(done, c.method, c.share),
                                   anchor=start)
        for c in sorted(done)
    }  # fmt: skip
    full = next((x for (m, _), x in found.items() if m == "full" and x.points), None)
    levels = [level_of(full, s) if full and anchor else None for s in LEVELS]
    times = [r["step_seconds"] for c, r in done.items() if c.method == "lora"]
    lora = statistics.median(times) if times else None
    lines = [f"## {task}", ""]
    if anchor:
        lines += [f"Before tuning: new {number(start[0])}, old {number(start[1])}. "
                  f"95 % and 99 % of full tuning's gain: {number(levels[0])}, {number(levels[1])}.",
                  ""]  # fmt: skip
    else:
        lines += ["No anchor: neither the head alone nor the start has a record.", ""]
    lines += [HEADER, "|" + " --- |" * HEADER.count(" |")]
    rows = sorted((x for x in found if found[x].points),
                  key=lambda x: -found[x].points[found[x].best][0])  # fmt: skip
    for method, share in rows:
        place = next(c for c in done if (c.method, c.share) == (method, share))
        lines.append(best_row(done, known, place=place, found=found[method, share],
                              levels=levels, lora=lora))  # fmt: skip
    for name in (m for m in seeds if any(c.method == m for c in there)):
        lost = sum(r["status"] == "diverged" for c, r in there.items() if c.method == name)
        said = {r["reason"] for c, r in there.items() if c.method == name and "reason" in r}
        notes = [f"{lost} runs diverged"] * bool(lost) + sorted(said)
        if notes:
            lines += ["", f"- {name}: {'; '.join(notes)}"]
    return [*lines, ""]


def gap_lines(there: Records) -> list[str]:
    """What a learning rate taken from the other tasks costs each method."""
    qualities: dict[str, dict[str, dict[float, list[float]]]] = {}
    for c, r in there.items():
        if r["status"] == "done":
            steps = qualities.setdefault(c.method, {}).setdefault(c.task, {})
            steps.setdefault(c.step, []).append(r["new"]["quality"])
    lines = []
    for method, tasks in sorted(qualities.items()):
        means = {t: {s: float(np.mean(v)) for s, v in x.items()} for t, x in tasks.items()}
        if len(means) > 1 and len(set.intersection(*(set(x) for x in means.values()))) > 1:
            gaps = rate_gaps(means)
            lines.append(f"- {method}: " + ", ".join(f"{t} {number(g)}" for t, g in gaps.items()))
    title = "## New quality lost by the rate that is best on the other tasks"
    return [title, "", *lines, ""] if lines else []


def report(there: Records, known: Catalogue, title: str) -> str:
    """The whole report of the records of one stage, all of one split."""
    seconds = sum(r.get("seconds", 0.0) for r in there.values())
    counts = {s: sum(r["status"] == s for r in there.values())
              for s in ("done", "diverged", "n/a", "failed")}  # fmt: skip
    lines = [
        f"# Fine-tuning compared: {title}", "",
        f"{date.today().isoformat()}, `python -m benchmarks.tuning.tables --stage {title}`", "",
        f"Machine: `{json.dumps(measuring.machine())}`", "",
        f"{len(there)} cells on the {next(iter(there)).split} split: "
        + ", ".join(f"{n} {s}" for s, n in counts.items())
        + f"; {seconds / 3600:.2f} hours of CPU time, one thread a run.", "",
        "k: place of the best learning rate in the grid, in half decades. New: mean over seeds at "
        "that rate ± standard error. Old at 95 % and 99 %: interpolated on the curve over the "
        "rates, where new quality is at that share of full tuning's best gain. Step / LoRA: ratio "
        "of the median CPU times of a training step.", "",
    ]  # fmt: skip
    for task in dict.fromkeys(c.task for c in there):
        lines += task_lines({c: r for c, r in there.items() if c.task == task}, known, task)
    return "\n".join([*lines, *gap_lines(there)]).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of a stage beside the packed records."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning.tables", description=__doc__)
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("--catalogue", default="", help="module with TASKS and METHODS")
    parser.add_argument("--folder", type=Path, help="where the records and the report are")
    given = parser.parse_args(arguments)
    known = catalogue(given.catalogue)
    packed = given.folder or records.PACKED
    there = records.load(given.folder or records.WORK, packed)
    found = records_of(given.stage, known, there)
    if not found:
        print(f"no records of {given.stage}: run python -m benchmarks.tuning.run first")
        return 2
    path = packed / f"{given.stage}.md"
    records.write(path, report(found, known, given.stage))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
