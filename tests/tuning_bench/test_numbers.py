"""Curves and statistics against examples made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.tuning.curves import Curve, forgetting_at, front, level_of, old_at
from benchmarks.tuning.statistics import Runs, compare, holm, rate_gaps
from benchmarks.tuning.tasks.language import SentenceTask
from tests.tuning_bench.toys import Toy

QUALITY = Toy().quality_of
MADE = Curve(anchor=(50.0, 90.0), points={-1: (60.0, 88.0), 0: (80.0, 70.0), 1: (75.0, 40.0)})


def test_old_quality_is_linear_on_the_front():
    assert front([MADE.anchor, *MADE.points.values()]) == [(50, 90), (60, 88), (80, 70)]
    assert old_at(MADE, 55) == pytest.approx(89)
    assert old_at(MADE, 70) == pytest.approx(79)
    assert old_at(MADE, 75) == pytest.approx(74.5)
    assert MADE.best == 0
    assert level_of(MADE, 0.5) == 65
    assert forgetting_at(MADE, 65) == pytest.approx(90 - 83.5)


def test_a_level_that_is_not_reached_is_nan():
    assert math.isnan(old_at(MADE, 80.1))
    assert math.isnan(forgetting_at(Curve(anchor=(50.0, 90.0), points={}), 51))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def planted(rng: np.random.Generator, new: float, old: float) -> Runs:
    return Runs(
        new={0.0: rng.random((4, 200)) < new, 1.0: rng.random((4, 200)) < new - 0.3},
        old={0.0: rng.random((4, 200)) < old, 1.0: rng.random((4, 200)) < old - 0.2},
    )


def test_intervals_cover_a_planted_difference():
    covered, zero = 0, 0
    for trial in range(20):
        rng = np.random.default_rng(trial)
        a, b = planted(rng, 0.9, 0.8), planted(rng, 0.8, 0.7)
        old, new = compare(a, b, QUALITY, anchor=(40.0, 60.0), level=70.0, draws=100)
        covered += (old.low <= 10 <= old.high) + (new.low <= 10 <= new.high)
        zero += (old.low <= 0 <= old.high) + (new.low <= 0 <= new.high)
    assert covered >= 34  # of 40 at 95 %
    assert zero <= 4


def test_same_runs_differ_by_nothing():
    a = planted(np.random.default_rng(0), 0.9, 0.8)
    for found in compare(a, a, QUALITY, anchor=(40.0, 60.0), level=70.0, draws=20):
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_other_seeds_are_refused():
    a = planted(np.random.default_rng(0), 0.9, 0.8)
    b = Runs(new={0.0: a.new[0.0][:3]}, old={0.0: a.old[0.0][:3]})
    with pytest.raises(ValueError, match="same seeds"):
        compare(a, b, QUALITY, anchor=(40.0, 60.0), level=70.0)


def test_spearman_of_a_draw():
    gold = np.array([1.0, 2.0, 3.0, 4.0])
    task = SentenceTask.__new__(SentenceTask)  # the formula alone: no data
    task.pairs = {"test": ([], gold)}
    cosines = np.array([1.0, 3.0, 5.0, 9.0])
    assert task.quality_of(cosines, np.arange(4), old=True) == pytest.approx(100)
    assert task.quality_of(-gold, np.array([0, 1, 3]), old=True) == pytest.approx(-100)


def test_gap_of_the_step_of_other_tasks():
    made = {"a": {0: 50.0, 1: 60.0}, "b": {0: 55.0, 1: 70.0}, "c": {0: 33.0, 1: 30.0}}
    assert rate_gaps(made) == {"a": 0.0, "b": 0.0, "c": 3.0}
