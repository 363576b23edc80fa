"""Power laws fitted to the tail of a spectrum: p(x) ~ x^-alpha for x >= xmin.

Three estimators, never mixed: ``ks`` (start of the tail by smallest Kolmogorov-Smirnov distance),
``hill`` (start at the median) and ``tpl`` (with an exponential cut-off). All logarithms are taken
relative to the largest eigenvalue, so a matrix and a multiple of it have the same alpha.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from frog.errors import UnknownName, UsageError
from frog.numerics.tail_scan import TailScan
from frog.types import FitStatus, PowerLawFit

ESTIMATORS = ("ks", "hill", "tpl")
MIN_TAIL = 20  # shorter tails are picked by chance: docs/design-notes/002-alpha-intervals.md
HANDFUL = 5  # fewer values than this have no tail
BAND = 1.1  # the band holds every tail whose distance is at most this many times the smallest
WEIGHTWATCHER_CUT = 1e-5
WEIGHTWATCHER_SMALL = 20
WEIGHTWATCHER_SMALL_TAIL = 8


def fit_power_law(
    eigenvalues: np.ndarray,
    *,
    estimator: str = "ks",
    min_tail: int = MIN_TAIL,
    cut: str | float = "relative",
    shape: tuple[int, int] | None = None,
    extras: bool = True,
) -> PowerLawFit:
    """Fit p(x) ~ x^-alpha to the tail of a spectrum.

    With the n values above the cut in ascending order, for every start i with
    n_i = n - i >= ``min_tail`` points,

        alpha_i = 1 + n_i / sum_{j >= i} ln(x_j / x_i)
        D_i     = max_{k < n_i} | 1 - (x_{i+k} / x_i)^(1 - alpha_i) - k / n_i |

    ``ks`` takes the first start of smallest D_i; ``hill`` the start i = floor(n / 2); ``tpl``
    the start of ``ks`` and p(x) ~ x^-alpha exp(-rate x) (:mod:`frog.numerics.truncated`).
    stderr = (alpha - 1) / sqrt(n_i).

    ``eigenvalues`` (r,) in any order. Values x <= cut are left out: "relative" means
    eps * max(m, n) * x_max with ``shape`` = (m, n), else eps * r * x_max; a number is absolute.
    ``extras=False`` leaves out the band, ``ks_gap`` and ``without_top`` (for resampling).
    ``ks_gap`` is the smallest D among the starts whose alpha is more than one standard error
    away, minus the smallest D: how near another answer is.

    Fails with a status: NONFINITE, DEGENERATE (nothing above zero, or all values equal up to
    rounding), TOO_FEW (fewer than ``min_tail``, or than a handful). Raises UsageError for
    arguments out of range.
    Source: Clauset, Shalizi & Newman 2009, SIAM Review 51(4), eqs. 3.1, 3.2, 3.9;
    Hill 1975, Ann. Statist. 3(5).

    >>> x = np.random.default_rng(0).pareto(2.0, 1000) + 1.0
    >>> fit = fit_power_law(x)
    >>> fit.status.word, 2.6 < fit.alpha < 3.4
    ('ok', True)
    """
    _check_arguments(estimator, min_tail, cut)
    values, resolution, status = above_cut(
        eigenvalues, cut=cut, shape=shape, fewest=max(min_tail, HANDFUL)
    )
    if status is not FitStatus.OK:
        return PowerLawFit(estimator=estimator, status=status)
    logs = np.log(values / values[-1])
    if estimator == "hill":
        return _hill(values, logs, extras=extras)
    fit = _smallest_distance(values, logs, min_tail, resolution, extras=extras)
    if estimator == "tpl" and fit.ok:
        from frog.numerics.truncated import fit_truncated

        return fit_truncated(values[values >= fit.xmin])
    return fit


def fit_weightwatcher(eigenvalues: np.ndarray, *, extras: bool = True) -> PowerLawFit:
    """The fit of WeightWatcher 0.7.7, with its cut and its branch for few eigenvalues.

    Keeps x > 1e-5. From 20 values on: ``ks`` over all starts but the last. Below 20: alpha_i =
    1 + (n_i - 1) / sum ln(x_j / x_i) over the starts with n_i >= 8 points (with fewer than 8
    values: the first start only), smallest D_i. ``n_tail`` counts all x >= xmin. Equal values
    at the top, for which WeightWatcher divides by zero, are no candidates here.

    Fails with a status (WeightWatcher's -1 is written by the export, not here).
    Source: WeightWatcher 0.7.7, described from its behaviour.

    >>> fit = fit_weightwatcher(np.array([1.0, 2.0, 4.0, 8.0]))
    >>> round(fit.alpha, 4), fit.n_tail
    (1.7213, 4)
    """
    values, _, status = above_cut(eigenvalues, cut=WEIGHTWATCHER_CUT)
    if status is not FitStatus.OK:
        return PowerLawFit(estimator="ks", status=status)
    logs = np.log(values / values[-1])
    if len(values) >= WEIGHTWATCHER_SMALL:
        fit = _smallest_distance(values, logs, 2, 0.0, extras=extras)
    else:
        fit = _weightwatcher_small(values, logs)
    return replace(fit, n_tail=int(np.count_nonzero(values >= fit.xmin)))


# ------------------------------------------------------------------------------ input


def _check_arguments(estimator: str, min_tail: int, cut: str | float) -> None:
    if estimator not in ESTIMATORS:
        raise UnknownName("estimator", estimator, ESTIMATORS)
    if min_tail < 2:
        raise UsageError(f"min_tail must be at least 2, got {min_tail}")
    if isinstance(cut, str):
        if cut != "relative":
            raise UsageError(f"cut must be 'relative' or a number, got {cut!r}")
    elif not 0.0 <= cut < math.inf:
        raise UsageError(f"cut must be a finite number of at least 0, got {cut}")


def above_cut(
    eigenvalues: np.ndarray,
    *,
    cut: str | float = "relative",
    shape: tuple[int, int] | None = None,
    fewest: int = 2,
) -> tuple[np.ndarray, float, FitStatus]:
    """The values above the cut, ascending; what counts as equal, relative; whether to go on.

    >>> above_cut(np.array([2.0, 0.0, 1.0]))[0].tolist()
    [1.0, 2.0]
    """
    x = np.asarray(eigenvalues, dtype=np.float64).ravel()
    if not np.isfinite(x).all():
        return x, 0.0, FitStatus.NONFINITE
    if not len(x):
        return x, 0.0, FitStatus.TOO_FEW
    top = float(x.max())
    if top <= 0.0:
        return x, 0.0, FitStatus.DEGENERATE
    resolution = float(np.finfo(np.float64).eps) * max(shape or (len(x),))
    limit = resolution * top if isinstance(cut, str) else cut
    x = np.sort(x[x > limit])
    if len(x) < fewest:
        return x, resolution, FitStatus.TOO_FEW
    if x[-1] - x[0] <= resolution * top:
        return x, resolution, FitStatus.DEGENERATE
    return x, resolution, FitStatus.OK


# --------------------------------------------------------------------------- estimators


def _smallest_distance(
    values: np.ndarray, logs: np.ndarray, min_tail: int, resolution: float, *, extras: bool
) -> PowerLawFit:
    """The ``ks`` fit of ascending values."""
    scan = TailScan(logs, min_tail=min_tail, resolution=resolution)
    start = scan.best()
    if start < 0:
        return PowerLawFit(estimator="ks", status=FitStatus.DEGENERATE)
    n_tail, slope, ks = len(values) - start, float(scan.slopes[start]), scan.distance(start)
    fit = PowerLawFit(
        estimator="ks",
        status=FitStatus.OK,
        alpha=1.0 + slope,
        xmin=float(values[start]),
        xmax=float(values[-1]),
        ks=ks,
        stderr=slope / math.sqrt(n_tail),
        n_tail=n_tail,
    )
    if not extras:
        return fit
    low, high = scan.band(BAND * ks)
    away = scan.runner_up(slope - fit.stderr, slope + fit.stderr)
    shorter = TailScan(logs[:-1], min_tail=min_tail, resolution=resolution)
    second = shorter.best(like=scan)
    return replace(
        fit,
        band_low=1.0 + low,
        band_high=1.0 + high,
        ks_gap=away - ks,
        without_top=1.0 + float(shorter.slopes[second]) if second >= 0 else math.nan,
    )


def _hill(values: np.ndarray, logs: np.ndarray, *, extras: bool) -> PowerLawFit:
    """The ``hill`` fit of ascending values: the tail starts at index floor(n / 2)."""
    start = len(logs) // 2
    tail = logs[start:] - logs[start]
    if tail[-1] <= 0.0:
        return PowerLawFit(estimator="hill", status=FitStatus.DEGENERATE)
    n_tail = len(tail)
    slope = n_tail / float(tail.sum())
    ks = np.abs(1.0 - np.exp(-slope * tail) - np.arange(n_tail) / n_tail).max()
    without_top = math.nan
    if extras and len(logs) > 2:
        shorter = logs[(len(logs) - 1) // 2 : -1]
        total = float((shorter - shorter[0]).sum())
        without_top = 1.0 + len(shorter) / total if total > 0.0 else math.nan
    return PowerLawFit(
        estimator="hill",
        status=FitStatus.OK,
        alpha=1.0 + slope,
        xmin=float(values[start]),
        xmax=float(values[-1]),
        ks=float(ks),
        stderr=slope / math.sqrt(n_tail),
        n_tail=n_tail,
        without_top=without_top,
    )


def _weightwatcher_small(values: np.ndarray, logs: np.ndarray) -> PowerLawFit:
    """WeightWatcher's branch for fewer than 20 values: every tail in full, there are few."""
    n = len(logs)
    starts = range(n - WEIGHTWATCHER_SMALL_TAIL + 1) if n >= WEIGHTWATCHER_SMALL_TAIL else range(1)
    best = PowerLawFit(estimator="ks", status=FitStatus.DEGENERATE)
    smallest = math.inf
    for start in starts:
        tail, size = logs[start:] - logs[start], n - start
        total = float(tail.sum())
        if total <= 1e-12:  # WeightWatcher's own limit
            continue
        slope = (size - 1) / total
        ks = float(np.abs(1.0 - np.exp(-slope * tail) - np.arange(size) / size).max())
        if ks < smallest:
            smallest = ks
            best = PowerLawFit(
                estimator="ks",
                status=FitStatus.OK,
                alpha=1.0 + slope,
                xmin=float(values[start]),
                xmax=float(values[-1]),
                ks=ks,
                stderr=slope / math.sqrt(size),
                n_tail=size,
            )
    return best
