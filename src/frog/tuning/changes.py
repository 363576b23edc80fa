"""What a run has changed, as a sparse delta under the names on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from frog.numerics.views import entries
from frog.tuning.matrix import TunedMatrix
from frog.types import SparseDelta
from frog.weights.delta import Touched, bits_of, delta_of
from frog.weights.source import list_tensors
from frog.weights.stored import StoredTensor


def changes(
    model: nn.Module,
    matrices: tuple[TunedMatrix, ...],
    start: Mapping[str, Tensor],
    path: str,
    facts: Mapping[str, Any],
) -> SparseDelta:
    """The delta from the start of tuning to now.

    ``start`` are the values of other parameters that trained (a new head), by their live names.
    """
    listed = {x.name: x for x in list_tensors(model).tensors}
    return delta_of([*_selected(matrices, listed), *_dense(start, listed)], path, facts)


def _selected(
    matrices: tuple[TunedMatrix, ...], listed: Mapping[str, StoredTensor]
) -> Iterator[Touched]:
    by_tensor: dict[str, list[TunedMatrix]] = {}
    for matrix in matrices:
        by_tensor.setdefault(matrix.tensor, []).append(matrix)
    for name, members in by_tensor.items():
        tensor = listed[name]
        index = [entries(x.disk_view, *x.entries()) for x in members]
        old = [bits(x.base()) for x in members]
        new = [bits(x.compact.values()[x.slot]) for x in members]
        yield Touched(
            tensor=name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            index=np.concatenate(index),
            old=np.concatenate(old),
            new=np.concatenate(new),
            whole=_reader(tensor),
        )


def _dense(start: Mapping[str, Tensor], listed: Mapping[str, StoredTensor]) -> Iterator[Touched]:
    for name, before in start.items():
        tensor = listed.get(name)
        if tensor is None:  # its name or layout on disk is another: the merged model holds it
            continue
        old = bits(before.contiguous().view(-1))
        yield Touched(
            tensor=name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            index=np.arange(len(old)),
            old=old,
            new=bits_of(tensor),
            whole=_reader(tensor),
        )


def _reader(tensor: StoredTensor) -> Callable[[], np.ndarray]:
    return lambda: bits_of(tensor)


def bits(values: Tensor) -> np.ndarray:
    """Bit patterns of a flat tensor, unsigned."""
    import torch

    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    width = values.element_size()
    raw = values.detach().cpu().contiguous().view(kind[width]).numpy()
    return raw.view(f"u{width}")
