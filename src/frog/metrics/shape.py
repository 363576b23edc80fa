"""Columns of the spectrum's shape: how many directions a matrix uses, and how evenly."""

from __future__ import annotations

import math

import numpy as np

from frog.metrics.norms import WW
from frog.metrics.probe import Probe
from frog.metrics.registry import metric

WEAK = 1e-6
"""Eigenvalues below this count as weak: WeightWatcher's absolute tolerance."""


@metric("stable_rank", symbol="‖W‖_F²/λ₁", better="band", degree=0,
        source="Rudelson & Vershynin 2007, J. ACM 54(4)")  # fmt: skip
def stable_rank(probe: Probe) -> float:
    """Number of directions of full weight: sum of the eigenvalues over the largest."""
    values = probe.eigenvalues
    return float(values.sum() / values[0]) if len(values) and values[0] > 0 else math.nan


@metric("entropy", symbol="-Σp ln p / ln rank", better="band", degree=0, source=WW)
def entropy(probe: Probe) -> float:
    """Evenness of the spectrum, 0 (one direction) to 1 (all alike), with p = λ/Σλ."""
    values = probe.eigenvalues
    total = values.sum()
    rank = _rank(probe)
    if not total > 0 or rank < 2:
        return math.nan
    share = values[values > 0] / total
    return float(-(share * np.log(share)).sum() / math.log(rank))


@metric("matrix_rank", symbol="#{σ > σ₁ N eps}", better="higher", degree=0, source=WW)
def matrix_rank(probe: Probe) -> float:
    """Number of singular values above the rounding error of float64."""
    return _rank(probe) if probe.finite and probe.resolved else math.nan


@metric("rank_loss", symbol="r - rank", better="lower", degree=0, source=WW)
def rank_loss(probe: Probe) -> float:
    """Directions that the matrix has lost: min(m, n) less its rank."""
    return min(probe.shape) - matrix_rank(probe)


@metric("weak_rank_loss", symbol="#{λ < 10⁻⁶}", better="lower", degree="none", source=WW)
def weak_rank_loss(probe: Probe) -> float:
    """Number of eigenvalues below the absolute tolerance 1e-6."""
    if not probe.finite or not probe.resolved:
        return math.nan
    missing = min(probe.shape) - len(probe.eigenvalues)
    return float((probe.eigenvalues < WEAK).sum() + missing)


@metric("num_evals", symbol="r", better="none", degree=0, source=WW)
def num_evals(probe: Probe) -> float:
    """Number of eigenvalues."""
    return float(len(probe.eigenvalues))


@metric("M", symbol="min(m, n)", better="none", degree=0, source=WW)
def small_side(probe: Probe) -> float:
    """Smaller side of the matrix."""
    return float(min(probe.shape))


@metric("N", symbol="max(m, n)", better="none", degree=0, source=WW)
def large_side(probe: Probe) -> float:
    """Larger side of the matrix."""
    return float(max(probe.shape))


@metric("Q", symbol="N/M", better="none", degree=0, source=WW)
def aspect_ratio(probe: Probe) -> float:
    """Aspect ratio, at least 1."""
    return max(probe.shape) / min(probe.shape)


@metric("rf", symbol="k_h k_w", better="none", degree=0, source=WW)
def receptive_field(probe: Probe) -> float:
    """Positions of a convolution's kernel; 1 for other matrices."""
    view = probe.matrix.view
    if view is None or not probe.matrix.kind.startswith("conv"):
        return 1.0
    return float(math.prod(view.tensor_shape[2:]))


def _rank(probe: Probe) -> float:
    values = probe.spectrum.singular_values
    if len(values) == 0 or math.isnan(values[0]):
        return math.nan
    limit = max(values[0] * max(probe.shape) * np.finfo(np.float64).eps, 0.0)
    return float((values > limit).sum())
