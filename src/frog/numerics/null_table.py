"""The packaged table of what random matrices look like, and how it is read.

For i.i.d. entries the table holds, for every r = min(m, n) and Q = max(m, n) / r of a grid, the
quantiles of two kinds of number, each *standardised* so that it hardly depends on the shape:

    top_trace   (lambda_max / v - mu) / s,   v = sum_k lambda_k / (m n)
    top_bulk    (lambda_max / v - mu) / s,   v = bulk variance from the median eigenvalue
    ks, hill   ln((alpha - 1) s / mu)   of the fit with that estimator

mu and s are centre and width of the largest eigenvalue of a random matrix of unit variance; the
first two therefore follow the Tracy-Widom law of order 1 for large r. Between grid points the
quantiles are interpolated linearly in ln r and Q^(-1/2), which ends at 0 for any length; between
levels and beyond them linearly in the normal score of the level. Beyond the largest r the law of
the largest eigenvalue is at its limit; the median of ln((alpha - 1) s / mu) is continued with its
last slope, with the last spread. The grid has even r; odd r shifts ``hill`` (its tail starts at
index floor(r / 2)) by a known amount over r. The spread of ``hill`` shrinks with r below what
interpolation can follow: there the table is wider than the null.

A second, smaller table (``tools/make_window_null.py``) is for pooled windows:
:func:`pooled_null_of`.

The truncated power law (``tpl``) has no null: on nearly all random matrices its fit has no optimum.
The table is made by ``tools/make_null_table.py``; :func:`facts` tells how.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import numpy as np

EDGE_STATISTICS = ("top_trace", "top_bulk")
SQRT2 = math.sqrt(2.0)


@dataclass(frozen=True, slots=True)
class Null:
    """The null distribution of one number for one shape: its quantiles by normal score.

    >>> null = Null((-1.0, 0.0, 1.0), (2.0, 3.0, 4.0))
    >>> null.quantile(0.5), null.percentile(3.0)
    (3.0, 50.0)
    """

    scores: tuple[float, ...]
    values: tuple[float, ...]

    def quantile(self, p: float) -> float:
        """The value below which a share p of random matrices lies."""
        return _line(normal_score(p), self.scores, self.values)

    def percentile(self, value: float) -> float:
        """Place of a value among random matrices, 0..100, increasing in the value."""
        return 50.0 * math.erfc(-_line(value, self.values, self.scores) / SQRT2)


@lru_cache(maxsize=4096)
def null_of(statistic: str, small: int, large: int) -> Null | None:
    """The null of a standardised statistic for matrices with r = ``small``, max(m, n) = ``large``.

    None where the statistic is not in the table or r lies below its grid.

    >>> null = null_of("top_trace", 384, 1536)
    >>> -1.4 < null.quantile(0.5) < -1.1         # Tracy-Widom of order 1: -1.27
    True
    """
    table = _table()
    if statistic not in table or small < table[f"r_{statistic}"][0]:
        return None
    grid = table[f"r_{statistic}"]
    values_qrl = table[statistic]
    x = math.log(small)
    rows, weight = _bracket(np.log(grid), min(x, math.log(grid[-1])))
    over_r = (1 - weight) * values_qrl[:, rows] + weight * values_qrl[:, rows + 1]
    columns, weight = _bracket(table["q_root"], math.sqrt(small / large))
    values = (1 - weight) * over_r[columns] + weight * over_r[columns + 1]
    if small > grid[-1] and statistic not in EDGE_STATISTICS:
        middle = len(values) // 2
        last = values_qrl[:, -2:, middle]
        slopes = (last[:, 1] - last[:, 0]) / math.log(grid[-1] / grid[-2])
        slope = (1 - weight) * slopes[columns] + weight * slopes[columns + 1]
        values = values + slope * (x - math.log(grid[-1]))
    if statistic == "hill" and small % 2:
        odd = table["hill_odd"]
        values = values + ((1 - weight) * odd[columns] + weight * odd[columns + 1]) / small
    return Null(tuple(table["scores"].tolist()), tuple(values.tolist()))


@lru_cache(maxsize=4096)
def pooled_null_of(estimator: str, shape: tuple[int, int], windows: float) -> Null | None:
    """The null of ln((alpha - 1) s / mu) for the pooled eigenvalues of disjoint windows.

    ``shape`` is that of one window, ``windows`` their number, which need be no whole one. Three
    numbers a cell, the median and a spread on either side, are interpolated linearly in ln r,
    ln K and Q^(-1/2); beyond the largest r the median goes on with its last slope, beyond the
    largest K it stays. One window is a whole matrix, with a coarser null than :func:`null_of`,
    but from r = 12 on. None where the estimator has no null or r is smaller.

    >>> null = pooled_null_of("hill", (384, 384), 3.7)
    >>> null.quantile(0.1) < null.quantile(0.5) < null.quantile(0.9)
    True
    """
    table, small = _windows(), min(shape)
    if estimator not in ("ks", "hill") or small < table["sides"][0]:
        return None
    found = table[estimator]
    column, weight = _bracket(table["roots"], math.sqrt(small / max(shape)))
    found = (1 - weight) * found[column] + weight * found[column + 1]
    sides = np.log(table["sides"])
    row, weight = _bracket(sides, math.log(small))
    slope = (found[-1, :, 0] - found[-2, :, 0]) / (sides[-1] - sides[-2])
    found = (1 - weight) * found[row] + weight * found[row + 1]
    found[:, 0] += slope * max(0.0, math.log(small) - float(sides[-1]))
    pool, weight = _bracket(np.log(table["pools"]), math.log(max(windows, 1.0)))
    middle, down, up = ((1 - weight) * found[pool] + weight * found[pool + 1]).tolist()
    return Null((-1.0, 0.0, 1.0), (middle - down, middle, middle + up))


def beyond_table(statistic: str, shape: tuple[int, int]) -> bool:
    """Whether the null of this shape is an extrapolation: r above the table's grid.

    >>> beyond_table("ks", (384, 1536)), beyond_table("ks", (10**6, 10**6))
    (False, True)
    """
    if statistic in EDGE_STATISTICS:
        return False
    return min(shape) > int(_table()["r_ks"][-1])


def facts() -> dict[str, Any]:
    """How the table was made: seed, number of draws, settings of the estimators.

    >>> facts()["min_tail"] >= 2
    True
    """
    return json.loads(str(_table()["facts"]))


@lru_cache(maxsize=64)
def normal_score(p: float) -> float:
    """The z with a share p of the standard normal distribution below it.

    >>> round(normal_score(0.975), 4)
    1.96
    """
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


@cache
def _table() -> dict[str, np.ndarray]:
    return _packed("null_table.npz")


@cache
def _windows() -> dict[str, np.ndarray]:
    return _packed("null_windows.npz")


def _packed(name: str) -> dict[str, np.ndarray]:
    source = resources.files("frog.numerics").joinpath(name)
    with source.open("rb") as file, np.load(file, allow_pickle=False) as packed:
        table = {name: packed[name] for name in packed.files}
    for name, array in table.items():
        if array.dtype == np.float32:
            table[name] = array.astype(np.float64)
    return table


def _bracket(grid: np.ndarray, x: float) -> tuple[int, float]:
    """Index i and weight w with x = (1 - w) grid[i] + w grid[i + 1]; x is clipped to the grid."""
    x = min(max(x, float(grid[0])), float(grid[-1]))
    i = int(np.clip(np.searchsorted(grid, x) - 1, 0, len(grid) - 2))
    return i, (x - float(grid[i])) / float(grid[i + 1] - grid[i])


def _line(x: float, xs: tuple[float, ...], ys: tuple[float, ...]) -> float:
    """Piecewise linear through (xs, ys), its end pieces continued."""
    i = min(max(bisect_left(xs, x) - 1, 0), len(xs) - 2)
    slope = (ys[i + 1] - ys[i]) / (xs[i + 1] - xs[i])
    return ys[i] + slope * (x - xs[i])
