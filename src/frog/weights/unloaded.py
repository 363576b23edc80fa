"""A checkpoint that answers for a module: parameters are read from the file when asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from frog.types import LiveParameter, WeightMatrix
from frog.weights.stored import TensorList


class Unloaded(nn.Module):
    """Has ``get_parameter`` of the tensors of a file, in float32 or float64; cannot run."""

    def __init__(self, listed: TensorList) -> None:
        super().__init__()
        self._stored = {x.name: x for x in listed.tensors}

    def get_parameter(self, target: str) -> nn.Parameter:
        """One tensor of the file, decoded; nothing is kept."""
        tensor = self._stored[target]
        values = torch.from_numpy(tensor.decode(tensor.codes()).copy())
        return nn.Parameter(values, requires_grad=False)


def located(matrices: Iterable[WeightMatrix]) -> tuple[WeightMatrix, ...]:
    """The matrices of a file as they lie in :class:`Unloaded`."""
    return tuple(
        x if x.view is None else replace(x, live=LiveParameter(parameter=x.tensor, view=x.view))
        for x in matrices
    )
