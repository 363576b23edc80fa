"""From scores to chosen units: one matrix by its own count, or all under one threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


ELEMENTS = Units()


def choose(scores: Scored, count: int, units: Units, sizes: np.ndarray | None = None) -> np.ndarray:
    """Numbers of the highest scored units, ascending, that hold at most ``count`` weights.

    ``sizes`` (u,) are the weights of every unit that count, where not all of them do.

    The score of a unit is the mean over its weights, dead ones counted as 0; a unit that is dead
    throughout is never chosen. Where the next unit would exceed the count, smaller ones that
    still fit are not looked for: the highest stay the highest.

    >>> from frog.numerics.scored import Dense
    >>> choose(Dense(np.array([[1.0, 9.0], [5.0, 2.0]])), 2, Units(granularity="row")).tolist()
    [0]
    """
    if units.granularity == "element":
        return top_k(scores, count)
    order = _descending(unit_scores(scores, units, sizes))
    filled = np.cumsum(_sizes(scores, units, sizes)[order])
    return np.sort(order[filled <= count])


def _descending(means: np.ndarray) -> np.ndarray:
    """Numbers of the living units from the highest down, ties in order."""
    order = np.argsort(-means, kind="stable")
    return order[means[order] > NEVER]


def _sizes(scores: Scored, units: Units, sizes: np.ndarray | None) -> np.ndarray:
    """The weights of every unit, int64 (u,): ``sizes`` where they are given."""
    if sizes is not None:
        return sizes
    count = unit_count(scores.shape, units.granularity, units.size)
    return unit_sizes(np.arange(count), scores.shape, units.granularity, units.size)


def unit_scores(scores: Scored, units: Units, sizes: np.ndarray | None = None) -> np.ndarray:
    """Mean score of every unit, float64 (u,); -inf for one that is dead throughout."""
    n = scores.shape[1]
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
    living = alive > 0
    return np.where(living, total / np.where(living, _sizes(scores, units, sizes), 1), NEVER)


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
    maps: Mapping[str, Scored],
    total: int,
    floor: Mapping[str, int],
    cap: Mapping[str, int],
    units: Units = ELEMENTS,
    sizes: Mapping[str, np.ndarray] | None = None,
) -> dict[str, int]:
    """How many of the ``total`` weights go to each map when the highest scores win.

    The sum is exact, or as many as there are entries that may be chosen. Of rows, columns and
    blocks whole ones are given out, by their mean score, as many as fit: the sum then lies less
    than the next unit below ``total``, and floors and caps are those of whole units below them.

    One threshold over all maps, each within its floor and cap (in weights): where a bound binds,
    that map is fixed and the threshold of the others moves until all is given out. Ties at the
    threshold go to the maps in order. Scores must not be negative. Each map is read twice, and
    again for every bound that binds, for units once; no two are in memory at once (of units their
    sorted means are, 4 bytes each). ``sizes`` are those of :func:`choose`, by map.
    """
    if units.granularity != "element":
        known = sizes or {}
        ladders = {name: Ladder.of(x, units, known.get(name)) for name, x in maps.items()}
        return _within_bounds(
            list(maps),
            total,
            {name: ladder.below(floor[name]) for name, ladder in ladders.items()},
            {name: ladder.below(cap[name]) for name, ladder in ladders.items()},
            {name: ladder.held(len(ladder.means)) for name, ladder in ladders.items()},
            lambda free, k: _unit_shares({name: ladders[name] for name in free}, k),
        )
    coarse = {name: coarse_counts(scores) for name, scores in maps.items()}
    return _within_bounds(
        list(maps),
        total,
        floor,
        cap,
        {name: int(counts.sum(dtype=np.int64)) for name, counts in coarse.items()},
        lambda free, k: _shares({name: maps[name] for name in free}, coarse, k),
    )


def _within_bounds(
    names: Sequence[str],
    total: int,
    floor: Mapping[str, int],
    cap: Mapping[str, int],
    room: Mapping[str, int],
    shares: Callable[[Sequence[str], int], dict[str, int]],
) -> dict[str, int]:
    """``shares(names, k)`` under one threshold, again without the maps whose bound binds."""
    fixed: dict[str, int] = {}
    while True:
        free = [name for name in names if name not in fixed]
        given = shares(free, max(0, total - sum(fixed.values())))
        low = {
            name: min(floor[name], room[name])
            for name in free
            if given[name] < min(floor[name], room[name])
        }
        high = {name: cap[name] for name in free if given[name] > cap[name]}
        if not low and not high:
            return {name: (fixed | given)[name] for name in names}
        # as in water-filling: the side with the larger excess is fixed first
        short = sum(low[name] - given[name] for name in low)
        long = sum(given[name] - high[name] for name in high)
        fixed |= low if short > long else high


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """The living units of one map from the highest down: ``means`` float32 (u,) descending, and
    the number of weights in each (one number where all are alike)."""

    means: np.ndarray
    sizes: np.ndarray | int

    @staticmethod
    def of(scores: Scored, units: Units, counted: np.ndarray | None = None) -> Ladder:
        """The ladder of a map; ties in order of the units."""
        means = unit_scores(scores, units, counted)
        order = _descending(means)
        sizes = _sizes(scores, units, counted)[order]
        alike = len(sizes) > 0 and bool((sizes == sizes[0]).all())
        return Ladder(means[order].astype(np.float32), int(sizes[0]) if alike else np.cumsum(sizes))

    def held(self, count: int) -> int:
        """Weights in the ``count`` highest units."""
        if isinstance(self.sizes, int):
            return count * self.sizes
        return int(self.sizes[count - 1]) if count else 0

    def fitting(self, weights: int) -> int:
        """How many of the highest units hold at most so many weights."""
        if isinstance(self.sizes, int):
            return min(len(self.means), weights // self.sizes)
        return int(np.searchsorted(self.sizes, weights, side="right"))

    def below(self, weights: int) -> int:
        """The most that whole units hold without exceeding ``weights``."""
        return self.held(self.fitting(weights))

    def from_bits(self, bits: int) -> int:
        """How many units have a mean of at least the float32 of these bits."""
        least = np.array([bits], dtype=np.uint32).view(np.float32)[0]
        return len(self.means) - int(np.searchsorted(self.means[::-1], least, side="left"))


INFINITE = 0x7F800000
"""Bits of float32 infinity: from 0 to here the bits are in the order of the numbers."""


def _unit_shares(ladders: Mapping[str, Ladder], k: int) -> dict[str, int]:
    """Weights in the highest units of every map that together hold at most k, by bisection."""

    def counts(bits: int) -> dict[str, int]:
        return {name: ladder.from_bits(bits) for name, ladder in ladders.items()}

    def held(found: Mapping[str, int]) -> int:
        return sum(ladders[name].held(count) for name, count in found.items())

    low, high = 0, INFINITE + 1  # the smallest bits from which on everything fits
    while low < high:
        middle = (low + high) // 2
        if held(counts(middle)) <= k:
            high = middle
        else:
            low = middle + 1
    found = counts(low) if low <= INFINITE else dict.fromkeys(ladders, 0)
    left = k - held(found)
    ties = counts(low - 1) if low else found
    for name, ladder in ladders.items():
        taken = found[name]
        fits = min(ties[name], ladder.fitting(ladder.held(taken) + left))
        left -= ladder.held(fits) - ladder.held(taken)
        found[name] = fits
        if fits < ties[name]:
            break  # the next unit does not fit: smaller ones are not looked for
    return {name: ladders[name].held(count) for name, count in found.items()}


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
