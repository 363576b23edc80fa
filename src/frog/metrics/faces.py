"""The side of a matrix that another matrix meets: what it writes to, or reads from.

A *face* is a matrix turned so that its rows are the n coordinates that writer and reader share:
the rows of a writer, the columns of a reader, the rows or columns of one attention head. Of a
convolution they are channels: a reader's (out, in*kh*kw) unfolding is folded anew to
(in, out*kh*kw), for what it reads of a channel, it reads at every position of its kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from frog.numerics.similarity import gram_of, leading_eigenvectors, orthonormal
from frog.types import WeightMatrix


@dataclass(frozen=True)
class Face:
    """A (n, p) with the shared coordinates as rows; of p >= n only A A^T is kept.

    Exactly one of ``factor_np`` and ``gram_nn`` is there, float64.
    """

    factor_np: np.ndarray | None = None
    gram_nn: np.ndarray | None = None

    @property
    def n(self) -> int:
        """The number of shared coordinates."""
        return len(self._held)

    @property
    def rank(self) -> int:
        """The most directions that there can be."""
        return self._held.shape[1]

    @property
    def _held(self) -> np.ndarray:
        held = self.factor_np if self.gram_nn is None else self.gram_nn
        assert held is not None
        return held

    @cached_property
    def energy_n(self) -> np.ndarray:
        """Squared norm of every row, shape (n,)."""
        if self.gram_nn is not None:
            return np.diagonal(self.gram_nn).copy()
        return np.sum(np.square(self._held), axis=1)

    def part(self, rows: slice | np.ndarray, scale_n: np.ndarray | None = None) -> Face:
        """Only these coordinates, each multiplied by its entry of ``scale_n`` (full length)."""
        scale = np.ones(self.n) if scale_n is None else scale_n
        if self.gram_nn is not None:
            picked = self.gram_nn[rows][:, rows]
            return Face(gram_nn=picked * scale[rows] * scale[rows][:, None])
        return Face(factor_np=(self._held * scale[:, None])[rows])

    def directions(self, k: int, seed: int = 0) -> np.ndarray:
        """The k leading directions in the shared coordinates, (n, k); NaN where there are none."""
        if self.gram_nn is not None:
            values, vectors = leading_eigenvectors(self.gram_nn, k, seed=seed)
        else:
            values, inner = leading_eigenvectors(self._held.T @ self._held, k, seed=seed)
            vectors = self._held @ inner
        # A direction that carries nothing is rounding error: there is no subspace to compare.
        if not values[-1] > np.finfo(np.float64).eps * self.n * max(values[0], 0.0):
            return np.full((self.n, k), np.nan)
        return vectors if self.gram_nn is not None else orthonormal(vectors)

    def product_norm(self, other: Face) -> float:
        """||A^T B||_F of two faces over the same coordinates."""
        a, b = self, other
        if a.gram_nn is None and b.gram_nn is None:
            return float(np.linalg.norm(a._held.T @ b._held))
        if a.gram_nn is not None and b.gram_nn is not None:
            squared = np.vdot(a.gram_nn, b.gram_nn)  # tr(A A^T B B^T)
        elif a.gram_nn is None:
            squared = np.vdot(a._held, b._held @ a._held)
        else:
            squared = np.vdot(b._held, a._held @ b._held)
        return float(np.sqrt(max(squared, 0.0)))

    @cached_property
    def norm(self) -> float:
        """||A||_F."""
        return float(np.sqrt(np.sum(self.energy_n)))


def writer_face(matrix: WeightMatrix) -> Face:
    """What a matrix writes to: its rows; of a token embedding, whose rows are tokens, columns."""
    return _face(matrix, rows=matrix.kind != "embedding")


def reader_face(matrix: WeightMatrix, n: int) -> Face:
    """What a matrix reads from: n coordinates, each at columns / n positions."""
    if matrix.shape[1] == n:
        return _face(matrix, rows=False)
    values = np.asarray(matrix.loader.load(), dtype=np.float64)
    folded = values.reshape(matrix.shape[0], n, -1).swapaxes(0, 1).reshape(n, -1)
    return _held(folded)


def _face(matrix: WeightMatrix, *, rows: bool) -> Face:
    n, p = matrix.shape if rows else matrix.shape[::-1]
    if p >= n:
        return Face(gram_nn=gram_of(matrix.loader, matrix.shape, 1 if rows else 0))
    values = np.asarray(matrix.loader.load(), dtype=np.float64)
    return Face(factor_np=values if rows else values.T)


def _held(values_np: np.ndarray) -> Face:
    n, p = values_np.shape
    return Face(gram_nn=values_np @ values_np.T) if p >= n else Face(factor_np=values_np)
