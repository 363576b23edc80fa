"""What every source lists: tensors that are named, shaped and read on request.

A *source* (a file, a folder, a module) becomes a :class:`TensorList`; how tensors hold matrices
is decided afterwards, in :mod:`frog.weights.catalogue`, the same way for all sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def as_is(codes: np.ndarray) -> np.ndarray:
    """The values themselves, as float32 or (for float64 tensors) float64."""
    return codes if codes.dtype == np.float64 else np.asarray(codes, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a source; nothing is in memory until ``codes`` is called.

    ``codes()`` gives an array of ``shape`` in the storage type (for a file: a view of the mapped
    file, so that slices read only what they touch); ``decode`` turns any slab of it into float32
    or float64, element by element. ``dtype`` is torch's word (``bfloat16``, ``float8_e4m3fn``).
    ``owner`` is the class name of the owning module where a live model knows it, else ``""``.
    ``unsupported`` says why the tensor cannot be measured (packed integer codes, ...); ``unpacked``
    that ``codes()`` unpacks weights, of whose codes ``dtype`` is the type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    codes: Callable[[], np.ndarray] = field(repr=False)
    decode: Callable[[np.ndarray], np.ndarray] = field(repr=False, default=as_is)
    aliases: tuple[str, ...] = ()
    owner: str = ""
    unsupported: str | None = None
    unpacked: bool = False

    @property
    def params(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPair:
    """A low-rank update scale * B @ A of one base tensor.

    ``up`` is B (m, k), ``down`` is A (k, n); ``name`` names the update, ``target`` the tensor
    of the base model that it changes.
    """

    name: str
    target: str
    up: StoredTensor
    down: StoredTensor
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorList:
    """All tensors of one source, in the order on disk (or of registration), and its config.

    ``buffers`` are running statistics that a live model keeps beside its parameters; a file has
    them among its tensors.
    """

    path: str
    format: str
    tensors: tuple[StoredTensor, ...]
    config: Mapping[str, Any] | None = None
    adapters: tuple[AdapterPair, ...] = ()
    notes: tuple[str, ...] = ()
    buffers: tuple[StoredTensor, ...] = ()
