"""The gradient of the chosen entries of a linear layer, y = x W^T, from its input and its output.

For x (t, n) and the gradient dy (t, m) of the output, the dense gradient of W is dy^T x (m, n).
Each strategy computes k of its entries, in float32, in the order of the compact vector:

    rows      whole rows: dy[:, rows]^T x
    columns   whole columns: dy^T x[:, columns]; only those columns of x are kept
    blocks    rectangles, one small product each; batched where they are many
    pairs     single entries, each from its own column of dy and of x, a panel of tokens at a time
    sampled   single entries by a sampled product of a sparse pattern, a panel of tokens at a time
    gather    the dense gradient, then k of its entries
    slabs     the same, so many rows at a time

What each costs: benchmarks/results.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frog.numerics.units import grid_of

SLAB = 256
"""Rows of the dense gradient that ``slabs`` makes at a time."""

STRIPS = 1 << 19
"""Numbers of dy and x that the blocks copy at a time."""

FEW = 10_000
"""Of b blocks, each is multiplied by itself up to b = tokens (m + n) / FEW, on a CPU."""

PANEL = 1 << 19
SHORTEST = 64
"""Numbers of dy and x that are turned at a time, on a CPU, so that both panels stay in the cache;
and the tokens that they have at least."""

SPARSE_UNTIL = 0.15
"""Share of chosen entries up to which a sampled product is cheaper than the dense one, on a CPU:
measured equal at 0.3 for 16 to 2048 tokens; below it also saves the memory of the dense one."""

DENSE_BELOW = 1 << 15
"""Entries of a matrix below which its dense gradient costs less than turning dy and x, on a CPU."""

STRATEGIES = ("rows", "columns", "blocks", "pairs", "sampled", "gather", "slabs")


@dataclass(slots=True)
class Pattern:
    """Where k chosen entries of an (m, n) matrix lie, prepared for one strategy.

    Only what the strategy needs is there: ``units`` (u,) for rows, columns and blocks, ``rows`` and
    ``columns`` (k,) int64 for pairs, ``flat`` (k,) int64 for the dense gradient, ``sparse`` (m, n)
    in compressed rows for the sampled product, and ``order`` (k,) where the compact vector is not
    in ascending order.
    """

    shape: tuple[int, int]
    strategy: str
    block_size: tuple[int, int] = (1, 1)
    units: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None
    flat: Tensor | None = None
    sparse: Tensor | None = None
    order: Tensor | None = None


def choose_strategy(
    granularity: str, shape: tuple[int, int], size: tuple[int, int], count: int, device: str
) -> str:
    """The cheapest strategy that was measured, for ``count`` chosen entries on a device.

    Pairs copy 2 k numbers a token, a sampled product m + n. On a GPU the dense gradient costs least
    for single entries and for blocks.
    """
    if granularity in ("element", "block") and device != "cpu":
        return "gather"
    if granularity == "block":
        whole = shape[0] % size[0] == 0 and shape[1] % size[1] == 0
        return "blocks" if whole else "gather"
    if granularity == "element":
        entries = shape[0] * shape[1]
        if 2 * count <= sum(shape):
            return "pairs"
        few = count <= SPARSE_UNTIL * entries and entries >= DENSE_BELOW
        return "sampled" if few else "gather"
    return {"row": "rows", "column": "columns"}[granularity]


def pattern_of(
    shape: tuple[int, int],
    strategy: str,
    entries: Callable[[], tuple[np.ndarray, np.ndarray]],
    units: np.ndarray,
    block_size: tuple[int, int] = (1, 1),
    device: torch.device | str = "cpu",
) -> Pattern:
    """Prepare chosen entries for a strategy.

    ``entries()`` gives their rows and columns, (k,) each, in the order of the compact vector,
    ``units`` (u,) the numbers of the rows, columns or blocks.
    """
    pattern = Pattern(shape=shape, strategy=strategy, block_size=block_size)
    if strategy in ("rows", "columns", "blocks"):
        pattern.units = torch.from_numpy(np.array(units, dtype=np.int64)).to(device)
        return pattern
    rows, columns = entries()
    if strategy == "pairs":
        pattern.rows = torch.from_numpy(np.array(rows, dtype=np.int64)).to(device)
        pattern.columns = torch.from_numpy(np.array(columns, dtype=np.int64)).to(device)
        return pattern
    flat = rows * shape[1] + columns
    if strategy != "sampled":
        pattern.flat = torch.from_numpy(flat).to(device)
        return pattern
    ascending = np.argsort(flat, kind="stable")
    if not (np.diff(ascending) == 1).all():
        place = np.empty_like(ascending)
        place[ascending] = np.arange(len(flat))
        pattern.order = torch.from_numpy(place).to(device)
    crow = np.concatenate([[0], np.bincount(rows, minlength=shape[0]).cumsum()])
    with warnings.catch_warnings():
        # torch calls compressed rows beta, once in a process
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        pattern.sparse = torch.sparse_csr_tensor(
            torch.from_numpy(crow.astype(np.int32)),
            torch.from_numpy(columns[ascending].astype(np.int32)),
            torch.zeros(len(flat)),
            size=shape,
            device=device,
            check_invariants=False,
        )
    return pattern


def keep(x: Tensor, pattern: Pattern) -> Tensor:
    """What of the input (..., n) must be kept for the way back: all, or the chosen columns."""
    if pattern.strategy != "columns":
        return x
    assert pattern.units is not None
    return x.index_select(-1, pattern.units)


def compact_gradient(kept: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    """(k,) float32 from what :func:`keep` kept, (..., n) or fewer, and dy (..., m)."""
    tokens = dy.shape[:-1].numel()  # told, not -1: there may be none
    kept = kept.reshape(tokens, kept.shape[-1])
    dy = dy.reshape(tokens, dy.shape[-1])
    if pattern.strategy not in ("pairs", "sampled", "blocks"):  # those cast a panel at a time
        kept = kept.to(dy.dtype)
    return _COMPUTE[pattern.strategy](kept, dy, pattern).float()


def _rows(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    assert pattern.units is not None
    return (dy.index_select(1, pattern.units).T @ x).reshape(-1)


def _columns(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    return (x.T @ dy).reshape(-1)


def _blocks(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    assert pattern.units is not None
    tall, wide = pattern.block_size
    down, across = grid_of(pattern.shape, pattern.block_size)
    if len(pattern.units) * FEW > len(x) * sum(pattern.shape):
        return _stripwise(x, dy, pattern)
    # few blocks: turning all of dy and x would cost more than a call for each
    x = x.to(dy.dtype)
    result = x.new_empty(len(pattern.units), tall, wide)
    left, right = dy.view(len(dy), down, tall).unbind(1), x.view(len(x), across, wide).unbind(1)
    for place, unit in enumerate(pattern.units.tolist()):
        torch.mm(left[unit // across].T, right[unit % across], out=result[place])
    return result.reshape(-1)


def _stripwise(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    """The blocks as batched products of strips (tall, t) and (wide, t), a panel at a time."""
    assert pattern.units is not None
    tall, wide = pattern.block_size
    down, across = grid_of(pattern.shape, pattern.block_size)
    result = torch.zeros(len(pattern.units), tall, wide, device=x.device)
    panel = panel_of(pattern.shape)
    for start in range(0, len(x), panel):
        left = _turned(dy[start : start + panel]).view(down, tall, -1)
        right = _turned(x[start : start + panel].to(dy.dtype)).view(across, wide, -1)
        size = max(1, STRIPS // (left.shape[2] * (tall + wide)))
        for first in range(0, len(pattern.units), size):
            some = pattern.units[first : first + size]
            strips = left.index_select(0, some // across)
            against = right.index_select(0, some % across)
            result[first : first + size].baddbmm_(strips, against.transpose(1, 2))
    return result.reshape(-1)


def _gather(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    assert pattern.flat is not None
    return (dy.T @ x).reshape(-1).index_select(0, pattern.flat)


def _slabs(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    assert pattern.flat is not None
    result = x.new_empty(len(pattern.flat))
    size = SLAB * pattern.shape[1]
    for number, start in enumerate(range(0, pattern.shape[0], SLAB)):
        here = pattern.flat // size == number
        slab = dy[:, start : start + SLAB].T @ x
        result[here] = slab.reshape(-1)[pattern.flat[here] - number * size]
    return result


def _pairs(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    assert pattern.rows is not None and pattern.columns is not None
    result = torch.zeros(len(pattern.rows), device=x.device)
    panel = panel_of(pattern.shape)
    for start in range(0, len(x), panel):
        left = dy[start : start + panel].float().index_select(1, pattern.rows)
        right = x[start : start + panel].to(dy.dtype).float().index_select(1, pattern.columns)
        result += left.mul_(right).sum(0)
    return result


def _sampled(x: Tensor, dy: Tensor, pattern: Pattern) -> Tensor:
    assert pattern.sparse is not None
    made, beta, panel = pattern.sparse, 0.0, panel_of(pattern.shape)
    for start in range(0, max(1, len(x)), panel):
        left = _turned(dy[start : start + panel])
        right = _turned(x[start : start + panel].to(dy.dtype))
        out = made if beta else None
        made = torch.sparse.sampled_addmm(made, left, right.T, beta=beta, out=out)
        beta = 1.0
    return made.values() if pattern.order is None else made.values()[pattern.order]


def panel_of(shape: tuple[int, int]) -> int:
    """Tokens that are turned at a time for an (m, n) matrix."""
    return max(SHORTEST, PANEL // sum(shape))


def _turned(x: Tensor) -> Tensor:
    """(n, t) contiguous float32 of (t, n): sums over tokens then read along the memory."""
    return x.float().T.contiguous()


_COMPUTE: dict[str, Any] = {
    "rows": _rows,
    "columns": _columns,
    "blocks": _blocks,
    "pairs": _pairs,
    "gather": _gather,
    "slabs": _slabs,
    "sampled": _sampled,
}
