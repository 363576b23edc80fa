"""Paired differences of two methods with intervals over seeds and test examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tuning.curves import Curve, Point, old_at

Quality = Callable[[np.ndarray, np.ndarray, bool], float]
"""(values of the examples, index of a draw, old task) -> quality: :meth:`Task.quality_of`."""

Levels = float | np.ndarray
Anchors = Point | np.ndarray
"""A new quality, and a point (new, old): the same for all draws, or one for each."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Values of the examples by step: arrays (seeds, examples), seeds in the same order."""

    new: Mapping[float, np.ndarray]
    old: Mapping[float, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference with its 95 % interval and a two-sided p-value, of the bootstrap.

    Infinite where only one of the two methods reaches the level: plus where it is the first.
    ``missing`` is the share of draws in which neither does; they count for neither side.
    """

    difference: float
    low: float
    high: float
    p: float
    missing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Curves of the draws of a bootstrap, (1 + draws, steps); the first row is the whole data."""

    steps: tuple[float, ...]
    new: np.ndarray
    old: np.ndarray

    @property
    def best(self) -> int:
        """Place of the step with the best new quality on the whole data."""
        return int(np.argmax(self.new[0]))

    def old_at(self, level: Levels, anchor: Anchors) -> np.ndarray:
        """Old quality of every draw at a new one (1 + draws,); nan where it is not reached.

        Level and anchor are those of all draws, or one for each.
        """
        count = len(self.new)
        levels = np.broadcast_to(np.asarray(level, dtype=float), (count,))
        anchors = np.broadcast_to(np.asarray(anchor, dtype=float), (count, 2))
        return np.array([
            old_at(Curve(anchor=(a, b), points=dict(enumerate(zip(new, old, strict=True)))), wanted)
            for (a, b), wanted, new, old in zip(anchors, levels, self.new, self.old, strict=True)
        ])  # fmt: skip


def draw(runs: Runs, quality: Quality, *, draws: int = 1000, seed: int = 0) -> Drawn:
    """Draw seeds and examples with replacement; equal shapes and seeds give the same draws."""
    steps = tuple(sorted(runs.new))
    (count, news), (_, olds) = runs.new[steps[0]].shape, runs.old[steps[0]].shape
    rng = np.random.default_rng(seed)
    new, old = (np.empty((1 + draws, len(steps))) for _ in range(2))
    for row in range(1 + draws):
        seeds, some, others = (
            rng.integers(size, size=size) if row else np.arange(size)
            for size in (count, news, olds)
        )
        times = np.bincount(seeds, minlength=count) / count
        drawn = np.flatnonzero(times)
        for place, step in enumerate(steps):
            new[row, place] = sum(times[s] * quality(runs.new[step][s], some, False) for s in drawn)
            old[row, place] = sum(
                times[s] * quality(runs.old[step][s], others, True) for s in drawn
            )
    return Drawn(steps=steps, new=new, old=old)


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
    ours, theirs = (draw(x, quality, draws=draws, seed=seed) for x in (a, b))
    return kept_more(ours, theirs, level=level, anchor=anchor), learnt_more(ours, theirs)


def kept_more(a: Drawn, b: Drawn, *, level: Levels, anchor: Anchors) -> Interval:
    """Old quality at a new one, ``a`` minus ``b``; level and anchor as :meth:`Drawn.old_at`."""
    ours, theirs = (x.old_at(level, anchor) for x in (a, b))
    found = np.where(np.isnan(theirs), math.inf, np.where(np.isnan(ours), -math.inf, ours - theirs))
    return interval(np.where(np.isnan(ours) & np.isnan(theirs), math.nan, found))


def learnt_more(a: Drawn, b: Drawn) -> Interval:
    """Best new quality, ``a`` minus ``b``, each at its best step."""
    return interval(a.new[:, a.best] - b.new[:, b.best])


def interval(found: np.ndarray) -> Interval:
    """Percentile interval of the draws behind the first value, which is that of the whole data."""
    difference, drawn = float(found[0]), found[1:]
    sound = np.sort(drawn[~np.isnan(drawn)])
    missing = 1 - len(sound) / len(drawn)
    if math.isnan(difference) or not len(sound):
        return Interval(difference=math.nan, low=math.nan, high=math.nan, p=math.nan,
                        missing=missing)  # fmt: skip
    # no interpolation: values may be infinite
    low, high = np.quantile(sound, (0.025, 0.975), method="nearest")
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
