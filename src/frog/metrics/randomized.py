"""Columns of the shuffled matrix: what of the spectrum is left when the entries change places.

The entries of W are permuted at random, so their values stay and every correlation between them
goes. What still stands out then comes from the values alone: a few huge entries, the correlation
traps of WeightWatcher. Only with ``Settings.randomize`` = N > 0; with N > 1 a column is the mean
over the N permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from frog.metrics.norms import WW
from frog.metrics.probe import Probe
from frog.metrics.registry import metric
from frog.numerics.shuffling import Shuffled
from frog.types import NAN, Finding


def trap_finding(name: str, found: Shuffled) -> Finding | None:
    """The finding of correlation traps, or None.

    Certain when more than half of the permutations have an eigenvalue beyond the edge: the edge
    is at 0.1 % over N, so even one of a matrix of light tails has less than 0.1 % to show any.
    Possible when some have one.
    """
    traps = found.traps
    showing = sum(count > 0 for count in traps)
    if not showing:
        return None
    certain = 2 * showing > len(traps)
    count = fmean(traps)
    many = "an eigenvalue lies" if count == 1 else f"{count:.3g} eigenvalues lie"
    return Finding(
        kind="correlation-trap",
        certainty="certain" if certain else "possible",
        severity="warning" if certain else "info",
        layer=name,
        value=count,
        threshold=0.0,
        text=f"{name} has correlation traps: with its entries in random order {many} beyond the "
        "bulk, which a few huge entries do",
    )


# --------------------------------------------------------------------------- columns


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else NAN


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else NAN


@metric("max_rand_eval", symbol="λ₁(shuffled)", better="none", degree=2, source=WW)
def max_rand_eval(probe: Probe) -> float:
    """Largest eigenvalue of the matrix with its entries in random order."""
    return _mean(probe.shuffled.largest)


@metric("max_rand_eval_sd", symbol="sd λ₁(shuffled)", better="none", degree=2, source="FROG")
def max_rand_eval_sd(probe: Probe) -> float:
    """Standard deviation of that over the permutations; no value for a single one."""
    return _spread(probe.shuffled.largest)


@metric("rand_distance", symbol="√JSD(λ, λ_shuffled)", better="none", degree=0, source=WW)
def rand_distance(probe: Probe) -> float:
    """Distance between the sorted eigenvalues, as shares of their sum, and the shuffled ones."""
    return _mean(probe.shuffled.distance)


@metric("ww_softrank", symbol="λ₁(shuffled)/λ₁", better="none", degree=0, source=WW)
def ww_softrank(probe: Probe) -> float:
    """Largest eigenvalue of the shuffled matrix over that of the matrix as it is."""
    if not probe.shuffled.largest:
        return NAN
    return max_rand_eval(probe) / float(probe.eigenvalues[0])


@metric("ww_maxdist", symbol="λ₁-λ₁(shuffled)", better="none", degree=2, source=WW)
def ww_maxdist(probe: Probe) -> float:
    """Largest eigenvalue less that of the shuffled matrix."""
    if not probe.shuffled.largest:
        return NAN
    return float(probe.eigenvalues[0]) - max_rand_eval(probe)


@metric("num_traps", symbol="#{λ_shuffled > λ₊}", better="lower", degree=0, source=WW)
def num_traps(probe: Probe) -> float:
    """Correlation traps: eigenvalues of the shuffled matrix beyond the edge of its bulk."""
    return _mean(probe.shuffled.traps)


@metric("num_traps_sd", symbol="sd #{λ_shuffled > λ₊}", better="none", degree=0, source="FROG")
def num_traps_sd(probe: Probe) -> float:
    """Standard deviation of that over the permutations; no value for a single one."""
    return _spread(probe.shuffled.traps)
