"""What goes into the matrices of a live model over a few batches: ||x_j||_2 of every input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from frog.compression.live import inference
from frog.errors import UsageError
from frog.types import WeightMatrix


def input_norms(
    model: nn.Module,
    matrices: Iterable[WeightMatrix],
    *,
    batches: Sequence[Any],
    outputs: Callable[[nn.Module, Any], Any],
) -> dict[str, Tensor]:
    """||x_j||_2 over all tokens of all batches, (n,) float64, by the name of the matrix.

    For layers whose last axis of inputs is the n of the matrix: linear layers and their like.
    ``outputs(model, batch)`` runs the model; all positions count: give batches without padding.
    """
    matrices = tuple(matrices)
    sums: dict[str, Tensor] = {}
    handles = []

    def tap(matrix: WeightMatrix) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            n = matrix.shape[1]
            if not args or not isinstance(args[0], Tensor) or args[0].shape[-1] != n:
                raise UsageError(
                    f"{matrix.name} must get a tensor of {n} inputs on its last axis: norms are "
                    f"known for linear layers, leave out this {type(module).__name__}"
                )
            squares = args[0].detach().reshape(-1, n).double().square().sum(0)
            sums[matrix.name] = sums.get(matrix.name, torch.zeros_like(squares)) + squares

        return hook

    try:
        for matrix in matrices:
            if matrix.live is None:
                raise UsageError(f"{matrix.name} is no parameter of the live model: leave it out")
            owner = model.get_submodule(matrix.live.parameter.rpartition(".")[0])
            handles.append(owner.register_forward_pre_hook(tap(matrix)))
        with inference(model):
            for batch in batches:
                outputs(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    unseen = [x.name for x in matrices if x.name not in sums]
    if unseen:
        raise UsageError(
            f"{unseen[0]} got no input in {len(batches)} batches: give batches that reach it, or "
            "leave it out"
        )
    return {name: total.sqrt() for name, total in sums.items()}
