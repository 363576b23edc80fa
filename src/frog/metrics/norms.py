"""Columns of size: norms of the matrix. As in WeightWatcher, norms are of squared values."""

from __future__ import annotations

import math

from frog.metrics.probe import Probe
from frog.metrics.registry import metric
from frog.metrics.tail import MARTIN_2021

WW = "WeightWatcher 0.7.7"


@metric("norm", symbol="‖W‖_F²", better="lower", degree=2, source=WW)
def norm(probe: Probe) -> float:
    """Squared Frobenius norm: the sum of the eigenvalues."""
    return float(probe.eigenvalues.sum())


@metric("log_norm", symbol="log₁₀‖W‖_F²", better="lower", degree="log", source=MARTIN_2021)
def log_norm(probe: Probe) -> float:
    """Logarithm of the squared Frobenius norm."""
    return _log10(norm(probe))


@metric("lambda_max", symbol="λ₁", better="lower", degree=2, source=WW)
def lambda_max(probe: Probe) -> float:
    """Largest eigenvalue of WᵀW."""
    return float(probe.eigenvalues[0]) if len(probe.eigenvalues) else math.nan


@metric("spectral_norm", symbol="σ₁² = λ₁", better="lower", degree=2, source=WW)
def spectral_norm(probe: Probe) -> float:
    """Squared spectral norm: the largest eigenvalue, under WeightWatcher's name."""
    return lambda_max(probe)


@metric("log_spectral_norm", symbol="log₁₀λ₁", better="lower", degree="log", source=MARTIN_2021)
def log_spectral_norm(probe: Probe) -> float:
    """Logarithm of the largest eigenvalue."""
    return _log10(lambda_max(probe))


@metric("sv_max", symbol="σ₁", better="lower", degree=1, source=WW)
def sv_max(probe: Probe) -> float:
    """Largest singular value."""
    values = probe.spectrum.singular_values
    return float(values[0]) if len(values) else math.nan


@metric("sv_min", symbol="σ_r", better="none", degree=1, source=WW)
def sv_min(probe: Probe) -> float:
    """Smallest singular value; no value where it is below the resolution of the spectrum."""
    values = probe.spectrum.singular_values
    return float(values[-1]) if len(values) and probe.resolved else math.nan


def _log10(value: float) -> float:
    """log₁₀, without a value for zero: a zero matrix has no scale."""
    return math.log10(value) if value > 0 else math.nan
