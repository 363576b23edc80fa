"""Paired differences of two methods with intervals over seeds and test examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tuning.curves import Curve, Point, old_at

Quality = Callable[[np.ndarray, np.ndarray, bool], float]
"""(values of the examples, index of a draw, old task) -> quality: :meth:`Task.quality_of`."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Values of the examples by step: arrays (seeds, examples), seeds in the same order."""

    new: Mapping[float, np.ndarray]
    old: Mapping[float, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference with its 95 % interval and a two-sided p-value, of the bootstrap.

    ``missing`` is the share of draws in which a curve did not reach the level.
    """

    difference: float
    low: float
    high: float
    p: float
    missing: float = 0.0


def drawn_curve(
    runs: Runs, quality: Quality, *, anchor: Point, seeds: np.ndarray, new: np.ndarray,
    old: np.ndarray,
) -> Curve:  # fmt: skip
    """The curve of a draw of seeds and examples."""
    points = {
        step: (
            float(np.mean([quality(runs.new[step][s], new, False) for s in seeds])),
            float(np.mean([quality(runs.old[step][s], old, True) for s in seeds])),
        )
        for step in runs.new
    }
    return Curve(anchor=anchor, points=points)


def compare(
    a: Runs, b: Runs, quality: Quality, *, anchor: Point, level: float, draws: int = 1000,
    seed: int = 0,
) -> tuple[Interval, Interval]:  # fmt: skip
    """Old quality at ``level`` and best new quality, ``a`` minus ``b``, as paired bootstrap.

    Both methods get the same draw of seeds and of examples. The anchor and the level stay as
    they are. The step of the best new quality is chosen on the whole data, not anew in a draw.
    """
    shapes = [next(iter(x.values())).shape for x in (a.new, b.new, a.old, b.old)]
    if shapes[0] != shapes[1] or shapes[2] != shapes[3]:
        raise ValueError(
            f"paired runs must have the same seeds and examples, got {shapes[0]} and {shapes[1]} "
            f"of the new task, {shapes[2]} and {shapes[3]} of the old one: give common seeds"
        )
    (count, news), (_, olds) = shapes[0], shapes[2]
    rng = np.random.default_rng(seed)
    best: list[float] = []

    def differences(seeds: np.ndarray, new: np.ndarray, old: np.ndarray) -> tuple[float, float]:
        ours, theirs = (
            drawn_curve(x, quality, anchor=anchor, seeds=seeds, new=new, old=old) for x in (a, b)
        )
        if not best:
            best.extend((ours.best, theirs.best))
        return (
            old_at(ours, level) - old_at(theirs, level),
            ours.points[best[0]][0] - theirs.points[best[1]][0],
        )

    whole = differences(np.arange(count), np.arange(news), np.arange(olds))
    drawn = np.array([
        differences(rng.integers(count, size=count), rng.integers(news, size=news),
                    rng.integers(olds, size=olds))
        for _ in range(draws)
    ])  # fmt: skip
    return interval(whole[0], drawn[:, 0]), interval(whole[1], drawn[:, 1])


def interval(difference: float, drawn: np.ndarray) -> Interval:
    """Percentile interval; nan where the level was not reached on the whole data."""
    sound = drawn[np.isfinite(drawn)]
    missing = 1 - len(sound) / len(drawn)
    if not math.isfinite(difference) or not len(sound):
        return Interval(difference=math.nan, low=math.nan, high=math.nan, p=math.nan,
                        missing=missing)  # fmt: skip
    low, high = np.quantile(sound, (0.025, 0.975))
    tail = min(np.sum(sound <= 0), np.sum(sound >= 0))
    p = min(1.0, 2 * (tail + 1) / (len(sound) + 1))
    return Interval(difference=difference, low=float(low), high=float(high), p=float(p),
                    missing=missing)  # fmt: skip


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm (1979): smallest times m, next times m-1, ..."""
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(np.argsort(ps)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def rate_gaps(best: Mapping[str, Mapping[float, float]]) -> dict[str, float]:
    """New quality lost on each task by the step that is best on average on the other tasks.

    ``best`` has new quality by task and step; steps that all tasks have are looked at.
    """
    steps = sorted(set.intersection(*(set(x) for x in best.values())))
    if len(best) < 2 or not steps:
        raise ValueError(
            f"leaving a task out needs two tasks or more with a common step, got {len(best)} "
            f"tasks and {len(steps)} common steps: run more cells"
        )
    gaps = {}
    for task, qualities in best.items():
        others = [x for other, x in best.items() if other != task]
        chosen = max(steps, key=lambda s: float(np.mean([x[s] for x in others])))
        gaps[task] = max(qualities[s] for s in steps) - qualities[chosen]
    return gaps
