"""Curves with ties and pins turned into independent choices, and what all allocators do with them.

Shape letters: G choices, K levels of the choice that has most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from frog.errors import UsageError
from frog.types.levels import Allocation, Curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Exactly one level is taken in each row.

    ``cost_gk`` is infinite and ``size_gk`` 0 where a row has no such level; ``levels`` holds the
    levels of each row, ``row`` the row of each unit.
    """

    cost_gk: np.ndarray
    size_gk: np.ndarray
    levels: list[list[float]]
    row: list[int]
    curves: Sequence[Curve]

    @property
    def exists_gk(self) -> np.ndarray:
        """Where a row has a level."""
        return np.isfinite(self.cost_gk)

    @property
    def smallest_g(self) -> np.ndarray:
        """Size of the smallest level of each row."""
        return np.where(self.exists_gk, self.size_gk, np.iinfo(np.int64).max).min(axis=1)

    def size(self, taken: np.ndarray) -> int:
        """Exact size of the levels ``taken`` (G,)."""
        return int(self.size_gk[np.arange(len(taken)), taken].sum())

    def cost(self, taken: np.ndarray) -> float:
        """Damage of the levels ``taken`` (G,)."""
        return math.fsum(self.cost_gk[np.arange(len(taken)), taken])

    def allocation(self, taken: np.ndarray) -> Allocation:
        """The levels ``taken`` (G,) unit by unit."""
        levels = [self.levels[row][int(taken[row])] for row in self.row]
        places = [c.levels.index(x) for c, x in zip(self.curves, levels, strict=True)]
        sizes = [c.sizes[k] for c, k in zip(self.curves, places, strict=True)]
        costs = [c.costs[k] for c, k in zip(self.curves, places, strict=True)]
        return Allocation(levels=tuple(levels), sizes=tuple(sizes), cost=math.fsum(costs))


def choices(curves: Sequence[Curve], budget: int) -> Choices:
    """One row per tie or untied unit: costs and sizes summed over it, at the levels all have."""
    if not curves:
        raise UsageError("there must be at least one curve, got none")
    for curve in curves:
        _check(curve)
    keys = [curve.unit.tied for curve in curves]
    rows = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    members: list[list[Curve]] = [[] for _ in rows]
    for key, curve in zip(keys, curves, strict=True):
        members[rows[key]].append(curve)
    levels = [_common(group) for group in members]
    shape = (len(rows), max(len(each) for each in levels))
    cost_gk, size_gk = np.full(shape, np.inf), np.zeros(shape, dtype=np.int64)
    for g, group in enumerate(members):
        for k, level in enumerate(levels[g]):
            places = [curve.levels.index(level) for curve in group]
            cost_gk[g, k] = math.fsum(c.costs[p] for c, p in zip(group, places, strict=True))
            size_gk[g, k] = sum(c.sizes[p] for c, p in zip(group, places, strict=True))
    found = Choices(
        cost_gk=cost_gk,
        size_gk=size_gk,
        levels=levels,
        row=[rows[key] for key in keys],
        curves=curves,
    )
    least = int(found.smallest_g.sum())
    if budget < least:
        most = int(size_gk.max(axis=1).sum())
        raise UsageError(
            f"the budget must lie between {least:,} (every unit at its smallest level) and "
            f"{most:,} (every unit at its largest), got {budget:,}: raise it, or add lower levels"
        )
    return found


def lagrangian(found: Choices, budget: int) -> tuple[np.ndarray, float]:
    """Levels (G,) that minimise cost + price * size, at the lowest price that keeps the budget."""
    exists = found.exists_gk

    def at(price: float) -> np.ndarray:
        priced = np.where(exists, found.cost_gk + price * found.size_gk, np.inf)
        equal = priced <= priced.min(axis=1, keepdims=True)
        # of equal priced cost the smaller: a high price then always ends within the budget
        return np.where(equal, found.size_gk, np.iinfo(np.int64).max).argmin(axis=1)

    if found.size(at(0.0)) <= budget:
        return at(0.0), 0.0
    spread = np.where(exists, found.cost_gk, -np.inf).max() - found.cost_gk.min()
    low, high = 0.0, float(spread)
    while found.size(at(high)) > budget:
        high *= 2.0
    while low < (middle := 0.5 * (low + high)) < high and high - low > 1e-13 * high:
        low, high = (middle, high) if found.size(at(middle)) > budget else (low, middle)
    return at(high), high


def raised(found: Choices, taken: np.ndarray, budget: int) -> np.ndarray:
    """``taken`` (G,) with what is left spent on larger levels, by least damage per size.

    A raise that adds damage is never made; one that changes none is, so no budget is left idle.
    """
    taken, every = taken.copy(), np.arange(len(taken))
    left = budget - found.size(taken)
    while True:
        more = found.size_gk - found.size_gk[every, taken][:, None]
        gain = found.cost_gk[every, taken][:, None] - found.cost_gk
        able = found.exists_gk & (more > 0) & (more <= left) & (gain >= 0)
        if not able.any():
            return taken
        ratio = np.where(able, gain / np.maximum(more, 1), -1.0)
        g, k = np.unravel_index(int(ratio.argmax()), ratio.shape)
        left -= int(more[g, k])
        taken[g] = k


def _common(group: Sequence[Curve]) -> list[float]:
    """The levels that all curves of a tie have, a pin among them alone."""
    names = ", ".join(f"'{curve.unit.name}'" for curve in group)
    kept = [x for x in group[0].levels if all(x in curve.levels for curve in group)]
    if not kept:
        raise UsageError(f"tied units must have a level in common, {names} have none: untie them")
    pins = {curve.unit.pin for curve in group} - {None}
    if not pins:
        return kept
    if len(pins) > 1 or not pins <= set(kept):
        raise UsageError(
            f"a pin must be one of the levels of {names}, {kept}, and the same for all that are "
            f"tied, got {sorted(x for x in pins if x is not None)}"
        )
    return [x for x in kept if x in pins]


def _check(curve: Curve) -> None:
    name, lengths = curve.unit.name, {len(curve.levels), len(curve.costs), len(curve.sizes)}
    if len(lengths) > 1 or lengths == {0} or len(set(curve.levels)) < len(curve.levels):
        raise UsageError(
            f"the curve of '{name}' must have distinct levels, at least one, and a cost and a size "
            f"for each, got {len(curve.levels)}, {len(curve.costs)} and {len(curve.sizes)}"
        )
    if not np.isfinite(curve.costs).all() or min(curve.sizes) < 0:
        raise UsageError(
            f"the curve of '{name}' must have finite costs and sizes of 0 or more: "
            "leave out a level that cannot be"
        )
