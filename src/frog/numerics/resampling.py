"""How sure an alpha is: intervals by resampling, and whether a power law is plausible at all.

Eigenvalues of a matrix are not independent draws (they repel each other), so these are intervals
of resampling; what they cover on planted tails is measured in the design note 002.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from frog.errors import UsageError
from frog.numerics.powerlaw import MIN_TAIL, above_cut
from frog.numerics.tail_batch import best_distances, best_tails
from frog.types import FitStatus, PowerLawFit

FEWEST_RESAMPLES = 20  # an interval of fewer says nothing
ELEMENTS = 1 << 18  # resamples are drawn in groups of about this many values


def bootstrap(
    eigenvalues: np.ndarray,
    fit: PowerLawFit,
    *,
    resamples: int = 200,
    seed: int = 0,
    level: float = 0.95,
    min_tail: int = MIN_TAIL,
    shape: tuple[int, int] | None = None,
) -> PowerLawFit:
    """Add an interval of alpha to a fit: percentile bootstrap, xmin chosen anew each time.

    Draws n of the n values above the cut with replacement, fits each resample with the same
    estimator, and takes the (1 - level)/2 and (1 + level)/2 quantiles of alpha. Multiplying the
    values or raising them to a power moves the interval exactly as it moves alpha. For ``ks``
    the start of the tail is searched again in every resample (this is most of the width), for
    ``hill`` the median is taken again. For ``tpl`` the start is searched by ``ks`` and the law
    fitted to that tail.

    ``eigenvalues``, ``min_tail`` and ``shape`` as given to the fit. A failed fit comes back
    unchanged; resamples without a fit are left out, and if more than half have none the interval
    is NaN. Deterministic in ``seed``. Raises UsageError for arguments out of range.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.3;
    Clauset, Shalizi & Newman 2009, section 3.3 (xmin chosen anew).

    >>> from frog.numerics.powerlaw import fit_power_law
    >>> x = np.random.default_rng(0).pareto(2.0, 500) + 1.0
    >>> fit = bootstrap(x, fit_power_law(x))
    >>> fit.low < 3.0 < fit.high
    True
    """
    _check(resamples, level)
    if not fit.ok:
        return fit
    values, resolution, status = above_cut(eigenvalues, shape=shape)
    if status is not FitStatus.OK:
        return fit
    rng = np.random.default_rng(seed)
    logs = np.log(values / values[-1])
    found = [
        _alphas(fit.estimator, group, min_tail, resolution)
        for group in _resamples(rng, logs, resamples)
    ]
    alphas = np.concatenate(found)
    alphas = alphas[np.isfinite(alphas)]
    if 2 * len(alphas) < resamples:
        return fit
    low, high = np.quantile(alphas, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return replace(fit, low=float(low), high=float(high))


def goodness_of_fit(
    eigenvalues: np.ndarray,
    fit: PowerLawFit,
    *,
    samples: int = 200,
    seed: int = 0,
    min_tail: int = MIN_TAIL,
    shape: tuple[int, int] | None = None,
) -> PowerLawFit:
    """Add the share of synthetic samples that fit worse than the data (Clauset's p-value).

    A synthetic sample of n values: with probability n_tail / n a draw from the fitted law above
    xmin, else one of the values below xmin, drawn with replacement. Each is fitted with its own
    xmin; goodness = share with a distance D of at least that of the data. Small values
    (below 0.1, says the source) speak against a power law; with N samples the resolution is 1/N.

    Defined for ``ks``; other estimators and failed fits come back unchanged.
    Source: Clauset, Shalizi & Newman 2009, section 4.1.

    >>> from frog.numerics.powerlaw import fit_power_law
    >>> x = np.random.default_rng(0).pareto(2.0, 300) + 1.0
    >>> goodness_of_fit(x, fit_power_law(x)).goodness > 0.1
    True
    """
    _check(samples, 0.5)
    if not fit.ok or fit.estimator != "ks":
        return fit
    values, resolution, status = above_cut(eigenvalues, shape=shape)
    if status is not FitStatus.OK:
        return fit
    rng = np.random.default_rng(seed)
    worse = 0
    for group in _synthetic(rng, values, fit, samples):
        distances = best_distances(group, min_tail=min_tail, resolution=resolution)
        worse += int(np.count_nonzero(distances >= fit.ks))
    return replace(fit, goodness=worse / samples)


# ------------------------------------------------------------------------------ samples


def _check(resamples: int, level: float) -> None:
    if resamples < FEWEST_RESAMPLES:
        raise UsageError(f"at least {FEWEST_RESAMPLES} resamples are needed, got {resamples}")
    if not 0.0 < level < 1.0:
        raise UsageError(f"level must be between 0 and 1, got {level}. Did you mean 0.95?")


def _groups(total: int, n: int) -> Iterator[int]:
    """Sizes of the groups in which ``total`` samples of n values are made."""
    size = max(ELEMENTS // n, 1)
    for at in range(0, total, size):
        yield min(size, total - at)


def _resamples(rng: np.random.Generator, logs: np.ndarray, total: int) -> Iterator[np.ndarray]:
    """Resampled logs (group, n), ascending, the last value of each row 0."""
    n = len(logs)
    for size in _groups(total, n):
        picks = rng.integers(n, size=(size, n), dtype=np.int32)
        picks.sort(axis=1)
        rows = logs[picks]
        yield rows - rows[:, -1:]


def _synthetic(
    rng: np.random.Generator, values: np.ndarray, fit: PowerLawFit, total: int
) -> Iterator[np.ndarray]:
    """Logs (group, n) of samples of the fitted law joined to the values below it."""
    n = len(values)
    below = np.log(values[values < fit.xmin] / fit.xmin)
    for size in _groups(total, n):
        rows = rng.standard_exponential((size, n)) / (fit.alpha - 1.0)
        if len(below):
            body = rng.random((size, n)) >= fit.n_tail / n
            rows[body] = rng.choice(below, size=int(np.count_nonzero(body)))
        rows.sort(axis=1)
        yield rows - rows[:, -1:]


def _alphas(estimator: str, logs: np.ndarray, min_tail: int, resolution: float) -> np.ndarray:
    """alpha of every row of ``logs``; NaN where a row has no fit."""
    if estimator == "hill":
        tails = logs[:, logs.shape[1] // 2 :]
        means = (tails - tails[:, :1]).mean(axis=1)
        return 1.0 + np.divide(1.0, means, out=np.full(len(means), math.nan), where=means > 0.0)
    slopes, sizes = best_tails(logs, min_tail=min_tail, resolution=resolution)
    if estimator == "ks":
        return 1.0 + slopes
    from frog.numerics.truncated import fit_truncated

    tails = [row[len(row) - size :] for row, size in zip(logs, sizes, strict=True)]
    return np.array([fit_truncated(np.exp(t)).alpha if len(t) else math.nan for t in tails])
