"""The final comparison on planted records: who is shown to learn as much and to forget less."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.tuning import records
from benchmarks.tuning.cells import Cell
from benchmarks.tuning.curves import LEVELS
from benchmarks.tuning.task import Score
from benchmarks.tuning.verdicts import (
    MARGIN,
    Verdict,
    as_json,
    common_seeds,
    corrected,
    judge,
    plain,
    rate_gaps_of,
    report,
)

PLAN = {"default": "ours", "comparators": ["full", "lora"], "controls": ["full+recipe"],
        "fast": ["toy"], "seeds_fast": 6, "seeds_slow": 4}  # fmt: skip
SEEDS = list(range(6))


def quality(each: np.ndarray, index: np.ndarray | None = None, old: bool = False) -> float:
    return 100.0 * float(np.mean(each if index is None else each[index]))


TASK = SimpleNamespace(name="toy", unit="points", quality_of=quality)
PLANTED = {  # new and old quality by step
    "head": {0.0: (0.50, 0.95)},
    "full": {-1.0: (0.70, 0.90), 0.0: (0.90, 0.60)},
    "lora": {-1.0: (0.60, 0.90), 0.0: (0.80, 0.50)},
    "full+recipe": {-1.0: (0.70, 0.95), 0.0: (0.92, 0.90)},
}


def made(task: str, ours: dict[float, tuple[float, float]]) -> dict[Cell, dict]:
    rng = np.random.default_rng(0)
    common = rng.random((2, 500))  # examples are as hard for every method
    found = {}
    for method, steps in {**PLANTED, "ours": ours}.items():
        for step, (new, old) in steps.items():
            for seed in SEEDS:
                cell = Cell(task=task, method=method, share=0.01, step=step, seed=seed,
                            split="test")  # fmt: skip
                record = {"status": "done"}
                for side, hard, good in (("new", common[0], new), ("old", common[1], old)):
                    each = (hard + rng.normal(0, 0.02, 500) < good).astype(float)
                    score = Score(quality=quality(each), loss=0.0, each=each)
                    record[side] = records.side(score)
                found[cell] = record
    return found


def verdict(ours: dict[float, tuple[float, float]]) -> Verdict:
    found = judge(made("toy", ours), TASK, PLAN, seeds=SEEDS, draws=200)
    return corrected([found], PLAN["comparators"])[0]


def test_a_method_that_keeps_more_is_found_out():
    found = verdict({-1.0: (0.75, 0.95), 0.0: (0.92, 0.85)})
    assert found.not_inferior
    assert found.forgets_less(PLAN["comparators"])
    control = next(x for x in found.against if x.comparator == "full+recipe")
    assert not control.won
    lora = [x for x in found.against if x.comparator == "lora"]
    assert {x.share for x in lora if np.isinf(x.kept.difference)} == {0.8, 0.9, 0.95, 0.99}
    text = report([found], PLAN, 200)
    assert "| toy | yes | yes |" in text
    assert "only the default reaches it" in text
    assert json.dumps(plain(found))


@pytest.mark.parametrize(("ours", "learns", "keeps"), [
    ({0.0: (0.80, 0.95)}, False, False),  # never learns as much
    ({0.0: (0.92, 0.60)}, True, False),  # forgets as full tuning does
    ({-1.0: (0.70, 0.90), 0.0: (0.90, 0.60)}, None, False),  # full tuning itself
])  # fmt: skip
def test_no_claim_without_its_evidence(ours: dict, learns: bool | None, keeps: bool):
    found = verdict(ours)
    assert learns is None or found.not_inferior == learns
    assert found.forgets_less(PLAN["comparators"]) == keeps
    assert not found.forgets_less([])


def test_more_comparisons_never_sharpen_a_p_value():
    found = verdict({-1.0: (0.75, 0.95), 0.0: (0.92, 0.85)})
    for x in found.against:
        assert np.isnan(x.corrected) == (x.share not in LEVELS)
        assert np.isnan(x.corrected) or x.corrected >= x.kept.p
    twice = corrected([found, found], PLAN["comparators"])
    assert all(
        a.corrected <= b.corrected
        for a, b in zip(found.against, twice[0].against, strict=True)
        if a.share in LEVELS
    )


def test_the_rate_of_the_others_costs_what_was_planted():
    there = made("toy", {0.0: (0.80, 0.9), 1.0: (0.90, 0.8)})
    other = made("other", {0.0: (0.85, 0.9), 1.0: (0.75, 0.8)})
    tasks = [TASK, SimpleNamespace(name="other", unit="points", quality_of=quality)]
    verdicts = [
        judge(x, task, PLAN, seeds=SEEDS, draws=100)
        for x, task in zip((there, other), tasks, strict=True)
    ]
    gaps = rate_gaps_of(verdicts, "ours")
    assert {t: step for t, (step, _) in gaps.items()} == {"toy": 0.0, "other": 1.0}
    for _, lost in gaps.values():
        assert lost.difference == pytest.approx(10, abs=2)
        assert lost.low <= lost.difference <= lost.high
    assert "| toy | 0 |" in report(verdicts, PLAN, 100)


def test_a_loss_has_a_margin_in_percent():
    scored = SimpleNamespace(name="toy", unit="nats", quality_of=quality)
    found = judge(made("toy", PLANTED["full"]), scored, PLAN, seeds=SEEDS, draws=20)
    assert found.margin == pytest.approx(0.005 * 90, rel=0.05)
    assert found.margin != MARGIN


def test_only_whole_seeds_are_compared():
    there = made("toy", PLANTED["full"])
    cells = list(there)
    last = next(c for c in cells if c.seed == 5)
    del there[last]
    assert common_seeds(there, cells) == {"toy": SEEDS[:5]}


def test_without_full_tuning_there_is_nothing_to_judge():
    there = {c: r for c, r in made("toy", PLANTED["full"]).items() if c.method != "full"}
    with pytest.raises(ValueError, match="records of the head or the start, of full tuning"):
        judge(there, TASK, PLAN, seeds=SEEDS, draws=10)


def test_json_of_a_report_is_read_by_every_reader():
    value = {"a": [float("inf"), -float("inf"), float("nan"), 1.5], "b": -float("inf"),
             "c": "-Infinity, said he"}  # fmt: skip
    plain_value = json.loads(as_json(value), parse_constant=lambda x: pytest.fail(x))
    assert plain_value == {"a": ["inf", "-inf", None, 1.5], "b": "-inf", "c": "-Infinity, said he"}
