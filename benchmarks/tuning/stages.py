"""Named lists of cells: what is compared when."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tuning.cells import Catalogue, Cell
from benchmarks.tuning.records import Record

FINAL = Path(__file__).parent / "final.json"
SHARE = 0.01
STEPS = (-2.0, -1.0, 0.0, 1.0)
FAST = ("signs", "photos")
"""The ResNet tasks."""
SLOW = ("plays", "sentiment", "intents")
FINAL_SEED = 100
"""First seed of the final comparison: none was used before."""

ANYWHERE = (
    "random", "full", "lora", "default", "random+scaled", "random+distil", "random+project",
    "random+self-fisher", "random+decay", "random+even-steps", "random+norms",
    "gradient-columns+default", "columns-over-relevance+default", "over-relevance+default",
    "random-columns+default",
)  # fmt: skip
IDEAS = {
    "photos": (ANYWHERE, range(10)),
    "signs": ((*ANYWHERE, "random+head-first", "random+recipe-0.6"), range(3)),
}
"""By task a method for each mechanism tried against forgetting, what they are held against, and
seeds: on ``photos`` ten show one point; ``signs`` has 250 examples and varies more. What acts on
a new head alone is not run where there is none."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line narrows a stage to; None leaves it to the stage."""

    tasks: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    steps: Sequence[float] | None = None
    share: float | None = None


Records = dict[Cell, Record]


def chosen_step(records: Records, task: str, method: str, share: float) -> float:
    """Step of the grid with the best mean new quality on validation."""
    found: dict[float, list[float]] = {}
    for cell, record in records.items():
        place = cell.task, cell.method, cell.share, cell.split
        if place == (task, method, share, "validation") and record["status"] == "done":
            found.setdefault(cell.step, []).append(record["new"]["quality"])
    if not found:
        raise ValueError(
            f"{method} on {task} at share {share:g} must have validation records to choose its "
            "learning rate by, got none: run --stage screen first"
        )
    return max(sorted(found), key=lambda step: float(np.mean(found[step])))


def grid(
    known: Catalogue, wanted: Wanted, *, methods: Iterable[str], seeds: Sequence[int],
    shares: Sequence[float] = (SHARE,), steps: Sequence[float] = STEPS,
) -> list[Cell]:  # fmt: skip
    """All combinations on the validation split; the head has one step: its rate is fixed."""
    shares = (wanted.share,) if wanted.share is not None else shares
    steps = wanted.steps or steps
    cells = [
        Cell(task=t, method=m, seed=seed, split="validation",
             share=share_for(known, m, share), step=0.0 if m == "head" else step)
        for seed in wanted.seeds or seeds
        for t in wanted.tasks or known.tasks
        for share in shares
        for step in steps
        for m in wanted.methods or methods
    ]  # fmt: skip
    return list(dict.fromkeys(cells))


def share_for(known: Catalogue, method: str, share: float | None) -> float:
    """The share of a cell: methods without a budget stand under one only."""
    return SHARE if share is None or not known.methods[method].budgeted else share


def smoke(known: Catalogue, wanted: Wanted, records: Records) -> list[Cell]:
    """Two methods, one seed, one rate."""
    return grid(known, wanted, methods=list(known.methods)[:2], seeds=(0,), steps=(0.0,))


def screen(known: Catalogue, wanted: Wanted, records: Records) -> list[Cell]:
    """All methods over the grid of learning rates, three seeds."""
    return grid(known, wanted, methods=known.methods, seeds=(0, 1, 2))


def budgets(known: Catalogue, wanted: Wanted, records: Records) -> list[Cell]:
    """Random choice, LoRA and full tuning at three budgets."""
    named = [m for m in ("random", "lora", "full") if m in known.methods]
    return grid(known, wanted, methods=named, seeds=(0, 1, 2), shares=(0.001, 0.01, 0.05))


def ideas(known: Catalogue, wanted: Wanted, records: Records) -> list[Cell]:
    """Every idea over the same rates on the ResNet tasks, with seeds enough to see one point."""
    return [
        cell
        for t, (methods, seeds) in IDEAS.items()
        if t in (wanted.tasks or IDEAS)
        for cell in grid(
            known, replace(wanted, tasks=[t]), methods=[m for m in methods if m in known.methods],
            seeds=seeds, steps=(-1.0, 0.0, 1.0),
        )
        if not refused(records, t, cell.method)
    ]  # fmt: skip


def unaided(known: Catalogue) -> list[str]:
    """Methods without ideas, and the default."""
    return [name for name, m in known.methods.items() if not m.ideas or name == "default"]


def fast(known: Catalogue, wanted: Wanted, records: Records) -> list[Cell]:
    """Each method at its chosen rate on the ResNet tasks, five seeds, judged on test.

    Methods with ideas are left out but for the default.
    """
    return [
        Cell(task=t, method=m, share=share, seed=seed, split="test", step=step)
        for t in wanted.tasks or FAST
        for m in wanted.methods or unaided(known)
        if not refused(records, t, m)
        for share in (share_for(known, m, wanted.share),)
        for step in wanted.steps or (chosen_step(records, t, m, share),)
        for seed in wanted.seeds or range(5)
    ]


def final(known: Catalogue, wanted: Wanted, records: Records) -> list[Cell]:
    """The default and its comparators of ``final.json``, on test, with seeds not used before."""
    plan: dict[str, Any] = json.loads(FINAL.read_text())
    names = dict.fromkeys([plan["default"], *plan["comparators"], *plan["controls"]])
    cells = []
    for t in wanted.tasks or known.tasks:
        count = plan["seeds_fast" if t in plan["fast"] else "seeds_slow"]
        for m in wanted.methods or names:
            if refused(records, t, m):
                continue
            share = share_for(known, m, wanted.share)
            planned = plan["steps"].get(t, {}).get(m)
            steps = wanted.steps or planned or (chosen_step(records, t, m, share),)
            cells += [
                Cell(task=t, method=m, share=share, step=step, seed=seed, split="test")
                for step in ([steps] if isinstance(steps, int | float) else steps)
                for seed in wanted.seeds or range(FINAL_SEED, FINAL_SEED + count)
            ]
    return cells


def refused(records: Records, task: str, method: str) -> bool:
    """Whether the method cannot take the task, as its records say."""
    return any(
        record["status"] == "n/a" and (cell.task, cell.method) == (task, method)
        for cell, record in records.items()
    )


STAGES: dict[str, Callable[[Catalogue, Wanted, Records], list[Cell]]] = {
    "smoke": smoke, "screen": screen, "budgets": budgets, "ideas": ideas, "fast": fast,
    "final": final,
}  # fmt: skip


def ordered(cells: Iterable[Cell]) -> list[Cell]:
    """All cells of cheap tasks first; within, seed by seed, tasks and methods in turn."""
    return sorted(
        dict.fromkeys(cells),
        key=lambda c: (c.task in SLOW, c.seed, abs(c.step), c.step, c.share, c.method, c.task),
    )


def records_of(stage: str, known: Catalogue, there: Records) -> Records:
    """The records that a stage's report is about.

    For the screening every one on validation at its share, at whatever rates and seeds: grids are
    widened by hand where the best rate lies at their end.
    """
    if stage == "screen":
        return {
            c: r for c, r in there.items()
            if c.split == "validation" and c.share == SHARE and c.method in known.methods
        }  # fmt: skip
    cells = STAGES[stage](known, Wanted(), there)
    found = {c: there[c] for c in cells if c in there}
    if stage == "fast" and found:  # who cannot take a task stands there with the reason
        found |= {
            replace(c, split="test"): r for c, r in there.items()
            if r["status"] == "n/a" and c.task in FAST and c.method in unaided(known)
        }  # fmt: skip
    return found
