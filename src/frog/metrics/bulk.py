"""Columns of the bulk: the Marchenko-Pastur law of the random part, and what lies above it."""

from __future__ import annotations

import math

from frog.metrics.norms import WW
from frog.metrics.probe import Probe
from frog.metrics.registry import metric

MP = "Marchenko & Pastur 1967, Math. USSR-Sbornik 1(4)"
MARTIN_2018 = "Martin & Mahoney 2021, JMLR 22(165)"


@metric("sigma_mp", symbol="√(v m n)/‖W‖_F", better="none", degree=0, source=WW)
def sigma_mp(probe: Probe) -> float:
    """Scale of the bulk's fitted Marchenko-Pastur law; 1 when the whole matrix is random."""
    total = float(probe.eigenvalues.sum())
    if not total > 0:
        return math.nan
    m, n = probe.shape
    return math.sqrt(probe.bulk.variance / total * m * n)


@metric("bulk_min", symbol="v(√N-√r)²", better="none", degree=2, source=MP)
def bulk_min(probe: Probe) -> float:
    """Lower edge of the fitted law; N and r less the number of spikes."""
    return probe.bulk.low


@metric("bulk_max", symbol="v(√N+√r)²", better="none", degree=2, source=MP)
def bulk_max(probe: Probe) -> float:
    """Upper edge of the fitted law; N and r less the number of spikes."""
    return probe.bulk.high


@metric("num_spikes", symbol="#{λ > λ₊}", better="none", degree=0, source=WW)
def num_spikes(probe: Probe) -> float:
    """Number of eigenvalues above the upper edge and its Tracy-Widom fluctuation at 0.1 %."""
    return probe.bulk.spikes


@metric("mp_softrank", symbol="v(√N+√r)²/λ₁", better="none", degree=0, source=MARTIN_2018)
def mp_softrank(probe: Probe) -> float:
    """Upper edge of the bulk over the largest eigenvalue; about 1 for a random matrix."""
    return probe.bulk.high / float(probe.eigenvalues[0]) if probe.bulk.high > 0 else math.nan


@metric("bulk_ks", symbol="D (bulk, MP)", better="none", degree=0, source="FROG")
def bulk_ks(probe: Probe) -> float:
    """Kolmogorov-Smirnov distance between the bulk and its law; large: there is no such bulk."""
    return probe.bulk.ks


@metric("bulk_share", symbol="Σ_bulk λ/‖W‖_F²", better="none", degree=0, source="FROG")
def bulk_share(probe: Probe) -> float:
    """Share of the energy ‖W‖_F² that lies in the bulk."""
    return probe.bulk.share
