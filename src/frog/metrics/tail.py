"""Columns of the tail fit: alpha, its uncertainty, and what WeightWatcher derives from it."""

from __future__ import annotations

import math

import numpy as np

from frog.metrics.probe import Probe
from frog.metrics.registry import metric

MARTIN_2021 = "Martin, Peng & Mahoney 2021, Nature Communications 12:4122"
HU_2025 = "Hu et al. 2025, FARMS, arXiv:2506.06280 (the start at the median)"
CLAUSET_2009 = "Clauset, Shalizi & Newman 2009, SIAM Review 51(4)"


@metric("alpha", symbol="α", better="band", degree=0, source=f"{CLAUSET_2009}, eq. 3.1")
def alpha(probe: Probe) -> float:
    """Exponent of the power law fitted to the tail of the eigenvalues."""
    return probe.fit.alpha


@metric("alpha_low", symbol="α₋", better="none", degree=0, source="design note 002")
def alpha_low(probe: Probe) -> float:
    """Lower end of alpha's 95 % bootstrap interval, xmin chosen anew in every resample."""
    return probe.fit.low


@metric("alpha_high", symbol="α₊", better="none", degree=0, source="design note 002")
def alpha_high(probe: Probe) -> float:
    """Upper end of alpha's 95 % bootstrap interval, xmin chosen anew in every resample."""
    return probe.fit.high


@metric("alpha_band_low", symbol="α (D ≤ 1.1 D₀), min", better="none", degree=0, source="FROG")
def alpha_band_low(probe: Probe) -> float:
    """Smallest alpha over all xmin whose distance is at most 1.1 times the best."""
    return probe.fit.band_low


@metric("alpha_band_high", symbol="α (D ≤ 1.1 D₀), max", better="none", degree=0, source="FROG")
def alpha_band_high(probe: Probe) -> float:
    """Largest alpha over all xmin whose distance is at most 1.1 times the best."""
    return probe.fit.band_high


@metric("alpha_without_top", symbol="α (λ₁ left out)", better="none", degree=0, source="FROG")
def alpha_without_top(probe: Probe) -> float:
    """Alpha when the largest eigenvalue is left out: far from alpha means fragile."""
    return probe.fit.without_top


@metric("sigma", symbol="(α-1)/√k", better="lower", degree=0, source=f"{CLAUSET_2009}, eq. 3.2")
def sigma(probe: Probe) -> float:
    """Standard error of alpha at fixed xmin."""
    return probe.fit.stderr


@metric("D", symbol="D", better="lower", degree=0, source=f"{CLAUSET_2009}, eq. 3.9")
def ks_distance(probe: Probe) -> float:
    """Kolmogorov-Smirnov distance between the tail and the fitted law."""
    return probe.fit.ks


@metric("goodness", symbol="p", better="higher", degree=0, source=f"{CLAUSET_2009}, section 4.1")
def goodness(probe: Probe) -> float:
    """Share of synthetic samples of the fitted law that fit worse; small speaks against it."""
    return probe.fit.goodness


@metric("xmin", symbol="x_min", better="none", degree=2, source=CLAUSET_2009)
def xmin(probe: Probe) -> float:
    """Eigenvalue at which the fitted tail begins."""
    return probe.fit.xmin


@metric("xmax", symbol="x_max", better="none", degree=2, source="WeightWatcher 0.7.7")
def xmax(probe: Probe) -> float:
    """Largest eigenvalue in the fitted tail."""
    return probe.fit.xmax


@metric("num_pl_spikes", symbol="k", better="none", degree=0, source="WeightWatcher 0.7.7")
def num_pl_spikes(probe: Probe) -> float:
    """Number of eigenvalues in the fitted tail."""
    return float(probe.fit.n_tail) if probe.fit.ok else math.nan


@metric("Lambda", symbol="Λ", better="none", degree=-2, source="WeightWatcher 0.7.7")
def rate(probe: Probe) -> float:
    """Exponential cut-off of a truncated power law; no value for other estimators."""
    return probe.fit.rate


@metric("alpha_weighted", symbol="α̂ = α log₁₀λ₁", better="lower", degree="alpha-log",
        source=MARTIN_2021)  # fmt: skip
def alpha_weighted(probe: Probe) -> float:
    """Alpha-hat: alpha times the logarithm of the largest eigenvalue; not of FARMS windows."""
    if not probe.fit.ok or probe.pool is not None:
        return math.nan
    return probe.fit.alpha * math.log10(probe.eigenvalues[0])


@metric("log_alpha_norm", symbol="log₁₀ Σλ^α", better="lower", degree="alpha-log",
        source=MARTIN_2021)  # fmt: skip
def log_alpha_norm(probe: Probe) -> float:
    """Logarithm of the alpha-norm, Schatten norm of exponent 2 alpha; not of FARMS windows."""
    if not probe.fit.ok or probe.pool is not None:
        return math.nan
    top = probe.eigenvalues[0]
    # scaled by the largest: lambda^alpha overflows for large alpha
    total = float(np.sum((probe.eigenvalues / top) ** probe.fit.alpha))
    return math.log10(total) + probe.fit.alpha * math.log10(top)


@metric("alpha_hill", symbol="α (x_min = median)", better="none", degree=0, source=HU_2025)
def alpha_hill(probe: Probe) -> float:
    """Exponent of the upper half of the eigenvalues, by Hill's estimator, from r = 12 on."""
    return probe.hill.alpha


@metric("randomness", symbol="(α_hill-1)/(α_random-1)", better="band", degree=0, source="FROG")
def randomness(probe: Probe) -> float:
    """Slope of the upper half over its median in random matrices of that shape: 1 is like those."""
    return probe.randomness
