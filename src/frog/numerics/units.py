"""Units of a matrix that are chosen as a whole: entries, rows, columns, blocks.

A unit has a number: entry i * n + j, row i, column j, or block counted row by row in the grid of
blocks of ``size``; blocks at the right and lower edge may be smaller. ``shape`` is (m, n).
"""

from __future__ import annotations

import numpy as np

from frog.errors import UnknownName
from frog.types import GRANULARITIES


def grid_of(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Number of blocks down and across, the smaller ones at the edges included.

    >>> grid_of((5, 6), (2, 4))
    (3, 2)
    """
    return -(-shape[0] // size[0]), -(-shape[1] // size[1])


def unit_count(shape: tuple[int, int], granularity: str, size: tuple[int, int] = (1, 1)) -> int:
    """How many units a matrix has."""
    m, n = shape
    if granularity == "block":
        down, across = grid_of(shape, size)
        return down * across
    return {"element": m * n, "row": m, "column": n}[_known(granularity)]


def unit_sizes(
    index: np.ndarray, shape: tuple[int, int], granularity: str, size: tuple[int, int] = (1, 1)
) -> np.ndarray:
    """Number of entries in each of the units ``index`` (u,), int64 (u,)."""
    m, n = shape
    index = np.asarray(index, dtype=np.int64)
    if granularity == "block":
        across = grid_of(shape, size)[1]
        tall = np.minimum(size[0], m - index // across * size[0])
        return tall * np.minimum(size[1], n - index % across * size[1])
    return np.full(len(index), {"element": 1, "row": n, "column": m}[_known(granularity)])


def unit_entries(
    index: np.ndarray, shape: tuple[int, int], granularity: str, size: tuple[int, int] = (1, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (k,), (k,), int64, of all entries of the units, unit by unit.

    Within a unit the entries go row by row.

    >>> rows, columns = unit_entries([1], (3, 2), "column")
    >>> rows.tolist(), columns.tolist()
    ([0, 1, 2], [1, 1, 1])
    """
    m, n = shape
    index = np.asarray(index, dtype=np.int64)
    if granularity == "element":
        return index // n, index % n
    if granularity == "row":
        return np.repeat(index, n), np.tile(np.arange(n), len(index))
    if granularity == "column":
        return np.tile(np.arange(m), len(index)), np.repeat(index, m)
    _known(granularity)
    across = grid_of(shape, size)[1]
    rows, columns = [], []
    for unit in index.tolist():
        top, left = unit // across * size[0], unit % across * size[1]
        tall, wide = min(size[0], m - top), min(size[1], n - left)
        rows.append(np.repeat(np.arange(top, top + tall), wide))
        columns.append(np.tile(np.arange(left, left + wide), tall))
    none = np.empty(0, dtype=np.int64)
    return (np.concatenate(rows), np.concatenate(columns)) if rows else (none, none)


def _known(granularity: str) -> str:
    if granularity not in GRANULARITIES:
        raise UnknownName("granularity", granularity, GRANULARITIES)
    return granularity
