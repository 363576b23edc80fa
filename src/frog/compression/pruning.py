"""Which weights stay: masks at an exact count, or N of every M inputs.

    magnitude    |w_ij|
    wanda        |w_ij| ||x_j||_2, compared within a row (Sun et al. 2023, arXiv:2306.11695, eq. 1)
    relevance    S_ij = sum_k sigma_k |u_ik| |v_jk| (:mod:`frog.numerics.relevance`)

A mask is True where the weight stays. Zeros that are there already count as pruned and go first,
whatever their score; of equal scores the one with the lower index stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from frog.errors import UsageError
from frog.numerics import relevance as rel
from frog.numerics.rounding import refuse_odd
from frog.registry import Registry

Within = Literal["matrix", "row"]

IMPORTANCE: Registry[Callable[[Tensor, Tensor | None], Tensor]] = Registry("importance of weights")
"""From a matrix (m, n) and the norms of its inputs (n,), or None, to scores (m, n)."""

SLAB_ENTRIES = 1 << 20
"""Entries that are compared at a time."""


def magnitude(weight_mn: Tensor, norms_n: Tensor | None = None) -> Tensor:
    """|w_ij|."""
    return weight_mn.abs()


def wanda(weight_mn: Tensor, norms_n: Tensor | None) -> Tensor:
    """|w_ij| ||x_j||_2, float32: sizes of the terms of an output, the same for all tokens."""
    if norms_n is None or tuple(norms_n.shape) != (weight_mn.shape[1],):
        got = "none" if norms_n is None else tuple(norms_n.shape)
        raise UsageError(
            f"wanda needs the norms of the {weight_mn.shape[1]} inputs, got {got}: measure them "
            "with input_norms(model, matrices, batches=..., outputs=...)"
        )
    if not bool((torch.isfinite(norms_n) & (norms_n >= 0)).all()):
        raise UsageError("norms of inputs must be finite and not negative: measure them anew")
    wide = torch.promote_types(weight_mn.dtype, torch.float32)
    return weight_mn.abs().to(wide) * norms_n.to(weight_mn.device, wide)


def relevance(weight_mn: Tensor, norms_n: Tensor | None = None) -> Tensor:
    """S_ij over all components, float32."""
    found = rel.relevance(rel.factors(weight_mn.detach().float().cpu().numpy()))
    return torch.from_numpy(found.slab(0, len(weight_mn))).to(weight_mn.device)


IMPORTANCE.add("magnitude", magnitude)
IMPORTANCE.add("wanda", wanda)
IMPORTANCE.add("relevance", relevance)


def count_at(size: int, sparsity: float) -> int:
    """Weights to prune of ``size`` at a sparsity in 0..1: the nearest whole number.

    >>> count_at(10, 0.25), count_at(10, 0.35)
    (2, 4)
    """
    if not 0 <= sparsity <= 1:
        raise UsageError(
            f"a sparsity must lie in 0..1, got {sparsity}: give a share of the weights"
        )
    return round(sparsity * size)


def keep_mask(
    weight_mn: Tensor, scores_mn: Tensor, *, pruned: int, within: Within = "matrix"
) -> Tensor:
    """A mask (m, n) with exactly ``pruned`` entries False, those of the lowest scores.

    Within rows each loses the same number, where it does not divide the first rows one more: the
    count of the matrix is exact.

    >>> w = torch.tensor([[3.0, 1.0, 2.0], [0.0, 9.0, 8.0]])
    >>> keep_mask(w, w.abs(), pruned=3).int().tolist()
    [[1, 0, 0], [0, 1, 1]]
    >>> keep_mask(w, w.abs(), pruned=3, within="row").int().tolist()
    [[1, 0, 0], [0, 1, 1]]
    """
    m, n = weight_mn.shape
    if not 0 <= pruned <= m * n:
        raise UsageError(f"the count to prune must lie in 0..{m * n}, got {pruned}")
    scores = _zeros_first(weight_mn, scores_mn)
    if within == "matrix":
        return _lowest_out(scores.reshape(-1), pruned).view(m, n)
    if within != "row":
        raise UsageError(f"weights are compared within 'matrix' or 'row', got '{within}'")
    each, more = divmod(pruned, m)
    stay = torch.full((m, 1), n - each, device=scores.device)
    stay[:more] -= 1
    mask = torch.empty(m, n, dtype=torch.bool, device=scores.device)
    rows = max(1, SLAB_ENTRIES // n)
    for start in range(0, m, rows):
        part = slice(start, start + rows)
        mask[part] = _ranks(scores[part]) < stay[part]
    return mask


def n_of_m_mask(weight_mn: Tensor, scores_mn: Tensor, *, keep: int = 2, of: int = 4) -> Tensor:
    """A mask (m, n) with the ``keep`` highest scores of every ``of`` inputs in turn True: 2:4.

    >>> w = torch.tensor([[3.0, 1.0, 2.0, 2.0]])
    >>> n_of_m_mask(w, w.abs()).int().tolist()
    [[1, 0, 1, 0]]
    """
    m, n = weight_mn.shape
    if not 0 <= keep <= of or of < 1 or n % of:
        raise UsageError(
            f"{keep}:{of} needs 0 <= {keep} <= {of} and inputs in whole groups of {of}, got {n} "
            "inputs: leave this matrix as it is"
        )
    scores = _zeros_first(weight_mn, scores_mn)
    return (_ranks(scores.reshape(-1, of)) < keep).view(m, n)


def _zeros_first(weight_mn: Tensor, scores_mn: Tensor) -> Tensor:
    """Scores with -1 where the weight is zero: below all others."""
    refuse_odd(weight_mn)
    if scores_mn.shape != weight_mn.shape:
        raise UsageError(
            f"scores must be {tuple(weight_mn.shape)} as the matrix, got {tuple(scores_mn.shape)}"
        )
    if not bool((scores_mn >= 0).all()):  # false for NaN, too
        raise UsageError("scores of weights must be numbers of 0 or more, got others")
    wide = torch.promote_types(scores_mn.dtype, torch.float32)
    # a zero of either sign is one number
    return scores_mn.detach().to(wide).masked_fill(weight_mn == 0, -1.0).add_(0.0)


def _lowest_out(scores: Tensor, out: int) -> Tensor:
    """False at the ``out`` lowest of (k,) scores; of equals the last ones."""
    if out == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    cut = _order_of(scores, out)
    mask = scores >= cut
    fall = out - (len(mask) - int(mask.count_nonzero()))
    for start in reversed(range(0, len(scores), SLAB_ENTRIES)):
        part = slice(start, start + SLAB_ENTRIES)
        ties = torch.nonzero(scores[part] == cut)[:, 0]
        last = ties[max(0, len(ties) - fall) :]
        mask[start + last] = False
        fall -= len(last)
        if fall == 0:
            break
    return mask


def _order_of(scores: Tensor, k: int) -> Tensor:
    """The k-th lowest score, exactly, without a copy: bisection over the bits of the numbers.

    Read as integers, floats of 0 or more are in their own order, and -1, the only score below,
    is negative.
    """
    bits = scores.view(torch.int64 if scores.dtype == torch.float64 else torch.int32)
    low, high = int(bits.min()), int(bits.max())
    while low < high:
        middle = (low + high) // 2
        if sum(int((x <= middle).sum()) for x in bits.split(SLAB_ENTRIES)) >= k:
            high = middle
        else:
            low = middle + 1
    return torch.tensor([low], dtype=bits.dtype).view(scores.dtype).to(scores.device)


def _ranks(scores: Tensor) -> Tensor:
    """Place of each entry in its row, 0 for the highest, equals in order of index."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
