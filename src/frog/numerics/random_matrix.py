"""What a matrix with nothing learnt in it would look like, and how far off a spectrum is from that.

Letters: m x n matrix W with independent entries of variance v; r = min(m, n), N = max(m, n);
lambda_1 >= ... >= lambda_r the eigenvalues of W^T W (no 1/N). The null is the same for all common
entry distributions (Gaussian, uniform, signs) because the largest eigenvalue is universal.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from frog.errors import UsageError
from frog.numerics.null_table import Null, null_of, pooled_null_of
from frog.numerics.windows import effective_windows, plan_windows, window_shape
from frog.types import NAN, Farms, NullLook, PowerLawFit

LEVEL = 0.003
"""Share of random matrices with any look outside: with 1000 of them at most 10 may be called
trained, and a table made by simulation has errors of its own."""

SMALLEST_POOL = 28
"""Eigenvalues that disjoint windows would have; with fewer, alpha has no null."""

LOOKS = ("stable_rank", "spikes", "alpha")
"""The looks. The level is divided by their number, also where one of them is missing."""


def looks(
    eigenvalues: np.ndarray,
    shape: tuple[int, int],
    fit: PowerLawFit,
    *,
    level: float = LEVEL,
    window: str = "full",
    farms: Farms | None = None,
) -> dict[str, NullLook]:
    """Three numbers of a spectrum against their distributions for random matrices of its shape.

    ``stable_rank`` = sum_k lambda_k / lambda_1; ``spikes``: eigenvalues above :func:`bulk_edge`;
    ``alpha`` of ``fit``, against the same estimator. With p = level / 3: low and high are the
    quantiles p/2 and 1 - p/2; for ``spikes`` both are 0, and the edge is where a share p of
    random matrices has one. The percentile of a count is that of the middle of its step.

    ``eigenvalues`` (k,) descending, k <= r, of the whole matrix; fewer than r means that the
    others are zero. With ``window="farms"`` the fit is of pooled windows, cut as ``farms`` says
    (default: its defaults), and its null that of as many disjoint windows as tell as much.
    A look is missing where it has no null: all of them for r < 4 and a zero or non-finite
    spectrum; ``spikes`` for r < 8; ``alpha`` for r < 28, where the fit failed, and for
    ``tpl``, which has no optimum on random matrices.
    Source: Johnstone 2001, Ann. Statist. 29(2), theorem 1.1 (law of lambda_1); the rest by
    simulation, ``docs/design-notes/003-the-null.md``.

    >>> from frog.types import FitStatus
    >>> fit = PowerLawFit(estimator="ks", status=FitStatus.TOO_FEW)
    >>> found = looks(np.array([900.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]), (8, 8), fit)
    >>> found["spikes"].value, found["spikes"].outside, found["stable_rank"].outside
    (1.0, True, True)
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"level must be between 0 and 1, got {level}")
    r, large = min(shape), max(shape)
    if r < 4 or not len(eigenvalues) or not 0.0 < eigenvalues[0] < math.inf:
        return {}
    p = level / len(LOOKS)
    found = {"stable_rank": _look_at_stable_rank(eigenvalues, shape, p)}
    if null_of("top_bulk", r, large) is not None:
        found["spikes"] = _look_at_spikes(eigenvalues, shape, p)
    if fit.ok:
        null, of = null_of(fit.estimator, r, large), shape
        if window == "farms":
            null, of = _null_of_windows(fit.estimator, shape, farms or Farms())
        if null is not None:
            found["alpha"] = _look_at_alpha(fit.alpha, of, p, null)
    return found


def hill_look(alpha: float, shape: tuple[int, int], *, windows: float | None = None) -> NullLook:
    """The ``hill`` alpha of a spectrum against its null, r >= 12; limits as in :func:`looks`.

    ``windows``: the alpha is that of so many disjoint windows of ``shape`` in one pool. Without a
    null (smaller r, NaN) all numbers but the value are NaN, and it lies outside of nothing.

    >>> hill_look(2.1, (384, 384)).outside, hill_look(1.8, (384, 384)).outside
    (False, True)
    """
    null = None
    if windows is None:
        null = null_of("hill", min(shape), max(shape))
    if null is None:
        null = pooled_null_of("hill", shape, windows or 1.0)
    if null is None or not alpha > 1.0:
        return NullLook(name="alpha_hill", value=alpha, percentile=NAN, low=NAN, high=NAN)
    found = _look_at_alpha(alpha, shape, LEVEL / len(LOOKS), null)
    return replace(found, name="alpha_hill")


def hill_of_random(shape: tuple[int, int], *, windows: float | None = None) -> float:
    """Median ``hill`` alpha of random matrices: 1 + (mu / s) exp(median). NaN for r < 12.

    >>> round(hill_of_random((384, 384)), 2), round(hill_of_random((384, 1536)), 1)
    (2.13, 3.5)
    """
    null = null_of("hill", min(shape), max(shape)) if windows is None else None
    null = null or pooled_null_of("hill", shape, windows or 1.0)
    if null is None:
        return NAN
    centre, width = edge_law(shape)
    return 1.0 + centre / width * math.exp(null.quantile(0.5))


def _null_of_windows(
    estimator: str, shape: tuple[int, int], farms: Farms
) -> tuple[Null | None, tuple[int, int]]:
    """Null of a pool's alpha and the shape of its windows; one window is a whole matrix."""
    rows, columns = window_shape(shape, farms)
    windows = effective_windows(plan_windows(shape, farms))
    small, large = min(rows, columns), max(rows, columns)
    if windows * small < SMALLEST_POOL:
        return None, (rows, columns)
    null = null_of(estimator, small, large) if windows < 1.0 + 1e-9 else None
    return null or pooled_null_of(estimator, (rows, columns), windows), (rows, columns)


def _look_at_alpha(alpha: float, shape: tuple[int, int], p: float, null: Null) -> NullLook:
    centre, width = edge_law(shape)
    scale = centre / width
    return NullLook(
        name="alpha",
        value=alpha,
        percentile=null.percentile(math.log(max(alpha - 1.0, 1e-300) / scale)),
        low=1.0 + scale * math.exp(null.quantile(p / 2)),
        high=1.0 + scale * math.exp(null.quantile(1 - p / 2)),
    )


def _look_at_stable_rank(eigenvalues: np.ndarray, shape: tuple[int, int], p: float) -> NullLook:
    r, large = min(shape), max(shape)
    centre, width = edge_law(shape)
    null = null_of("top_trace", r, large)
    assert null is not None  # the table begins at r = 4
    value = float(eigenvalues.sum() / eigenvalues[0])
    return NullLook(
        name="stable_rank",
        value=value,
        percentile=100.0 - null.percentile((r * large / value - centre) / width),
        low=r * large / (centre + width * null.quantile(1 - p / 2)),
        high=r * large / (centre + width * null.quantile(p / 2)),
    )


def _look_at_spikes(eigenvalues: np.ndarray, shape: tuple[int, int], p: float) -> NullLook:
    count = count_spikes(eigenvalues, shape, p=p)
    percentile = (50.0 * (1 - p), 100.0 * (1 - p / 2))[count] if count < 2 else 100.0
    return NullLook(name="spikes", value=float(count), percentile=percentile, low=0.0, high=0.0)


# ------------------------------------------------------------------------- the bulk


def count_spikes(
    eigenvalues: np.ndarray, shape: tuple[int, int], *, p: float = LEVEL / len(LOOKS)
) -> int:
    """Number of eigenvalues above the bulk edge: #{k : lambda_k > bulk_edge}.

    ``eigenvalues`` (k,) descending; of a spectrum that is mostly zero, all that are not. 0 where
    there is no edge.

    >>> count_spikes(np.array([900.0, 800.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]), (8, 8))
    2
    """
    edge = bulk_edge(eigenvalues, shape, p=p)
    return int(np.count_nonzero(eigenvalues > edge))


def bulk_edge(
    eigenvalues: np.ndarray, shape: tuple[int, int], *, p: float = LEVEL / len(LOOKS)
) -> float:
    """The value that lambda_1 of a random matrix with this bulk exceeds with probability p.

    v (mu + s t), v the :func:`bulk_variance`, mu and s the :func:`edge_law`, t the quantile 1 - p
    of (lambda_1 / v - mu) / s over random matrices of this shape: Tracy-Widom of order 1 for
    large r, with the noise of v where r is small. At least the rounding error of lambda_1.

    ``eigenvalues`` (k,) descending. NaN for r < 8, an empty or a non-finite spectrum.
    Source: Johnstone 2001, Ann. Statist. 29(2), theorem 1.1; quantiles by simulation.

    >>> 80 < bulk_edge(np.array([900.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]), (8, 8)) < 800
    True
    """
    null = null_of("top_bulk", min(shape), max(shape))
    if null is None or not len(eigenvalues) or not math.isfinite(eigenvalues[0]):
        return math.nan
    centre, width = edge_law(shape)
    edge = bulk_variance(eigenvalues, shape) * (centre + width * null.quantile(1 - p))
    return max(edge, float(np.finfo(np.float64).eps * max(shape) * eigenvalues[0]))


def bulk_variance(eigenvalues: np.ndarray, shape: tuple[int, int]) -> float:
    """Variance of the entries of the random part, blind to a minority of large eigenvalues.

    v = median_k lambda_k / (N x), x the median of the Marchenko-Pastur law: spikes move the
    median only by their number, not by their size (their trace would).

    ``eigenvalues`` (k,) descending; eigenvalues k+1..r count as zero.
    Source: Gavish & Donoho 2014, IEEE Trans. Inf. Theory 60(8), eq. 11 (the idea, for sigma).

    >>> rng = np.random.default_rng(0)
    >>> x = sample_wishart_eigenvalues((300, 600), rng, variance=4.0)
    >>> abs(bulk_variance(x, (300, 600)) - 4.0) < 0.1
    True
    """
    r, large = min(shape), max(shape)
    upper = eigenvalues[(r - 1) // 2] if (r - 1) // 2 < len(eigenvalues) else 0.0
    lower = eigenvalues[r // 2] if r // 2 < len(eigenvalues) else 0.0
    return float(0.5 * (upper + lower) / (large * marchenko_pastur_median(r, large)))


def marchenko_pastur_edges(shape: tuple[int, int], variance: float = 1.0) -> tuple[float, float]:
    """Where the spectrum of a large random matrix begins and ends: v (sqrt N -+ sqrt r)^2.

    Source: Marchenko & Pastur 1967, Math. USSR-Sbornik 1(4).

    >>> marchenko_pastur_edges((100, 400), variance=0.01)
    (1.0, 9.0)
    """
    r, large = min(shape), max(shape)
    middle, half = r + large, 2.0 * math.sqrt(r * large)
    return variance * (middle - half), variance * (middle + half)


@lru_cache(maxsize=4096)
def marchenko_pastur_median(r: int, large: int) -> float:
    """Median of the eigenvalues of W^T W / (N v) for large random matrices.

    With c = r/N, x = 1 + c + 2 sqrt(c) cos t, 0 <= t <= pi, the mass is
    (2 / pi) sin^2 t / x dt: solved for half of it by bisection on its integral.

    Source: Marchenko & Pastur 1967; substitution ours.

    >>> round(marchenko_pastur_median(100, 100), 4), round(marchenko_pastur_median(1, 10**6), 2)
    (0.6528, 1.0)
    """
    c = r / large
    low, high = 0.0, math.pi
    for _ in range(60):
        t = 0.5 * (low + high)
        low, high = (t, high) if _mass_above(t, c) < 0.5 else (low, t)
    return 1.0 + c + 2.0 * math.sqrt(c) * math.cos(low)


def _mass_above(t: float, c: float) -> float:
    """Share of the Marchenko-Pastur law above 1 + c + 2 sqrt(c) cos t, 0 <= t <= pi.

    (2/pi) times the integral of sin^2 / (A + B cos) from 0 to t, A = 1 + c, B = 2 sqrt(c):
    (A t - B sin t - (1 - c) 2 atan(k tan(t/2))) / B^2 with k = (1 - sqrt c) / (1 + sqrt c).
    """
    root = math.sqrt(c)
    k = (1.0 - root) / (1.0 + root)
    turn = math.pi if t >= math.pi else 2.0 * math.atan(k * math.tan(0.5 * t))
    inner = (1.0 + c) * t - 2.0 * root * math.sin(t) - (1.0 - c) * turn
    return 2.0 / math.pi * inner / (4.0 * c)


def edge_law(shape: tuple[int, int]) -> tuple[float, float]:
    """Centre mu and width s of the largest eigenvalue of a random matrix of unit variance.

    With a = sqrt(N - 1/2), b = sqrt(r - 1/2): mu = (a + b)^2, s = (a + b) (1/a + 1/b)^(1/3).

    Source: Johnstone 2001, Ann. Statist. 29(2), eqs. 1.3, 1.4, with the shift by 1/2 of
    Ma 2012, Bernoulli 18(1), for which the error is O(r^(-2/3)).

    >>> [round(x, 2) for x in edge_law((100, 400))]
    [897.75, 15.93]
    """
    a, b = math.sqrt(max(shape) - 0.5), math.sqrt(min(shape) - 0.5)
    return (a + b) ** 2, (a + b) * (1.0 / a + 1.0 / b) ** (1.0 / 3.0)


# ------------------------------------------------------------------------- sampling


def sample_wishart_eigenvalues(
    shape: tuple[int, int], rng: np.random.Generator, variance: float = 1.0
) -> np.ndarray:
    """Eigenvalues of W^T W, W of independent Gaussian entries, without making W.

    W is orthogonally equivalent to a bidiagonal matrix of independent entries, diagonal
    chi_N, chi_{N-1}, ..., chi_{N-r+1}, below it chi_{r-1}, ..., chi_1; so the eigenvalues are
    those of a tridiagonal matrix: O(r^2) instead of O(N r^2).

    Returns (r,) descending, float64, nothing below zero.
    Source: Dumitriu & Edelman 2002, J. Math. Phys. 43(11), section III B, beta = 1.

    >>> x = sample_wishart_eigenvalues((50, 200), np.random.default_rng(0), variance=0.25)
    >>> x.shape, 2400 < float(x.sum()) < 2600
    ((50,), True)
    """
    from scipy.linalg import eigvalsh_tridiagonal  # late: looks do not need it

    diagonal, below = sample_tridiagonal(shape, rng)
    if len(below) == 0:
        return diagonal * variance
    values = eigvalsh_tridiagonal(diagonal, below, lapack_driver="sterf", check_finite=False)
    return np.maximum(values[::-1], 0.0) * variance


def sample_tridiagonal(
    shape: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal (r,) and subdiagonal (r-1,) of B B^T, B the bidiagonal model of a Gaussian matrix.

    Source: Dumitriu & Edelman 2002, J. Math. Phys. 43(11), section III B, beta = 1.

    >>> [len(x) for x in sample_tridiagonal((5, 9), np.random.default_rng(0))]
    [5, 4]
    """
    r, large = min(shape), max(shape)
    squares = rng.chisquare(large - np.arange(r))
    below = rng.chisquare(np.arange(r - 1, 0, -1)) if r > 1 else np.empty(0)
    diagonal = squares.copy()
    diagonal[1:] += below
    return diagonal, np.sqrt(squares[:-1] * below)
