"""What a run has changed, as a sparse delta under the names on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
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

    ``start`` are the values of parameters that trained whole (a new head), by their live names,
    on any device. One tensor at a time is compared.
    """
    listed = {x.name: x for x in list_tensors(model).tensors}
    touched = chain(_selected(matrices, listed), _dense(model, start, listed))
    return delta_of(touched, path, facts)


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


def _dense(
    model: nn.Module, start: Mapping[str, Tensor], listed: Mapping[str, StoredTensor]
) -> Iterator[Touched]:
    """The entries that differ from ``start``, in the tensors of the file that hold them.

    The start is put in place of the parameters while a tensor is read: a tensor of the file may
    be made of several parameters, or of a part of one.
    """
    if not start:
        return
    named = dict(model.named_parameters(remove_duplicate=False))
    mine = {id(named[name]) for name in start}
    for tensor in listed.values():
        parameter = named.get(tensor.name)
        if tensor.unsupported or (parameter is not None and id(parameter) not in mine):
            continue
        new = bits_of(tensor)
        with _in_place_of(named, start):
            old = bits_of(tensor)
        index = np.flatnonzero(old != new)
        yield Touched(
            tensor=tensor.name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            index=index,
            old=old[index],
            new=new[index],
            whole=_reader(tensor),
        )


@contextmanager
def _in_place_of(named: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]) -> Iterator[None]:
    """The parameters hold other values for a moment; nothing is copied."""
    now = {name: named[name].data for name in start}
    try:
        for name, value in start.items():
            named[name].data = value
        yield
    finally:
        for name, value in now.items():
            named[name].data = value


def _reader(tensor: StoredTensor) -> Callable[[], np.ndarray]:
    return lambda: bits_of(tensor)


def bits(values: Tensor) -> np.ndarray:
    """Bit patterns of a flat tensor, unsigned."""
    import torch

    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    width = values.element_size()
    raw = values.detach().cpu().contiguous().view(kind[width]).numpy()
    return raw.view(f"u{width}")
