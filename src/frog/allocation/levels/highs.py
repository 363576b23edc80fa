"""The choice of levels as an integer programme, solved by HiGHS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from frog.allocation.levels.choices import Choices, choices, raised
from frog.allocation.levels.registry import allocator
from frog.errors import FrogError
from frog.types.levels import Allocation, Curve

COST_RANGE = 1e4
"""The largest damage in the solver's units, whose absolute gap is 1e-6."""
TRIES = 50


@allocator("integer", words="least damage, by integer programme",
           source="Hubara et al. 2021, AdaQuant and integer programming, ICML, arXiv:2006.10518",
           needs="curves")  # fmt: skip
def integer(curves: Sequence[Curve], *, budget: int) -> Allocation:
    """The levels of least total damage whose sizes sum to at most ``budget``; ties, pins kept.

    Optimal to 1e-10 of the largest spread of damage within one choice.

    >>> from frog.types.levels import Unit
    >>> one = Curve(unit=Unit(name="a", params=2), levels=(2, 4), costs=(5.0, 1.0), sizes=(4, 8))
    >>> two = Curve(unit=Unit(name="b", params=3), levels=(2, 4), costs=(9.0, 2.0), sizes=(6, 12))
    >>> integer([one, two], budget=16).levels
    (2, 4)
    """
    found = choices(curves, budget)
    return found.allocation(raised(found, _solve(found, budget), budget))


def _solve(found: Choices, budget: int) -> np.ndarray:
    g, k = np.nonzero(found.exists_gk)
    # costs and sizes above the smallest of their row: small numbers keep the solver exact
    cost = found.cost_gk[g, k] - found.cost_gk.min(axis=1)[g]
    smallest = found.smallest_g
    size = found.size_gk[g, k] - smallest[g]
    room = budget - int(smallest.sum())
    unit = max(int(np.gcd.reduce(size)), 1)
    rows = len(found.levels)
    one = csr_array((np.ones(len(g)), (g, np.arange(len(g)))), shape=(rows, len(g)))
    rules = [
        LinearConstraint(one, 1, 1),
        LinearConstraint((size // unit)[None, :].astype(np.float64), -np.inf, room // unit),
    ]
    worth = cost / (float(cost.max()) or 1.0) * COST_RANGE
    for _ in range(TRIES):
        result = milp(
            worth,
            integrality=np.ones(len(g)),
            bounds=Bounds(0, 1),
            constraints=rules,
            options={"mip_rel_gap": 0.0},
        )
        if result.x is None:
            raise FrogError(f"HiGHS found no solution of a feasible problem: {result.message}")
        chosen = np.flatnonzero(result.x > 0.5)
        if len(chosen) == rows and int(size[chosen].sum()) <= room:
            return k[chosen]
        # within the solver's tolerance, but not within the budget: this very choice is cut off
        cut = np.zeros((1, len(g)))
        cut[0, chosen] = 1.0
        rules.append(LinearConstraint(cut, -np.inf, len(chosen) - 1))
    raise FrogError(f"HiGHS kept exceeding the budget of {budget:,} in {TRIES} tries")
