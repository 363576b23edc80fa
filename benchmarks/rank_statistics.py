"""Rank correlations with what a reader needs to judge them: intervals, exact p, corrections."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 5000
EXACT_UP_TO = 8
"""Up to 8! = 40,320 permutations are counted out, beyond that they are drawn."""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rho of n pairs, a 95 % bootstrap interval, a two-sided permutation p."""

    n: int
    rho: float
    low: float
    high: float
    p: float
    tau: float

    def cell(self) -> str:
        """As in the tables: rho [low, high]."""
        if math.isnan(self.rho):
            return "–"
        return f"{self.rho:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


NONE = Correlation(n=0, rho=math.nan, low=math.nan, high=math.nan, p=math.nan, tau=math.nan)


def correlate(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> Correlation:
    """Spearman and Kendall of the pairs where both are numbers; NaN for fewer than 4 of them."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    n = len(a)
    if n < 4 or len(set(a)) < 2 or len(set(b)) < 2:
        return Correlation(**{**NONE.__dict__, "n": n})
    rng = np.random.default_rng(seed)
    rho = _rho(stats.rankdata(a), stats.rankdata(b))
    drawn = rng.integers(0, n, (DRAWS // 5, n))
    resampled = [_rho(stats.rankdata(a[i]), stats.rankdata(b[i])) for i in drawn]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Correlation(
        n=n,
        rho=rho,
        low=float(low),
        high=float(high),
        p=_permutation_p(stats.rankdata(a), stats.rankdata(b), rng),
        tau=float(stats.kendalltau(a, b).statistic),
    )


def partial(x: Sequence[float], y: Sequence[float], given: Sequence[float]) -> float:
    """Spearman's rho of x and y with the ranks of ``given`` regressed out of both."""
    columns = np.array([x, y, given], float)
    columns = columns[:, ~np.isnan(columns).any(0)]
    if columns.shape[1] < 5:
        return math.nan
    a, b, c = (stats.rankdata(column) for column in columns)
    ab, ac, bc = _rho(a, b), _rho(a, c), _rho(b, c)
    rest = (1 - ac**2) * (1 - bc**2)
    return (ab - ac * bc) / math.sqrt(rest) if rest > 1e-9 else math.nan


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction; NaN stays NaN and does not count."""
    known = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    corrected, largest = dict.fromkeys(p_values, math.nan), 0.0
    for i, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - i)))
        corrected[name] = largest
    return corrected


def pooled(groups: Sequence[tuple[Sequence[float], Sequence[float]]], *, seed: int = 0) -> tuple:
    """Mean Spearman over groups, its two-sided p under permutation within groups, and how many.

    The interval of a mean over a handful of groups would pretend: the groups are not a sample.
    """
    ranked = []
    for x, y in groups:
        a, b = np.asarray(x, float), np.asarray(y, float)
        both = ~(np.isnan(a) | np.isnan(b))
        if both.sum() >= 4 and len(set(a[both])) > 1 and len(set(b[both])) > 1:
            ranked.append((stats.rankdata(a[both]), stats.rankdata(b[both])))
    if not ranked:
        return math.nan, math.nan, 0
    rng = np.random.default_rng(seed)
    found = float(np.mean([_rho(a, b) for a, b in ranked]))
    drawn = np.zeros(DRAWS)
    for a, b in ranked:
        drawn += _permuted_rho(a, b, rng, DRAWS) / len(ranked)
    return (
        found,
        float((1 + np.sum(np.abs(drawn) >= abs(found) - 1e-12)) / (1 + DRAWS)),
        len(ranked),
    )


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def _permuted_rho(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    a, b = a - a.mean(), b - b.mean()
    moved = rng.permuted(np.tile(b, (draws, 1)), axis=1)
    return moved @ a / math.sqrt(float(a @ a) * float(b @ b))


def _permutation_p(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> float:
    found = abs(_rho(a, b)) - 1e-12
    if len(a) <= EXACT_UP_TO:
        every = np.array(list(itertools.permutations(b)))
        x = a - a.mean()
        rhos = (every - b.mean()) @ x / math.sqrt(float(x @ x) * float(((b - b.mean()) ** 2).sum()))
        return float(np.mean(np.abs(rhos) >= found))
    drawn = _permuted_rho(a, b, rng, DRAWS)
    return float((1 + np.sum(np.abs(drawn) >= found)) / (1 + DRAWS))
