"""How far a matrix has moved: size and shape of the change, rotation, new directions, robust z.

Pure arithmetic on arrays and on slabs of two matrices at a time; it knows no report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from frog.numerics.symmetric import add_gram

MAD_TO_STD = 1.4826
"""Standard deviation / median absolute deviation of a normal distribution."""

LEFT_OUT_UNTIL = 100
"""Values up to which a z-score leaves its own value out."""

INTRUDER_TOP = 10
"""New leading directions that are looked at for intruders; Shuttleworth et al. 2024 use 10."""

INTRUDER_COSINE = 0.5
"""Largest |cosine| with any old direction below which a new one is an intruder."""

SMALLEST_DIRECTION = 1e-6
"""Directions of a smaller sigma / sigma_1 are rounding error of the Gram matrix, not directions."""

Slabs = Callable[[int, int], Iterator[np.ndarray]]
"""``blocks(axis, size)`` of a loader: consecutive slabs of rows (axis 0) or columns (axis 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One matrix W' against the W it came from; NaN where a number does not exist.

    ``drift`` = ||W' - W||_F / ||W||_F, ``spectral_share`` = ||W' - W||_2 / ||W' - W||_F (1: the
    change is one direction), ``rotation_left`` and ``rotation_right`` = 1 - ||U_k'^T U_k||_F^2 / k
    of the ``k`` leading directions (0: the same subspace), ``intruders``: how many of the
    leading left singular vectors of W' no old one resembles.
    """

    drift: float
    spectral_share: float
    rotation_left: float
    rotation_right: float
    intruders: float
    k: int


NO_CHANGE = Change(
    drift=0.0, spectral_share=math.nan, rotation_left=0.0, rotation_right=0.0, intruders=0.0, k=0
)
"""The same bytes: nothing moved, and a change of nothing has no shape."""


def robust_z(values: Sequence[float] | np.ndarray, floor: float) -> np.ndarray:
    """How far each value lies from the others, in their own robust spread.

    z_l = (x_l - median_{j != l} x_j) / max(1.4826 * median_{j != l} |x_j - median|, floor)

    The value itself is left out, so that one of two or three can stand out at all (of more than
    100 it is left in: it moves nothing). NaN values get NaN and are nobody's neighbour; so does a
    value without others. Source: Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers,
    section 2 (the modified z-score; leaving out: ours).

    >>> robust_z([0.0, 0.01, -0.01, 0.0, -2.0], floor=0.05).round(1).tolist()
    [0.1, 0.3, -0.2, 0.1, -40.0]
    """
    x = np.asarray(values, dtype=np.float64)
    z = np.full(len(x), np.nan)
    there = np.flatnonzero(np.isfinite(x))
    if len(there) > LEFT_OUT_UNTIL:
        centre, spread = center_and_spread(x[there])
        z[there] = (x[there] - centre) / max(spread, floor)
        return z
    for i in there:
        others = x[there[there != i]]
        if len(others):
            centre, spread = center_and_spread(others)
            z[i] = (x[i] - centre) / max(spread, floor)
    return z


def center_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Median, and 1.4826 * MAD: the standard deviation that outliers do not move.

    >>> center_and_spread(np.array([1.0, 2.0, 3.0, 100.0]))
    (2.5, 1.4826)
    """
    centre = float(np.median(values))
    return centre, MAD_TO_STD * float(np.median(np.abs(values - centre)))


def difference_interval(
    before: tuple[float, float, float], after: tuple[float, float, float]
) -> tuple[float, float]:
    """Interval of (after - before) from the intervals of both, each (value, low, high).

    L = d - sqrt((b - b_low)^2 + (a_high - a)^2), U = d + sqrt((b_high - b)^2 + (a - a_low)^2)
    with d = b - a, a before and b after: exact where both are normal, and not symmetric where
    they are not. Taken as independent: two measurements of nearly equal matrices vary together,
    so the interval is then too wide, never too narrow. NaN in, NaN out. Source: Zou & Donner
    2008, Statistics in Medicine 27(10), eq. 8 to 9 (MOVER).

    >>> low, high = difference_interval((3.0, 2.7, 3.3), (3.5, 3.1, 3.9))
    >>> round(low, 6), round(high, 6)
    (0.0, 1.0)
    """
    a, a_low, a_high = before
    b, b_low, b_high = after
    d = b - a
    # the percentile interval of a bootstrap need not hold the value itself
    below = math.hypot(max(b - b_low, 0.0), max(a_high - a, 0.0))
    above = math.hypot(max(b_high - b, 0.0), max(a - a_low, 0.0))
    if math.isnan(a_low + a_high + b_low + b_high):
        return math.nan, math.nan
    return d - below, d + above


def change(before: Slabs, after: Slabs, shape: tuple[int, int], *, k: int) -> Change:
    """What changed between two matrices of one shape (m, n), read slab by slab.

    ``k`` leading directions are compared, at most min(m, n). Costs four Gram matrices, all
    eigenvectors of one and the leading ones of two. A matrix with NaN or Inf gives NaN
    throughout, a zero matrix NaN for what it has not (a drift from zero, a direction). Source of
    the intruder dimensions: Shuttleworth et al. 2024, arXiv:2410.21228, algorithm 1.

    >>> old = np.diag([4.0, 2.0, 1.0]); new = np.diag([4.0, 2.0, 1.5])
    >>> def slabs(matrix): return lambda axis, size: iter([matrix])
    >>> found = change(slabs(old), slabs(new), (3, 3), k=1)
    >>> round(found.drift, 4), found.spectral_share, found.intruders
    (0.1091, 1.0, 0.0)
    """
    axis = 0 if shape[0] >= shape[1] else 1
    grams = _grams(before, after, shape, axis)
    if grams is None:
        return Change(drift=math.nan, spectral_share=math.nan, rotation_left=math.nan,
                      rotation_right=math.nan, intruders=math.nan, k=0)  # fmt: skip
    old_rr, new_rr, cross_rr, moved_rr = grams
    size, moved = float(np.trace(old_rr)), float(np.trace(moved_rr))
    drift = math.sqrt(moved / size) if size > 0 else math.nan
    share = math.sqrt(_largest(moved_rr) / moved) if moved > 0 else math.nan
    old, new = _directions(old_rr), _directions(new_rr, max(k, INTRUDER_TOP))
    k = min(k, len(old[0]), len(new[0]))
    cosines = _cosines(old, new, cross_rr, max(k, INTRUDER_TOP))
    near = np.abs(old[1].T @ new[1][:, :k])
    # the side whose Gram matrix was formed, and the other one
    same, other = _rotation(near, k), _rotation(np.abs(cosines), k)
    left = np.abs(cosines) if axis == 0 else np.abs(old[1].T @ new[1][:, :INTRUDER_TOP])
    return Change(
        drift=drift,
        spectral_share=share,
        rotation_left=other if axis == 0 else same,
        rotation_right=same if axis == 0 else other,
        intruders=_intruders(left[:, :INTRUDER_TOP]) if k else math.nan,
        k=k,
    )


def _grams(
    before: Slabs, after: Slabs, shape: tuple[int, int], axis: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """W^T W, W'^T W', W^T W' and (W' - W)^T (W' - W) on the smaller side; None if not finite.

    The Gram matrix of the difference is summed by itself: small changes vanish in a difference
    of Gram matrices.
    """
    r = min(shape)
    old_rr, new_rr, cross_rr, moved_rr = (np.zeros((r, r)) for _ in range(4))
    size = max(r // 4, (1 << 18) // max(r, 1), 1)
    with np.errstate(all="ignore"):
        for old_slab, new_slab in zip(before(axis, size), after(axis, size), strict=True):
            old = np.ascontiguousarray(old_slab, dtype=np.float64)
            new = np.ascontiguousarray(new_slab, dtype=np.float64)
            add_gram(old_rr, old, axis)
            add_gram(new_rr, new, axis)
            cross_rr += old.T @ new if axis == 0 else old @ new.T
            add_gram(moved_rr, new - old, axis)
        if not np.isfinite(np.trace(old_rr) + np.trace(new_rr)):
            return None
    return old_rr, new_rr, cross_rr, moved_rr


def _largest(gram_rr: np.ndarray) -> float:
    """Largest eigenvalue of the symmetric matrix in the lower triangle."""
    import scipy.linalg

    last = len(gram_rr) - 1
    return float(scipy.linalg.eigh(gram_rr, eigvals_only=True, subset_by_index=[last, last])[0])


def _directions(gram_rr: np.ndarray, top: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Singular values, descending, and their directions as columns, those of rounding left out.

    All of them, or the ``top`` largest.
    """
    import scipy.linalg

    r = len(gram_rr)
    wanted = None if top is None or top >= r else [r - top, r - 1]
    squares, vectors = scipy.linalg.eigh(gram_rr, subset_by_index=wanted)
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    kept = int((values > values[0] * SMALLEST_DIRECTION).sum()) if values[0] > 0 else 0
    return values[:kept], vectors[:, ::-1][:, :kept]


def _cosines(
    old: tuple[np.ndarray, np.ndarray],
    new: tuple[np.ndarray, np.ndarray],
    cross_rr: np.ndarray,
    top: int,
) -> np.ndarray:
    """Cosines of all old with the ``top`` new directions of the *other* side.

    Those directions are W v / sigma, so the cosines are v^T (W^T W') v' / (sigma sigma'): the
    long side is never formed.
    """
    (old_values, old_vectors), (new_values, new_vectors) = old, new
    picked = new_vectors[:, :top] / new_values[:top]
    return (old_vectors / old_values).T @ (cross_rr @ picked)


def _rotation(cosines: np.ndarray, k: int) -> float:
    """1 - ||U_k^T U_k'||_F^2 / k, from the cosines of old rows with new columns."""
    if k == 0:
        return math.nan
    return float(min(max(1.0 - np.square(cosines[:k, :k]).sum() / k, 0.0), 1.0))


def _intruders(cosines: np.ndarray) -> float:
    return float((cosines.max(axis=0) < INTRUDER_COSINE).sum()) if cosines.size else math.nan
