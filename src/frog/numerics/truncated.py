"""The truncated power law p(x) ~ x^-alpha exp(-rate x) on a given tail.

With t = x / xmin and r = rate * xmin it is an exponential family in (ln t, t): the likelihood of
any number of points needs their two means only. Its constant is the generalised exponential
integral E_a(r) = int_1^inf t^-a exp(-r t) dt, by quadrature.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from frog.types import FitStatus, PowerLawFit

ALPHA_RANGE = (0.0, 100.0)  # below 0 the density would rise: no tail
NODES = 400
PANELS = 200
DEEP = 45.0  # integrands are followed down to exp(-DEEP) of their largest value
STEPS = 200
TOLERANCE = 1e-10


def fit_truncated(tail: np.ndarray) -> PowerLawFit:
    """Fit p(x) ~ x^-alpha exp(-rate x), rate >= 0, to all values of ``tail``.

    Maximises, over a = alpha and r = rate * xmin,

        -ln E_a(r) - a * mean(ln t) - r * mean(t),      t = x / xmin,

    by Newton's method: gradient and Hessian are the means and the covariance of (ln t, t). At
    the boundary r = 0, where the plain power law is the best of the family, alpha is its Hill
    value and ``rate`` is 0. stderr is the square root of the (alpha, alpha) element of the
    inverse Fisher information over n; ``ks`` compares with the left edges, as ``ks`` does.

    ``tail`` (n,) ascending, positive, its first value is xmin. The tail that minimises the
    distance of the *plain* law is meant: both laws then speak of the same points.
    Fails with NO_OPTIMUM when the maximum lies outside 0 <= alpha <= 100, and with
    DEGENERATE when all values are equal.
    Source: Clauset, Shalizi & Newman 2009, SIAM Review 51(4), table 2.1.

    >>> t = np.random.default_rng(0).pareto(1.0, 20_000) + 1.0
    >>> kept = t[np.random.default_rng(1).random(len(t)) < np.exp(-0.1 * (t - 1.0))]
    >>> fit = fit_truncated(np.sort(kept))
    >>> abs(fit.alpha - 2.0) < 0.1, abs(fit.rate * fit.xmin - 0.1) < 0.02
    (True, True)
    """
    xmin, n = float(tail[0]), len(tail)
    logs = np.log(tail / xmin)
    if logs[-1] <= 0.0:
        return PowerLawFit(estimator="tpl", status=FitStatus.DEGENERATE)
    means = np.array([logs.mean(), np.exp(logs).mean()])
    plain = 1.0 + 1.0 / float(means[0])
    # At r = 0 the slope in r is E[t] - mean(t); E[t] is infinite for alpha <= 2.
    if plain > 2.0 and means[1] >= (plain - 1.0) / (plain - 2.0):
        alpha, r, variance = plain, 0.0, (plain - 1.0) ** 2
        survival = np.exp(-(plain - 1.0) * logs)
    else:
        found = _maximise(means, plain)
        if found is None or not ALPHA_RANGE[0] <= found[0] <= ALPHA_RANGE[1]:
            return PowerLawFit(estimator="tpl", status=FitStatus.NO_OPTIMUM)
        alpha, r = found
        variance = float(np.linalg.inv(_moments(alpha, r)[2])[0, 0])
        survival = _survival(alpha, r, logs)
    return PowerLawFit(
        estimator="tpl",
        status=FitStatus.OK,
        alpha=alpha,
        xmin=xmin,
        xmax=float(tail[-1]),
        ks=float(np.abs(1.0 - survival - np.arange(n) / n).max()),
        stderr=math.sqrt(variance / n),
        n_tail=n,
        rate=r / xmin,
    )


def _maximise(means: np.ndarray, plain: float) -> tuple[float, float] | None:
    """Newton in (a, ln r): r stays positive, and its scale is unknown beforehand."""
    a, s = min(plain, 3.0), math.log(1.0 / means[1])
    value = _likelihood(a, s, means)
    for _ in range(STEPS):
        r = math.exp(s)
        _, model, cov = _moments(a, r)
        slope = model - means
        gradient = np.array([slope[0], r * slope[1]])
        curvature = -cov * np.outer([1.0, r], [1.0, r])
        curvature[1, 1] += r * slope[1]
        step = _ascent(gradient, curvature)
        if float(gradient @ step) < TOLERANCE * 1e-6 or np.abs(step).max() < TOLERANCE:
            return a, r
        size = min(1.0, 2.0 / float(np.abs(step).max()))
        for _ in range(50):
            trial = _likelihood(a + size * step[0], s + size * step[1], means)
            if trial >= value:
                break
            size *= 0.5
        else:
            return a, r  # no step improves within rounding: this is the maximum
        a, s, value = float(a + size * step[0]), float(s + size * step[1]), trial
        if not (-50.0 < a < 2 * ALPHA_RANGE[1] and -60.0 < s < 30.0):
            return None
    return None


def _ascent(gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Newton's step; where the likelihood is not concave, with the curvature made negative."""
    values, vectors = np.linalg.eigh(curvature)
    values = np.maximum(np.abs(values), 1e-12)
    return vectors @ ((vectors.T @ gradient) / values)


def _likelihood(a: float, s: float, means: np.ndarray) -> float:
    r = math.exp(s)
    return -_moments(a, r)[0] - a * float(means[0]) - r * float(means[1])


def _moments(a: float, r: float) -> tuple[float, np.ndarray, np.ndarray]:
    """ln E_a(r), the means and the covariance of (ln t, t), for r > 0.

    With u = ln t the integrand is exp(g(u)), g(u) = (1 - a) u - r e^u, concave: it has one peak
    and is followed to where it is negligible; Gauss-Legendre nodes in u.
    """
    u, weights, top = _nodes(a, r)
    density = weights * np.exp(_exponent(a, r, u) - top)
    total = float(density.sum())
    density /= total
    statistics = np.stack([u, np.exp(u)])
    means = statistics @ density
    centred = statistics - means[:, None]
    return math.log(total) + top, means, (centred * density) @ centred.T


def _exponent(a: float, r: float, u: np.ndarray | float) -> np.ndarray:
    return (1.0 - a) * np.asarray(u) - r * np.exp(u)


def _support(a: float, r: float) -> tuple[float, float, float]:
    """Peak of the exponent, its value there, and the end of what matters."""
    peak = math.log((1.0 - a) / r) if a < 1.0 and 1.0 - a > r else 0.0
    top = float(_exponent(a, r, peak))
    low, high = peak, peak + 1.0
    while float(_exponent(a, r, high)) > top - DEEP:
        low, high = high, peak + 2.0 * (high - peak)
    for _ in range(30):
        middle = 0.5 * (low + high)
        if float(_exponent(a, r, middle)) > top - DEEP:
            low = middle
        else:
            high = middle
    return peak, top, high


def _nodes(a: float, r: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Nodes and weights in u = ln t on the support, from eight equal panels."""
    _, top, end = _support(a, r)
    unit, weight = _legendre(NODES // 8)
    edges = np.linspace(0.0, end, 9)
    half = 0.5 * np.diff(edges)[:, None]
    u = (edges[:-1, None] + half) + half * unit
    return u.ravel(), (half * weight).ravel(), top


@functools.cache
def _legendre(points: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(points)


def _survival(a: float, r: float, logs: np.ndarray) -> np.ndarray:
    """P(T >= t) at every t = exp(logs): integrals between neighbours, summed from the end."""
    _, top, end = _support(a, r)
    end = max(end, float(logs[-1]))
    edges = np.unique(np.concatenate([logs, np.linspace(0.0, end, PANELS + 1)]))
    unit, weight = _legendre(6)
    half = 0.5 * np.diff(edges)[:, None]
    u = (edges[:-1, None] + half) + half * unit
    parts = (half * weight * np.exp(_exponent(a, r, u) - top)).sum(axis=1)
    beyond = np.append(np.cumsum(parts[::-1])[::-1], 0.0)
    return beyond[np.searchsorted(edges, logs)] / beyond[0]
