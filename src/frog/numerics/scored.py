"""Scores of all entries of a matrix, in row slabs: dense, or a product of thin factors.

The score of a large matrix is never held whole: ``slab(start, stop)`` gives some of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SLAB_ENTRIES = 1 << 21
"""Entries of a slab: 8 MB of float32."""


class Scored(Protocol):
    """Scores (m, n), read by rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def slab(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop``, float32 (stop - start, n); the caller may write into it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """Scores that are there already, (m, n)."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.values.shape[0], self.values.shape[1]

    def slab(self, start: int, stop: int) -> np.ndarray:
        """A copy of these rows."""
        return np.array(self.values[start:stop], dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """|left @ right^T| for left (m, r) and right (n, r): never made whole.

    >>> Product(np.array([[1.0], [2.0]]), np.array([[3.0], [-1.0]])).slab(1, 2)
    array([[6., 2.]], dtype=float32)
    """

    left: np.ndarray
    right: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.left), len(self.right)

    def slab(self, start: int, stop: int) -> np.ndarray:
        """These rows of the product, without sign."""
        rows = np.asarray(self.left[start:stop], dtype=np.float32)
        made = rows @ np.asarray(self.right, dtype=np.float32).T
        return np.abs(made, out=made)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """Scores that a function makes row by row."""

    shape: tuple[int, int]
    make: Callable[[int, int], np.ndarray]

    def slab(self, start: int, stop: int) -> np.ndarray:
        """These rows, as the function makes them."""
        return np.asarray(self.make(start, stop), dtype=np.float32)


def slabs(scores: Scored) -> Iterator[tuple[int, np.ndarray]]:
    """All rows, a slab at a time, each with the number of its first row."""
    m, n = scores.shape
    size = max(1, SLAB_ENTRIES // max(1, n))
    for start in range(0, m, size):
        yield start, scores.slab(start, min(start + size, m))
