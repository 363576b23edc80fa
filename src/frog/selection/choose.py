"""From scores to chosen units: one matrix by its own count, or all under one threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from frog.numerics.scored import Made, Scored, slabs
from frog.numerics.topk import cell_of, coarse_counts, fine_counts, top_k
from frog.numerics.units import unit_count, unit_sizes
from frog.selection.guard import NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """What is chosen as a whole: ``granularity`` of :data:`frog.types.GRANULARITIES`."""

    granularity: str = "element"
    size: tuple[int, int] = (1, 1)


def choose(scores: Scored, count: int, units: Units) -> np.ndarray:
    """Numbers of the highest scored units, ascending, that hold at most ``count`` weights.

    The score of a unit is the mean over its weights, dead ones counted as 0; a unit that is dead
    throughout is never chosen. Where the next unit would exceed the count, smaller ones that
    still fit are not looked for: the highest stay the highest.

    >>> from frog.numerics.scored import Dense
    >>> choose(Dense(np.array([[1.0, 9.0], [5.0, 2.0]])), 2, Units(granularity="row")).tolist()
    [0]
    """
    if units.granularity == "element":
        return top_k(scores, count)
    means = unit_scores(scores, units)
    order = np.argsort(-means, kind="stable")
    order = order[means[order] > NEVER]
    filled = np.cumsum(unit_sizes(order, scores.shape, units.granularity, units.size))
    return np.sort(order[filled <= count])


def unit_scores(scores: Scored, units: Units) -> np.ndarray:
    """Mean score of every unit, float64 (u,); -inf for one that is dead throughout."""
    m, n = scores.shape
    total = np.zeros(unit_count(scores.shape, units.granularity, units.size))
    alive = np.zeros(len(total), dtype=np.int64)
    tall, wide = units.size
    for start, slab in slabs(scores):
        live = slab > NEVER
        slab[~live] = 0.0
        stop = start + len(slab)
        if units.granularity == "row":
            total[start:stop], alive[start:stop] = slab.sum(1, dtype=np.float64), live.sum(1)
        elif units.granularity == "column":
            total += slab.sum(0, dtype=np.float64)
            alive += live.sum(0)
        else:
            across = -(-n // wide)
            starts = np.arange(0, n, wide)
            sums = np.add.reduceat(slab, starts, axis=1, dtype=np.float64)
            lives = np.add.reduceat(live.astype(np.int64), starts, axis=1)
            place = (np.arange(start, stop) // tall)[:, None] * across + np.arange(across)
            np.add.at(total, place, sums)
            np.add.at(alive, place, lives)
    sizes = unit_sizes(np.arange(len(total)), (m, n), units.granularity, units.size)
    return np.where(alive > 0, total / sizes, NEVER)


def normalised(scores: Scored, weight: float = 1.0) -> Scored:
    """Scores over their mean, times ``weight``: comparable between matrices of any scale.

    Dead entries and infinite ones are left out of the mean.
    """
    total, count = 0.0, 0
    for _, slab in slabs(scores):
        finite = slab[np.isfinite(slab)]
        total, count = total + float(finite.sum(dtype=np.float64)), count + finite.size
    scale = np.float32(weight * (count / total if total > 0 else 1.0))
    return Made(scores.shape, lambda start, stop: scores.slab(start, stop) * scale)


def settle(
    maps: Mapping[str, Scored], total: int, floor: Mapping[str, int], cap: Mapping[str, int]
) -> dict[str, int]:
    """How many of the ``total`` highest scores lie in each map.

    The sum is exact, or as many as there are entries that may be chosen.

    One threshold over all maps, each within its floor and cap (in weights): where a bound binds,
    that map is fixed and the threshold of the others moves until all is given out. Ties at the
    threshold go to the maps in order. Scores must not be negative. Each map is read twice, and
    again for every bound that binds; no two are in memory at once.
    """
    coarse = {name: coarse_counts(scores) for name, scores in maps.items()}
    fixed: dict[str, int] = {}
    while True:
        free = {name: maps[name] for name in maps if name not in fixed}
        given = _shares(free, coarse, max(0, total - sum(fixed.values())))
        room = {name: int(coarse[name].sum(dtype=np.int64)) for name in free}
        low = {
            name: min(floor[name], room[name])
            for name in free
            if given[name] < min(floor[name], room[name])
        }
        high = {name: cap[name] for name in free if given[name] > cap[name]}
        if not low and not high:
            return {name: (fixed | given)[name] for name in maps}
        # as in water-filling: the side with the larger excess is fixed first
        short = sum(low[name] - given[name] for name in low)
        long = sum(given[name] - high[name] for name in high)
        fixed |= low if short > long else high


def _shares(maps: Mapping[str, Scored], coarse: Mapping[str, np.ndarray], k: int) -> dict[str, int]:
    """How many of the k highest scores lie in each map, ties in order of the maps."""
    if not maps or k <= 0:
        return dict.fromkeys(maps, 0)
    k = min(k, sum(int(coarse[name].sum(dtype=np.int64)) for name in maps))
    if not k:
        return dict.fromkeys(maps, 0)
    cell, sure = cell_of(_together([coarse[name] for name in maps]), k)
    fine = {
        name: fine_counts(scores, cell) if coarse[name][cell] else np.zeros(1, dtype=np.int32)
        for name, scores in maps.items()
    }
    inner, more = cell_of(_together([x for x in fine.values() if len(x) > 1]), k - sure)
    left = k - sure - more
    shares = {}
    for name, counts in fine.items():
        ties = int(counts[inner]) if len(counts) > 1 else 0
        taken = min(ties, max(0, left))
        left -= taken
        above = int(coarse[name][cell + 1 :].sum()) + int(counts[inner + 1 :].sum())
        shares[name] = above + taken
    return shares


def _together(histograms: list[np.ndarray]) -> np.ndarray:
    """Their sum, int64."""
    whole = np.zeros(len(histograms[0]), dtype=np.int64)
    for counts in histograms:
        whole += counts
    return whole
