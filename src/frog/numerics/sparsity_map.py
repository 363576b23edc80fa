"""From one alpha per block to one sparsity per block, with the weighted mean exactly as asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frog.errors import UsageError


def sparsity_by_alpha(
    alphas: Sequence[float],
    params: Sequence[float],
    *,
    sparsity: float,
    spread: float,
    cap: float = 1.0,
) -> np.ndarray:
    """Share of weights to remove from each block, linear in its alpha, mean exactly ``sparsity``.

    r_i = (alpha_i - min) / (max - min) * 2 eps + (1 - eps), eps = ``spread`` in [0, 1];
    s_i = S r_i sum(P) / sum(P r), with S = ``sparsity`` and P = ``params``. A larger alpha is
    pruned more. Where s_i > ``cap`` it is water-filled: that block gets the cap, and the blocks
    below it share what is left in proportion to r, until sum(P s) / sum(P) = S. (The published
    code clips to 0.998 and misses S.) Equal alphas give S everywhere; a NaN alpha stands in the
    middle (r = 1). Shape (L,) in, (L,) out.

    Raises :class:`~frog.errors.UsageError` for lengths that differ, no block, a parameter count
    that is not positive, S outside [0, cap], or cap or eps outside [0, 1].
    Source: Lu et al. 2024, "AlphaPruning", NeurIPS, its linear map; used by Hu et al. 2025
    (FARMS), arXiv:2506.06280.

    >>> sparsity_by_alpha([2.0, 3.0, 4.0], [1, 1, 2], sparsity=0.5, spread=0.2).round(4)
    array([0.381 , 0.4762, 0.5714])
    >>> sparsity_by_alpha([2.0, 4.0], [1, 1], sparsity=0.9, spread=0.5)
    array([0.8, 1. ])
    """
    alpha = np.asarray(alphas, dtype=np.float64)
    weight = np.asarray(params, dtype=np.float64)
    _check(alpha, weight, sparsity, spread, cap)
    ratio = _linear(alpha, spread)
    result = np.zeros_like(ratio)
    free = np.ones(len(ratio), dtype=bool)
    left = sparsity * weight.sum()
    while free.any() and left > 0:
        carried = float((weight[free] * ratio[free]).sum())
        if carried <= 0:  # all that is below the cap has r = 0: it shares evenly
            ratio[free], carried = 1.0, float(weight[free].sum())
        result[free] = ratio[free] * (left / carried)
        over = free & (result > cap)
        if not over.any():
            break
        result[over] = cap
        left -= cap * float(weight[over].sum())
        free &= ~over
    return result


def _linear(alpha: np.ndarray, spread: float) -> np.ndarray:
    known = ~np.isnan(alpha)
    ratio = np.ones_like(alpha)
    if known.any():
        low, high = alpha[known].min(), alpha[known].max()
        if high > low:
            ratio[known] = (alpha[known] - low) / (high - low) * 2 * spread + (1 - spread)
    return ratio


def _check(
    alpha: np.ndarray, weight: np.ndarray, sparsity: float, spread: float, cap: float
) -> None:
    if alpha.ndim != 1 or alpha.shape != weight.shape or len(alpha) == 0:
        raise UsageError(
            "alphas and params must be of one length, at least 1, "
            f"got shapes {alpha.shape} and {weight.shape}"
        )
    if np.isinf(alpha).any():
        raise UsageError("every alpha must be finite, or NaN where there is none, got an infinity")
    if not (np.isfinite(weight).all() and (weight > 0).all()):
        raise UsageError(f"every parameter count must be positive, got {weight.min():g}")
    if not 0 <= cap <= 1:
        raise UsageError(f"cap must be in [0, 1], got {cap}")
    if not 0 <= sparsity <= cap:
        raise UsageError(f"sparsity must be in [0, cap] = [0, {cap:g}], got {sparsity}")
    if not 0 <= spread <= 1:
        raise UsageError(f"spread must be in [0, 1], got {spread}")
