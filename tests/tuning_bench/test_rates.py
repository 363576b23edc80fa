"""What an automatic rate costs, on planted records."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.tuning import records
from benchmarks.tuning.cells import Cell
from benchmarks.tuning.rates import NEW_HEAD, NO_HEAD, Swept, keenest, mildest, report, swept_of
from benchmarks.tuning.task import Score

PLANTED = {  # new quality by step; the old one falls with the step
    "new": {-1.0: 0.90, 0.0: 0.95, 0.5: 0.96},
    "same": {-1.0: 0.83, 0.0: 0.825, 0.5: 0.79},
    "third": {-1.0: 0.80, 0.0: 0.84, 0.5: 0.85},
}


def quality(each: np.ndarray, index: np.ndarray | None = None, old: bool = False) -> float:
    return 100.0 * float(np.mean(each if index is None else each[index]))


def task(name: str) -> SimpleNamespace:
    head = () if name == "same" else ("head",)
    return SimpleNamespace(name=name, unit="points", quality_of=quality, head=head)


def made() -> dict[Cell, dict]:
    found = {}
    for name, steps in PLANTED.items():
        for step, new in steps.items():
            for seed in range(4):
                cell = Cell(task=name, method=NO_HEAD if name == "same" else NEW_HEAD, share=0.01,
                            step=step, seed=seed, split="test")  # fmt: skip
                each = (np.arange(1000) < 1000 * new).astype(float)
                side = records.side(Score(quality=quality(each), loss=0.0, each=each))
                found[cell] = {"status": "done", "new": side, "old": side}
    # a seed that only one step has is left out
    extra = Cell(task="new", method=NEW_HEAD, share=0.01, step=0.0, seed=9, split="test")
    return {**found, extra: next(iter(found.values()))}


@pytest.fixture(scope="module")
def swept() -> dict[str, Swept]:
    there = made()
    found = {name: swept_of(there, task(name), 50) for name in PLANTED}
    assert all(x is not None and x.seeds == 4 for x in found.values())
    return {k: x for k, x in found.items() if x is not None}


def test_what_a_step_loses_is_what_was_planted(swept: dict[str, Swept]):
    for name, steps in PLANTED.items():
        for step, new in steps.items():
            lost = swept[name].lost(step)
            assert lost.difference == pytest.approx(100 * (max(steps.values()) - new))
            assert lost.low <= lost.difference <= lost.high


def test_two_ways_to_set_a_step_from_the_others(swept: dict[str, Swept]):
    others = [swept["new"], swept["third"]]
    assert (mildest(others), keenest(others)) == (0.0, 0.5)
    assert mildest([swept["same"]]) == -1.0
    assert mildest([swept["same"], swept["third"]]) == 0.0


def test_a_task_is_judged_by_the_others(swept: dict[str, Swept]):
    text = report(swept, 50)
    row = next(x for x in text.splitlines() if x.startswith("| same | 0 | +0.50"))
    assert "| 0.5 | +4.00" in row, "the keenest step of the others fails here"
    # `third` loses 1.0 with an interval beyond 1.5: its examples are drawn, too
    assert "library on 2 of 3, mildest on 2 of 3, keenest on 1 of 3" in text


def test_no_runs_no_curve():
    assert swept_of({}, task("new"), 10) is None
