"""Gradient of a compact vector from the input and the output of a linear layer.

The layer computes as always; its output passes through a :class:`Tap`, which is nothing on the way
forward. On the way back the tap takes the gradient of the chosen entries by the cheapest strategy
and passes the rest on, so that no dense gradient need exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frog.numerics.views import entries
from frog.tuning.gradients import Pattern, choose_strategy, compact_gradient, keep, pattern_of
from frog.tuning.matrix import TunedMatrix


@dataclass(slots=True)
class Piece:
    """One matrix of a layer: which outputs are its rows, which inputs its columns (None: all)."""

    pattern: Pattern
    outputs: Tensor | None
    inputs: Tensor | None


class Tap(torch.autograd.Function):
    """The output of a layer itself; on the way back also the gradient of its compact vector."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, change: Tensor, x: Tensor, pieces: list[Piece]) -> Tensor:
        """``y`` (t, m) as it is; ``x`` (t, n) and where the (k,) entries of ``change`` lie."""
        ctx.pieces = pieces
        ctx.save_for_backward(*(keep(_part(x, p.inputs), p.pattern) for p in pieces))
        ctx.mark_dirty(y)  # it is the very tensor: whoever changes it later in place may do so
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of y passed on, and (k,) float32 for the compact vector."""
        dy = gradients[0]
        if torch.is_autocast_enabled(dy.device.type):
            with torch.autocast(dy.device.type, enabled=False):
                return dy, _gradient(ctx.saved_tensors, dy, ctx.pieces), None, None
        return dy, _gradient(ctx.saved_tensors, dy, ctx.pieces), None, None


def _gradient(kept: tuple[Tensor, ...], dy: Tensor, pieces: list[Piece]) -> Tensor:
    """(k,) float32, those of all pieces one after the other."""
    parts = [
        compact_gradient(x, _part(dy, piece.outputs), piece.pattern)
        for x, piece in zip(kept, pieces, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def pieces_of(matrices: list[TunedMatrix], call: str) -> list[Piece]:
    """The pieces of a layer's weight, in the order of the slots of its change.

    ``matrices`` are those of one weight, on the device of which the pieces are made; ``call`` is
    ``linear`` for a weight (out, in), ``conv1d`` for one (in, out).
    """
    return [_piece(matrix, call) for matrix in sorted(matrices, key=lambda x: x.slot.start)]


def _piece(matrix: TunedMatrix, call: str) -> Piece:
    compact = matrix.compact
    device = compact.weight.device
    turned = call == "conv1d"
    width = compact.weight.shape[1]
    m, n = matrix.shape
    down = np.divmod(entries(matrix.view, np.arange(m), 0), width)
    along = np.divmod(entries(matrix.view, 0, np.arange(n)), width)
    outputs, inputs = (down[1], along[0]) if turned else (down[0], along[1])
    fixed = (down[0], along[1]) if turned else (down[1], along[0])
    if any(len(np.unique(x)) > 1 for x in fixed):
        return _entrywise(matrix, turned)
    outs, ins = (
        compact.weight.shape[::-1] if turned else compact.weight.shape
    )  # of the layer as a whole
    pattern = pattern_of(
        matrix.shape,
        choose_strategy(
            matrix.granularity, matrix.shape, matrix.block_size, matrix.count, device.type
        ),
        matrix.entries,
        matrix.index,
        matrix.block_size,
        device,
    )
    return Piece(pattern, _some(outputs, outs, device), _some(inputs, ins, device))


def _entrywise(matrix: TunedMatrix, turned: bool) -> Piece:
    """A matrix whose rows are not outputs: its entries one by one, in the weight's own places."""
    compact = matrix.compact
    flat = compact.index[matrix.slot].cpu().numpy()
    rows, columns = np.divmod(flat, compact.weight.shape[1])
    outs, ins = compact.weight.shape
    if turned:
        rows, columns, outs, ins = columns, rows, ins, outs
    at = (rows, columns)
    pattern = pattern_of((outs, ins), "gather", lambda: at, flat, (1, 1), compact.weight.device)
    return Piece(pattern, None, None)


def _some(index: np.ndarray, length: int, device: torch.device) -> Tensor | None:
    if len(index) == length and (index == np.arange(length)).all():
        return None
    return torch.from_numpy(index).to(device)


def _part(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(-1, index)
