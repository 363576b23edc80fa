"""The exact dynamic programme over measured curves.

A state is (size, cost) of the rows so far. States that another beats in both are dropped, as are
those that cannot beat the greedy solution even at the Lagrangian bound of the rows to come. Sizes
stay exact, and the table has no cell for a size that cannot occur (the published one has a cell
for every weight).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frog.allocation.levels.choices import Choices, choices, lagrangian, raised
from frog.allocation.levels.registry import allocator
from frog.errors import UsageError
from frog.types.levels import Allocation, Curve

MOST_STATES = 2_000_000
"""Of one row; beyond it the curves are of a kind for which ``integer`` is quicker."""


@allocator("dynamic", words="least damage, by dynamic programme",
           source="layer-adaptive pruning by rate-distortion curves (RD_VIT_PRUNE)",
           needs="curves")  # fmt: skip
def dynamic(curves: Sequence[Curve], *, budget: int) -> Allocation:
    """The levels of least total damage whose sizes sum to at most ``budget``; ties, pins kept.

    >>> from frog.types.levels import Unit
    >>> one = Curve(unit=Unit(name="a", params=2), levels=(2, 4), costs=(5.0, 1.0), sizes=(4, 8))
    >>> two = Curve(unit=Unit(name="b", params=3), levels=(2, 4), costs=(9.0, 2.0), sizes=(6, 12))
    >>> best = dynamic([one, two], budget=16)
    >>> best.levels, best.size, best.cost
    ((2, 4), 16, 7.0)
    """
    found = choices(curves, budget)
    start, price = lagrangian(found, budget)
    start = raised(found, start, budget)
    taken = _best(found, budget, start, price)
    return found.allocation(raised(found, taken, budget))


def _best(found: Choices, budget: int, start: np.ndarray, price: float) -> np.ndarray:
    exists = found.exists_gk
    rows = len(start)
    priced = np.where(exists, found.cost_gk + price * found.size_gk, np.inf).min(axis=1)
    smallest = found.smallest_g
    limit = found.cost(start)
    # rounding of the sums must not drop the optimum
    scale = float(np.abs(np.where(exists, found.cost_gk, 0.0)).max(axis=1).sum()) + price * budget
    slack = 1e-12 * scale
    size, cost = np.zeros(1, dtype=np.int64), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    order = np.argsort(-found.size_gk.max(axis=1), kind="stable")  # the coarse choices first
    to_come_price, to_come_size = float(priced.sum()), int(smallest.sum())
    for g in order:
        to_come_price -= float(priced[g])
        to_come_size -= int(smallest[g])
        levels = np.flatnonzero(exists[g])
        new_size = (size[:, None] + found.size_gk[g, levels]).ravel()
        new_cost = (cost[:, None] + found.cost_gk[g, levels]).ravel()
        bound = new_cost + to_come_price - price * (budget - new_size)
        able = np.flatnonzero((new_size + to_come_size <= budget) & (bound <= limit + slack))
        able = able[np.lexsort((new_cost[able], new_size[able]))]
        least = np.minimum.accumulate(new_cost[able])
        better = np.ones(len(able), dtype=bool)
        better[1:] = new_cost[able][1:] < least[:-1]
        kept = able[better]
        if len(kept) > MOST_STATES:
            raise UsageError(
                f"the dynamic programme must stay within {MOST_STATES:,} states, got "
                f"{len(kept):,}: use the allocator 'integer'"
            )
        size, cost = new_size[kept], new_cost[kept]
        trail.append((kept // len(levels), levels[kept % len(levels)]))
    taken, at = np.zeros(rows, dtype=np.int64), int(cost.argmin())
    for g, (parent, level) in zip(order[::-1], reversed(trail), strict=True):
        taken[g], at = level[at], int(parent[at])
    return taken
