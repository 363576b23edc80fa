"""The Marchenko-Pastur law fitted to the bulk of a spectrum: its variance, its edges, its spikes.

Letters as in :mod:`frog.numerics.random_matrix`: m x n, r = min(m, n), N = max(m, n), eigenvalues
lambda_1 >= ... >= lambda_r of W^T W (no 1/N), v the variance of the entries of the random part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from frog.numerics.null_table import null_of
from frog.numerics.random_matrix import (
    LEVEL,
    LOOKS,
    edge_law,
    marchenko_pastur_edges,
    marchenko_pastur_median,
)
from frog.types import NAN

FEWEST = 8
"""Eigenvalues that a bulk needs: as the edge in :mod:`frog.numerics.random_matrix`."""

BULK = 0.5
"""Share of the eigenvalues that the bulk holds at least: what is less is no bulk of the matrix."""

STEPS = 32  # variances that are tried before the best of them is refined
TOLERANCE = 1e-8  # of ln v
ROUNDING = 1e-12  # so that a value at the limit is on one side of it at every scale
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkFit:
    """The Marchenko-Pastur law nearest to the bulk; NaN throughout where there is none.

    ``variance`` is v, ``low`` and ``high`` are v (sqrt N -+ sqrt r)^2; ``spikes`` counts the
    eigenvalues above ``limit``, the edge with its Tracy-Widom fluctuation; ``ks`` is the largest
    distance between the distribution of those below and the law, ``share`` their part of the sum.
    """

    variance: float = NAN
    low: float = NAN
    high: float = NAN
    limit: float = NAN
    spikes: float = NAN
    ks: float = NAN
    share: float = NAN


def fit_bulk(
    eigenvalues: np.ndarray, shape: tuple[int, int], *, p: float = LEVEL / len(LOOKS)
) -> BulkFit:
    """Fit v by the smallest Kolmogorov-Smirnov distance between bulk and law.

    The bulk of a trial v is what lies below v (mu + s t), with mu and s the law of the largest
    eigenvalue and t its quantile 1 - p (default p: 0.1 %); the k values above are spikes. The
    rest of a matrix with k spikes is a random (r - k) x (N - k) matrix: of that shape are the
    law, its edges, mu and s. D(v) is the largest difference between the distribution of the
    bulk and the Marchenko-Pastur law. Trials run from the v whose bulk holds half of the
    eigenvalues to the v without spikes, and that of smallest D is refined by golden section. The
    size of a spike does not enter; a spectrum that is no random matrix plus spikes has a large
    D, whatever v is.

    ``eigenvalues`` (k,) descending, k <= r; fewer than r means that the others are zero. NaN for
    r < 8, for NaN or Inf and where half of the eigenvalues are zero.
    Source: Marchenko & Pastur 1967, Math. USSR-Sbornik 1(4); Johnstone 2001, Ann. Statist. 29(2)
    (the edge); Benaych-Georges & Nadakuditi 2012, J. Multivariate Anal. 111 (the bulk is blind
    to spikes). The distance as criterion is ours.

    >>> from frog.numerics.random_matrix import sample_wishart_eigenvalues
    >>> x = sample_wishart_eigenvalues((190, 590), np.random.default_rng(0), variance=4.0)
    >>> fit = fit_bulk(np.append(np.full(10, 40_000.0), x), (200, 600))
    >>> abs(fit.variance - 4.0) < 0.1, fit.spikes
    (True, 10.0)
    """
    r, large = min(shape), max(shape)
    null = null_of("top_bulk", r, large)
    if r < FEWEST or null is None or not len(eigenvalues) or not np.isfinite(eigenvalues).all():
        return BulkFit()
    top = float(eigenvalues[0])  # the unit of all that follows
    values_r = np.zeros(r)
    values_r[: len(eigenvalues)] = eigenvalues / top if top > 0.0 else 0.0
    values_r = values_r[::-1]
    least = math.ceil(BULK * r)
    if values_r[r - least] <= np.finfo(np.float64).eps * large:
        return BulkFit()
    trial = _Trial(values_r, large, null.quantile(1.0 - p))
    v = _nearest(trial, least)
    inside, reduced, limit = trial.bulk(v)
    low, high = marchenko_pastur_edges(reduced, v)
    return BulkFit(
        variance=v * top,
        low=low * top,
        high=high * top,
        limit=limit * top,
        spikes=float(r - inside),
        ks=trial.distance(v),
        share=float(values_r[:inside].sum() / values_r.sum()),
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """Ascending values of an r x N matrix, and t: how far the largest may fluctuate."""

    values_r: np.ndarray
    large: int
    quantile: float

    def bulk(self, v: float) -> tuple[int, tuple[int, int], float]:
        """For a variance: how many values are bulk, the shape without spikes, the limit."""
        r = len(self.values_r)
        inside, limit = r, math.inf
        for _ in range(2):  # fewer rows and columns have a lower edge
            shape = (max(inside, 1), self.large - r + max(inside, 1))
            centre, width = edge_law(shape)
            limit = v * (centre + width * self.quantile) * (1.0 + ROUNDING)
            inside = int(np.searchsorted(self.values_r, limit, side="right"))
        return inside, (max(inside, 1), self.large - r + max(inside, 1)), limit

    def distance(self, v: float) -> float:
        """Largest difference between the bulk's distribution and the law of variance v."""
        inside, shape, _ = self.bulk(v)
        if inside == 0:
            return 1.0
        law = marchenko_pastur_cdf(self.values_r[:inside], shape, v)
        steps = np.arange(inside + 1) / inside
        return float(max((steps[1:] - law).max(), (law - steps[:-1]).max()))


def _nearest(trial: _Trial, least: int) -> float:
    """The v of smallest distance."""
    values_r, r = trial.values_r, len(trial.values_r)
    centre, width = edge_law((r, trial.large))
    reach = centre + width * trial.quantile
    half = least - r + trial.large
    centre, width = edge_law((least, half))
    first = math.log(values_r[least - 1] / (centre + width * trial.quantile))
    # with the law's median at the median, no trial has its whole bulk in the law's lower half
    middle = values_r[r // 2] / (trial.large * marchenko_pastur_median(r, trial.large))
    last = math.log(max(values_r[-1] / reach, middle))
    if last - first < TOLERANCE:
        return math.exp(last)
    trials = np.linspace(first, last, STEPS)
    best = int(np.argmin([trial.distance(math.exp(x)) for x in trials]))
    a, b = trials[max(best - 1, 0)], trials[min(best + 1, STEPS - 1)]
    x, y = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
    at_x, at_y = trial.distance(math.exp(x)), trial.distance(math.exp(y))
    while b - a > TOLERANCE:
        if at_x <= at_y:
            b, y, at_y = y, x, at_x
            x = b - GOLDEN * (b - a)
            at_x = trial.distance(math.exp(x))
        else:
            a, x, at_x = x, y, at_y
            y = a + GOLDEN * (b - a)
            at_y = trial.distance(math.exp(y))
    return math.exp(0.5 * (a + b))


def marchenko_pastur_cdf(
    values: np.ndarray, shape: tuple[int, int], variance: float = 1.0
) -> np.ndarray:
    """Share of the Marchenko-Pastur law below each value: that of r x N matrices, variance v.

    With c = r/N and lambda = N v (1 + c + 2 sqrt(c) cos t) the mass above is
    (2/pi) int_0^t sin^2 / (1 + c + 2 sqrt(c) cos), in closed form.

    >>> marchenko_pastur_cdf(np.array([0.0, 4.0]), (1, 1)).tolist()
    [0.0, 1.0]
    """
    r, large = min(shape), max(shape)
    c = r / large
    root = math.sqrt(c)
    cosine = (values / (large * variance) - 1.0 - c) / (2.0 * root)
    t = np.arccos(np.clip(cosine, -1.0, 1.0))
    turn = 2.0 * np.arctan((1.0 - root) / (1.0 + root) * np.tan(0.5 * t))
    above = ((1.0 + c) * t - 2.0 * root * np.sin(t) - (1.0 - c) * turn) / (2.0 * math.pi * c)
    return np.clip(1.0 - above, 0.0, 1.0)
