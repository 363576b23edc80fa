"""Each idea against a random mask and full tuning: ``python -m benchmarks.tuning.mechanisms``.

From the records of the stage ``ideas`` on validation; writes ``mechanisms.md`` beside the packed
records. Every idea has the same rates and seeds; intervals are those of the paired bootstrap, so
that their width says what could have been seen.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks import measuring
from benchmarks.tuning import records
from benchmarks.tuning.cells import Catalogue, catalogue
from benchmarks.tuning.curves import LEVELS, anchor_of
from benchmarks.tuning.stages import IDEAS
from benchmarks.tuning.statistics import Drawn, draw, kept_more, learnt_more
from benchmarks.tuning.task import Task
from benchmarks.tuning.verdicts import BELOW, MARGIN, Records, anchors_of, runs_of, shown


def drawn_of(
    there: Records, task: Task, methods: Sequence[str], seeds: Sequence[int], draws: int
) -> dict[str, Drawn]:
    """Curves of the draws of all methods that have these seeds."""
    found = {}
    for method in methods:
        runs = runs_of(there, task=task.name, method=method, seeds=seeds, split="validation")
        if runs is not None:
            found[method] = draw(runs, task.quality_of, draws=draws)
    return found


def task_lines(
    there: Records, known: Catalogue, task: Task, methods: Sequence[str], seeds: Sequence[int],
    draws: int,
) -> list[str]:  # fmt: skip
    """The table of one task."""
    drawn = drawn_of(there, task, methods, seeds, draws)
    mine = {c: r for c, r in there.items() if c.split == "validation" and c.task == task.name}
    anchor = anchor_of(mine, task=task.name, split="validation", seeds=seeds)
    if anchor is None or not {"full", "random"} <= set(drawn):
        return []
    full, chance = drawn["full"], drawn["random"]
    starts = anchors_of(None, anchor, 1 + draws)
    levels = {
        share: starts[:, 0] + share * (full.new[:, full.best] - starts[:, 0])
        for share in (*BELOW, *LEVELS)
    }
    lines = [
        f"## {task.name}", "",
        f"{len(seeds)} seeds. Before tuning: new {anchor[0]:.2f}, old {anchor[1]:.2f}.", "",
        "| method | best new | minus full tuning's [95 %] | old at 80 %, minus random's [95 %] | "
        "old at 95 %, minus full's [95 %] | old at 99 %, minus full's [95 %] | both |",
        "|" + " --- |" * 7,
    ]  # fmt: skip
    for method, curve in drawn.items():
        learnt = learnt_more(curve, full)
        low = kept_more(curve, chance, level=levels[BELOW[0]], anchor=starts)
        high = [kept_more(curve, full, level=levels[x], anchor=starts) for x in LEVELS]
        both = learnt.low > -MARGIN and all(x.low > 0 for x in high)
        cells = [
            method, f"{curve.new[0, curve.best]:.2f}",
            "" if method == "full" else shown(learnt),
            "" if method == "random" else shown(low),
            *("" if method == "full" else shown(x) for x in high),
            "yes" if both else "no",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    unlike = [x for x in drawn if x not in ("full", "random")]
    widths = [learnt_more(drawn[x], full) for x in unlike]
    half = float(np.median([(x.high - x.low) / 2 for x in widths])) if widths else math.nan
    return [*lines, "", f"Median half width of the intervals of new quality: {half:.2f} points.",
            ""]  # fmt: skip


def report(there: Records, known: Catalogue, draws: int) -> str:
    """Both tables."""
    lines = [
        "# Mechanisms against forgetting", "",
        f"{date.today().isoformat()}, `python -m benchmarks.tuning.mechanisms`, {draws} draws", "",
        f"Machine: `{json.dumps(measuring.machine())}`", "",
        "Validation split, 1 % of the weights but for full tuning, the same three rates for every "
        "method (half decades around the middle of its grid). Both: new quality not inferior to "
        f"full tuning's by {MARGIN:g} point, and more of the old task kept than by full tuning at "
        "95 % and 99 % of its best gain; no correction for the number of ideas.", "",
    ]  # fmt: skip
    for name, (methods, wanted) in IDEAS.items():
        seeds = [s for s in wanted if any((c.task, c.seed) == (name, s) for c in there)]
        if seeds and name in known.tasks:
            lines += task_lines(there, known, known.tasks[name](), methods, seeds, draws)
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report beside the packed records."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning.mechanisms",
                                     description=__doc__)  # fmt: skip
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where the records and the report are")
    given = parser.parse_args(arguments)
    packed = given.folder or records.PACKED
    there = records.load(given.folder or records.WORK, packed)
    if not any(c.split == "validation" and c.task in IDEAS for c in there):
        print("no records of the ideas: run python -m benchmarks.tuning.run --stage ideas first")
        return 2
    records.write(packed / "mechanisms.md", report(there, catalogue(), given.draws))
    print(packed / "mechanisms.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
