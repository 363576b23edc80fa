"""Matrices out of stored tensors, decoded slab by slab; nothing is kept between calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from frog.numerics import views
from frog.types import MatrixView
from frog.weights.folding import StackedTensor
from frog.weights.stored import AdapterPair, StoredTensor

SLAB_BYTES = 16 << 20
"""Bytes of codes that are gathered at a time for a digest."""


@dataclass(frozen=True, slots=True)
class ViewLoader:
    """Reads the matrix that ``view`` picks from ``tensor``.

    Arrays may be views of the mapped file or of the live parameter: read them, do not write.
    """

    tensor: StoredTensor
    view: MatrixView

    def load(self) -> np.ndarray:
        """The whole (m, n) matrix, float32 or float64."""
        return self._decode(views.take(*_read(self.tensor, self.view)))

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        """Consecutive slabs of at most ``size`` rows (``axis=0``) or columns (``axis=1``)."""
        codes, view = _read(self.tensor, self.view)
        for slab in _slabs(codes, view, axis, size):
            yield self._decode(slab)

    def fingerprint(self) -> str:
        """Digest of shape, dtype and the codes of the matrix, row by row, as 32 hex digits.

        The content decides: a file and a live model, or an expert stored alone and one stored
        in a stack, have the same digest where their matrices have the same bytes.
        """
        codes, view = _read(self.tensor, self.view)
        shape = views.view_shape(view)
        digest = _digest(shape, self.tensor.dtype)
        size = max(1, SLAB_BYTES // max(1, shape[1] * codes.itemsize))
        for slab in _slabs(codes, view, 0, size):
            digest.update(_bytes(slab))
        return digest.hexdigest()

    def _decode(self, slab: np.ndarray) -> np.ndarray:
        # A file may place a tensor at an odd byte; what reads the matrix need not cope with it.
        with np.errstate(all="ignore"):  # NaN and Inf are counted by who measures
            return np.require(self.tensor.decode(slab), requirements="A")


@dataclass(frozen=True, slots=True)
class ProductLoader:
    """Reads the low-rank update scale * B @ A of an adapter."""

    pair: AdapterPair

    def load(self) -> np.ndarray:
        """The (m, n) product in float32, or float64 where the factors are."""
        up_mk, down_kn = self._stored()
        return (up_mk @ down_kn) * up_mk.dtype.type(self.pair.scale)

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        """Consecutive slabs of the product, at most ``size`` rows or columns each."""
        up_mk, down_kn = self._stored()
        scale = up_mk.dtype.type(self.pair.scale)
        length = up_mk.shape[0] if axis == 0 else down_kn.shape[1]
        for start in range(0, length, size):
            stop = min(start + size, length)
            if axis == 0:
                yield (up_mk[start:stop] @ down_kn) * scale
            else:
                yield (up_mk @ down_kn[:, start:stop]) * scale

    def factors(self) -> tuple[np.ndarray, np.ndarray, float]:
        """B (m, k) and A (k, n) in float64, and the scale: the spectrum needs no product."""
        up_mk, down_kn = self._stored()
        return up_mk.astype(np.float64), down_kn.astype(np.float64), self.pair.scale

    def fingerprint(self) -> str:
        """Digest of both factors' shapes, dtypes and codes, and of the scale."""
        digest = xxhash.xxh3_128(repr(float(self.pair.scale)).encode())
        for tensor in (self.pair.up, self.pair.down):
            digest.update(repr((tensor.shape, tensor.dtype)).encode())
            digest.update(_bytes(tensor.codes()))
        return digest.hexdigest()

    def _stored(self) -> tuple[np.ndarray, np.ndarray]:
        up, down = self.pair.up, self.pair.down
        return up.decode(up.codes()), down.decode(down.codes())


def _slabs(codes: np.ndarray, view: MatrixView, axis: int, size: int) -> Iterator[np.ndarray]:
    """Slabs of undecoded codes, rows for ``axis`` 0, columns for 1."""
    take = views.take_rows if axis == 0 else views.take_columns
    length = views.view_shape(view)[axis]
    for start in range(0, length, size):
        yield take(codes, view, start, min(start + size, length))


def _read(tensor: StoredTensor, view: MatrixView) -> tuple[np.ndarray, MatrixView]:
    """Codes, and the view that picks the matrix from them: of one member where that is enough."""
    at = view.index[0] if view.index else None
    if not isinstance(tensor, StackedTensor) or not isinstance(at, int):
        return tensor.codes(), view
    if view.grid[0] != tensor.shape[0]:
        return tensor.codes(), view
    # Unpacking a stack of experts for the sake of one would cost their number squared.
    alone = replace(
        view,
        tensor_shape=(1, *view.tensor_shape[1:]),
        grid=(1, *view.grid[1:]),
        index=(0, *view.index[1:]),
    )
    return tensor.member(at)[None], alone


def _digest(shape: tuple[int, int], dtype: str) -> xxhash.xxh3_128:
    # It tells contents apart, it does not guard against forgery: a cryptographic hash of the
    # same length took a quarter of the time of a whole measurement.
    return xxhash.xxh3_128(repr((tuple(map(int, shape)), dtype)).encode())


def _bytes(codes: np.ndarray) -> memoryview:
    """The bytes of an array in the order of its elements, whatever its type."""
    return np.ascontiguousarray(codes).reshape(-1).view(np.uint8).data
