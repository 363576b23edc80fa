"""Models as listed: matrices without their tensors, and what is not measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

FAILED = "failed: "
"""How the reason begins when a tensor should have been measured and could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixView:
    """How a matrix lies in its tensor: split axes, pick entries, name rows and columns.

    The tensor of ``tensor_shape`` is reshaped to ``grid``; ``index`` holds, for each grid axis,
    an integer (that slice) or ``(start, stop, step)``; the grid axes in ``rows``, flattened in
    that order, are the rows of the matrix, those in ``columns`` its columns.

    A plain (out, in) weight has ``grid == tensor_shape``, ``rows == (0,)``, ``columns == (1,)``.
    The arithmetic is in :mod:`frog.numerics.views`.
    """

    tensor_shape: tuple[int, ...]
    grid: tuple[int, ...]
    index: tuple[int | tuple[int, int, int], ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


class Loader(Protocol):
    """Reads one matrix, whole or in slabs; holds no tensor between calls."""

    def load(self) -> np.ndarray:
        """The whole (m, n) matrix, float32 or float64."""
        ...

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        """Consecutive slabs of at most ``size`` rows (``axis=0``) or columns (``axis=1``)."""
        ...

    def fingerprint(self) -> str:
        """A digest of the matrix's stored bytes, shape and dtype: equal content, equal digest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveParameter:
    """Where a matrix of a file lives in the loaded model: parameter name and view."""

    parameter: str
    view: MatrixView


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMatrix:
    """A handle of one matrix: no tensor inside; it is loaded, measured, dropped.

    ``name`` is canonical: the tensor's name on disk, plus a slice where the tensor holds several
    matrices (``h.0.attn.c_attn.weight[q]``). ``kind`` says what the tensor is (``linear``,
    ``conv1d``, ``conv2d``, ``conv3d``, ``embedding``, ``head``, ``expert``, ``recurrent``,
    ``adapter``), ``role`` what it does in its block (``q``, ``k``, ``v``, ``o``, ``gate``,
    ``up``, ``down``, ...; ``matrix?`` when no rule knows it). Matrices with
    ``averaged=False`` (embeddings, heads, routers) are measured but stay outside model means.
    """

    name: str
    tensor: str
    kind: str
    role: str
    block: int | None
    shape: tuple[int, int]
    dtype: str
    params: int
    view: MatrixView | None
    loader: Loader = field(repr=False, compare=False)
    aliases: tuple[str, ...] = ()
    averaged: bool = True
    rule: str = ""
    warning: str | None = None
    live: LiveParameter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedTensor:
    """A tensor (or a part of one) that is not measured, with the reason."""

    name: str
    role: str
    block: int | None
    shape: tuple[int, ...]
    dtype: str
    params: int
    reason: str
    aliases: tuple[str, ...] = ()
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All that a model holds: every parameter is in one matrix or in one skipped tensor.

    ``path`` is what the user named (a path, a hub id, or the class of a live model). ``order``
    of both tuples is the order on disk. ``notes`` are remarks about the model as a whole.
    """

    path: str
    format: str
    matrices: tuple[WeightMatrix, ...]
    skipped: tuple[SkippedTensor, ...]
    config: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def params(self) -> int:
        """Number of parameters, measured and skipped."""
        return sum(x.params for x in self.matrices) + sum(x.params for x in self.skipped)
