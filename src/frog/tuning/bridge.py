"""Gradient of a compact vector through the dense weight: for any use that a module makes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Bridge(torch.autograd.Function):
    """The weight itself on the way forward; on the way back the chosen entries of its gradient.

    The dense gradient lives for one layer at a time.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, change: Tensor, index: Tensor) -> Tensor:
        """``weight`` as it is; ``change`` and ``index`` (k,) are for the way back."""
        ctx.save_for_backward(index)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """(k,) float32 entries of the dense gradient; nothing for the frozen weight."""
        (index,) = ctx.saved_tensors
        gradient = gradients[0].to_dense() if gradients[0].is_sparse else gradients[0]
        return None, gradient.reshape(-1)[index].float(), None
