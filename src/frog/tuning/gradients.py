"""The gradient of the chosen entries of a linear layer, y = x W^T, from its input and its output.

For x (t, n) and the gradient dy (t, m) of the output, the dense gradient of W is dy^T x (m, n).
Each strategy computes k of its entries, in float32, in the order of the compact vector:

    rows      whole rows: dy[:, rows]^T x
    columns   whole columns: dy^T x[:, columns]; only those columns of x are kept
    blocks    rectangles, one small product each, batched
    sampled   single entries by a sampled product of a sparse pattern
    gather    the dense gradient, then k of its entries
    slabs     the same, so many rows at a time

What each costs: benchmarks/results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frog.numerics.units import grid_of

SLAB = 256
"""Rows of the dense gradient that ``slabs`` makes at a time."""

STRATEGIES = ("rows", "columns", "blocks", "sampled", "gather", "slabs")


@dataclass(slots=True)
class Pattern:
    """Where k chosen entries of an (m, n) matrix lie, prepared for one strategy."""

    shape: tuple[int, int]
    strategy: str
    rows: Tensor
    columns: Tensor
    units: Tensor
    block_size: tuple[int, int] = (1, 1)
    crow: Tensor | None = None  # (m + 1,): the compressed rows of the sampled product
    order: Tensor | None = None  # (k,): from ascending entries to the compact vector

    @property
    def narrow(self) -> bool:
        """Whether only some columns of x are needed."""
        return self.strategy == "columns"


def choose_strategy(granularity: str, shape: tuple[int, int], size: tuple[int, int]) -> str:
    """The cheapest strategy that was measured for a granularity."""
    if granularity == "block":
        whole = shape[0] % size[0] == 0 and shape[1] % size[1] == 0
        return "blocks" if whole else "gather"
    return {"row": "rows", "column": "columns"}.get(granularity, "gather")


def pattern_of(
    shape: tuple[int, int],
    strategy: str,
    rows: Tensor,
    columns: Tensor,
    units: np.ndarray,
    block_size: tuple[int, int] = (1, 1),
) -> Pattern:
    """Prepare the chosen entries (rows and columns, (k,) each; units (u,)) for a strategy."""
    pattern = Pattern(
        shape=shape,
        strategy=strategy,
        rows=rows,
        columns=columns,
        units=torch.from_numpy(np.ascontiguousarray(units)).to(rows.device),
        block_size=block_size,
    )
    if strategy == "sampled":
        flat = rows * shape[1] + columns
        pattern.order = torch.argsort(torch.argsort(flat))
        counts = torch.bincount(rows, minlength=shape[0])
        pattern.crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        pattern.columns = columns[torch.argsort(flat)]
    return pattern


def keep(x: Tensor, pattern: Pattern) -> Tensor:
    """What of the input (..., n) must be kept for the way back: all, or the chosen columns."""
    return x[..., pattern.units] if pattern.narrow else x


def compact_gradient(kept: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    """(k,) float32 from what :func:`keep` kept, (..., n) or fewer, and dy (..., m)."""
    kept = kept.reshape(-1, kept.shape[-1]).to(dy.dtype)
    dy = dy.reshape(-1, dy.shape[-1])
    return _COMPUTE[pattern.strategy](kept, dy, pattern).float()


def _rows(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    return (dy[:, pattern.units].T @ x).reshape(-1)


def _columns(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    return (x.T @ dy).reshape(-1)


def _blocks(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    tall, wide = pattern.block_size
    across = grid_of(pattern.shape, pattern.block_size)[1]
    # (blocks, t, tall) and (blocks, t, wide): a strip of dy against a strip of x
    left = dy.view(len(dy), -1, tall).transpose(0, 1)[pattern.units // across]
    right = x.view(len(x), -1, wide).transpose(0, 1)[pattern.units % across]
    return torch.bmm(left.transpose(1, 2), right).reshape(-1)


def _gather(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    flat = pattern.rows * pattern.shape[1] + pattern.columns
    return (dy.T @ x).reshape(-1)[flat]


def _slabs(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    result = x.new_empty(len(pattern.rows))
    for start in range(0, pattern.shape[0], SLAB):
        here = (pattern.rows >= start) & (pattern.rows < start + SLAB)
        slab = dy[:, start : start + SLAB].T @ x
        flat = (pattern.rows[here] - start) * pattern.shape[1] + pattern.columns[here]
        result[here] = slab.reshape(-1)[flat]
    return result


def _sampled(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    assert pattern.crow is not None and pattern.order is not None
    zeros = x.new_zeros(len(pattern.columns))
    where = torch.sparse_csr_tensor(pattern.crow, pattern.columns, zeros, size=pattern.shape)
    return torch.sparse.sampled_addmm(where, dy.T, x, beta=0.0).values()[pattern.order]


_COMPUTE: dict[str, Any] = {
    "rows": _rows,
    "columns": _columns,
    "blocks": _blocks,
    "gather": _gather,
    "slabs": _slabs,
    "sampled": _sampled,
}
