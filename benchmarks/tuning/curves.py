"""Curves of new against old quality over the learning rates of one method on one task."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.tuning.cells import Cell
from benchmarks.tuning.records import Record

Point = tuple[float, float]
"""New and old quality, in points."""
LEVELS = (0.95, 0.99)
"""Shares of full tuning's best gain at which forgetting is read."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One point a learning rate, by its step in the grid; the anchor is before tuning, gain 0."""

    anchor: Point
    points: Mapping[float, Point]

    @property
    def best(self) -> float:
        """Step with the best new quality."""
        return max(sorted(self.points), key=lambda step: self.points[step][0])


def curve(
    records: Mapping[Cell, Record], *, task: str, method: str, share: float, split: str,
    seeds: Collection[int], anchor: Point,
) -> Curve:  # fmt: skip
    """Means over the seeds; only rates at which all of the seeds came to their end count."""
    found: dict[float, dict[int, Point]] = {}
    for cell, record in records.items():
        place = cell.task, cell.method, cell.share, cell.split
        wanted = place == (task, method, share, split) and cell.seed in seeds
        if wanted and record["status"] == "done":
            point = record["new"]["quality"], record["old"]["quality"]
            found.setdefault(cell.step, {})[cell.seed] = point
    whole = {step: runs for step, runs in found.items() if len(runs) == len(set(seeds))}
    points = {}
    for step, runs in sorted(whole.items()):
        new, old = np.mean(list(runs.values()), axis=0)
        points[step] = float(new), float(old)
    return Curve(anchor=anchor, points=points)


def anchor_of(
    records: Mapping[Cell, Record], *, task: str, split: str, seeds: Collection[int]
) -> Point | None:
    """Before tuning: the head alone where the task has a new one, else the untouched start."""
    heads, starts = [], []
    for cell, record in records.items():
        if (cell.task, cell.split) == (task, split) and record["status"] == "done":
            if cell.method == "head" and cell.seed in seeds:
                heads.append((record["new"]["quality"], record["old"]["quality"]))
            if "start" in record:
                starts.append(tuple(record["start"]))
    chosen = heads or starts[:1]
    if not chosen:
        return None
    new, old = np.mean(chosen, axis=0)
    return float(new), float(old)


def front(points: Collection[Point]) -> list[Point]:
    """Points that no other one beats in both qualities, by rising new quality."""
    kept: list[Point] = []
    for new, old in sorted(points, reverse=True):
        if not kept or old > kept[-1][1]:
            kept.append((new, old))
    return kept[::-1]


def old_at(curve: Curve, new: float) -> float:
    """Old quality at a new one: linear on the front; nan where the new one is not reached."""
    best = front([curve.anchor, *curve.points.values()])
    if new > best[-1][0]:
        return math.nan
    xs, ys = zip(*best, strict=True)
    return float(np.interp(new, xs, ys))


def level_of(full: Curve, share: float) -> float:
    """New quality at a share of full tuning's best gain over the anchor."""
    start = full.anchor[0]
    return start + share * (full.points[full.best][0] - start)


def forgetting_at(curve: Curve, level: float) -> float:
    """Points of old quality lost at a new quality; nan where the curve does not reach it."""
    return curve.anchor[1] - old_at(curve, level)
