"""The questions and what the validation runs say: ``python -m benchmarks.tuning.answers``.

Writes ``answers.md`` beside the packed records: a table a question, the same methods on every task
that has their records.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks import measuring
from benchmarks.tuning import records
from benchmarks.tuning.cells import Cell, catalogue
from benchmarks.tuning.curves import Curve, anchor_of, curve, level_of, old_at
from benchmarks.tuning.stages import SHARE
from benchmarks.tuning.tables import common_seeds, number

LEVELS = (0.8, 0.9, 0.95)
"""Lower than in the final comparison: a part of the methods gets no further."""
Records = Mapping[Cell, records.Record]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and the methods whose curves answer it; ``shares`` beside one per cent."""

    asks: str
    methods: tuple[str, ...]
    shares: tuple[float, ...] = (SHARE,)


QUESTIONS = (
    Question(asks="Which score chooses single weights?", methods=(
        "random", "magnitude", "relevance", "relevance-rank1", "lowrank", "leverage", "gradient",
        "fisher", "relevance-gradient", "gradient-over-relevance", "super-tuning-top",
        "super-tuning-bottom", "lift")),
    Question(asks="Does alpha help in the budget, and with which sign?", methods=(
        "random", "random/alpha+", "random/alpha-")),
    Question(asks="Does the Frobenius norm share the budget?", methods=(
        "random", "random/frobenius+", "random/frobenius-")),
    Question(asks="Single weights or columns?", methods=(
        "random", "random-columns", "gradient", "gradient-columns", "relevance",
        "relevance-columns")),
    Question(asks="The same with the default's recipe", methods=(
        "default", "random-columns+default", "gradient-columns+default",
        "columns-over-relevance+default", "over-relevance+default")),
    Question(asks="What does each part of the recipe do?", methods=(
        "random", "random+head-first", "random+scaled", "random+head-first+scaled",
        "random+recipe-0.6", "random+recipe-0.8", "full", "full+head-first", "full+scaled",
        "full+head-first+scaled", "full+recipe-0.4", "full+recipe-0.6", "full+recipe-0.8")),
    Question(asks="How much of the change is kept, by the loss?", methods=(
        "random+auto", "random+auto+by-loss", "default", "default+by-loss")),
    Question(asks="Other protections of the old task", methods=(
        "random", "random+project", "random+self-fisher", "random+distil", "random+decay",
        "random+even-steps", "random+norms", "random/late")),
    Question(asks="Peers", methods=(
        "full", "head", "bitfit", "norms", "lora", "rslora", "pissa", "miss", "shira", "spectrum",
        "lisa", "random", "default")),
    Question(asks="How much to tune?", methods=("random", "lora", "full"),
             shares=(0.001, 0.01, 0.05)),
)  # fmt: skip


def found_curve(
    done: Records, *, task: str, method: str, share: float, anchor: tuple[float, float]
) -> tuple[Curve, int] | None:
    """The curve over the seeds that ran at two rates or more, and their number."""
    seeds = common_seeds(dict(done), method, share)
    made = curve(done, task=task, method=method, share=share, split="validation", seeds=seeds,
                 anchor=anchor)  # fmt: skip
    return (made, len(seeds)) if made.points else None


def task_lines(there: Records, task: str, question: Question) -> list[str]:
    """The table of one question on one task; none where fewer than two methods ran."""
    done = {c: r for c, r in there.items() if c.task == task and r["status"] == "done"}
    seeds = {c.seed for c in done}
    anchor = anchor_of(done, task=task, split="validation", seeds=seeds)
    full = anchor and found_curve(done, task=task, method="full", share=SHARE, anchor=anchor)
    if not anchor or not full:
        return []
    levels = [level_of(full[0], share) for share in LEVELS]
    rows = []
    for method in question.methods:
        for share in question.shares:
            found = found_curve(done, task=task, method=method, share=share, anchor=anchor)
            if found is None:
                continue
            made, count = found
            new, old = made.points[made.best]
            named = method if len(question.shares) == 1 else f"{method}, {share:.1%}"
            kept = [old_at(made, level) for level in levels]
            rows.append(
                f"| {named} | {count} | {new:.2f} / {old:.2f} at k = {made.best:g} | "
                + " | ".join("-" if math.isnan(x) else number(x) for x in kept) + " |"
            )  # fmt: skip
    if len(rows) < 2:
        return []
    head = " | ".join(f"old at {s:.0%} ({x:.1f})" for s, x in zip(LEVELS, levels, strict=True))
    return [
        f"`{task}`; before tuning: new {anchor[0]:.2f}, old {anchor[1]:.2f}.", "",
        f"| method | seeds | best new / its old | {head} |",
        "| --- | --- | --- |" + " --- |" * len(LEVELS), *rows, "",
    ]  # fmt: skip


def report(there: Records, tasks: Sequence[str]) -> str:
    """All questions."""
    lines = [
        "# Questions and what the validation runs say", "",
        f"{date.today().isoformat()}, `python -m benchmarks.tuning.answers`", "",
        f"Machine: `{json.dumps(measuring.machine())}`", "",
        "Means over the seeds told. Old quality is read on each method's curve over learning rates "
        "at a share of full tuning's best gain; `-` where the curve does not reach it. k: place of "
        "the best rate in the grid, half decades from its middle. These runs chose; the claims are "
        "in [the final comparison](final.md).", "",
    ]  # fmt: skip
    for question in QUESTIONS:
        found = [x for task in tasks for x in task_lines(there, task, question)]
        if found:
            lines += [f"## {question.asks}", "", *found]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report beside the packed records."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning.answers",
                                     description=__doc__)  # fmt: skip
    parser.add_argument("--folder", type=Path, help="where the records and the report are")
    given = parser.parse_args(arguments)
    packed = given.folder or records.PACKED
    there = records.load(given.folder or records.WORK, packed)
    there = {c: r for c, r in there.items() if c.split == "validation"}
    if not there:
        print("no records of the validation split: run --stage screen first")
        return 2
    tasks = [t for t in catalogue().tasks if any(c.task == t for c in there)]
    records.write(packed / "answers.md", report(there, tasks))
    print(packed / "answers.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
