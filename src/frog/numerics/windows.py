"""FARMS windows: a matrix is cut into pieces of one aspect ratio, and their eigenvalues are pooled.

The spectrum of a random matrix depends on its shape, so an alpha of the whole matrix mixes shape
with training. Windows of one ratio make it comparable between layers. The matrix is taken tall
(N x r, N = max(m, n), r = min(m, n)); a window has n of its r columns and ratio * n of its N rows.

Source: Hu et al. 2025, FARMS, ICML, arXiv:2506.06280, section 3 (linear layers). Different here:
the matrix is turned first, so W and its transpose have one answer; n = min(side, r, N / ratio)
always fits; one window per dimension is allowed; nothing is changed in place; a budget holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from frog.numerics.spectrum import RESOLUTION, SMALLEST
from frog.numerics.symmetric import add_gram, eigenvalues_in_place
from frog.types import Farms, Loader

SLAB = 1 << 18  # elements that are read at once


@dataclass(frozen=True, slots=True)
class Window:
    """Rows and columns of one window of the tall matrix: ``[top, top + rows)`` and so on."""

    top: int
    left: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Pooled eigenvalues of all windows, descending, float64, of windows of one ``shape``.

    ``effective`` is the number of disjoint windows that would tell as much (see
    :func:`effective_windows`), ``resolution`` the error of a value relative to the largest.
    """

    eigenvalues: np.ndarray
    shape: tuple[int, int]
    windows: int
    effective: float
    resolution: float

    def thinned(self) -> np.ndarray:
        """As many values as disjoint windows would give, at evenly spread ranks, descending.

        Overlapping windows hold nearly the same values: resampling all of them would feign a
        certainty that is not there.
        """
        keep = max(1, round(self.effective * len(self.eigenvalues) / self.windows))
        return at_ranks(self.eigenvalues, keep)

    def for_fit(self, estimator: str) -> np.ndarray:
        """The values that an estimator is given, descending: ``hill`` all of them, as published.

        ``ks`` and ``tpl`` get :meth:`thinned` ones: they choose where the tail starts, and many
        copies of the same values feign a sample that is larger than it is and move that choice.
        """
        return self.eigenvalues if estimator == "hill" else self.thinned()

    def typical(self) -> np.ndarray:
        """The spectrum of a typical window: one value for each of its eigenvalues, descending."""
        return at_ranks(self.eigenvalues, max(1, len(self.eigenvalues) // self.windows))


def window_shape(shape: tuple[int, int], farms: Farms) -> tuple[int, int]:
    """(rows, columns) of a window of the tall matrix: (int(ratio * n), n).

    n = min(side, r, floor(N / ratio)), at least 1.

    >>> window_shape((384, 1536), Farms()), window_shape((100, 512), Farms(side=64, ratio=2.0))
    ((384, 384), (128, 64))
    """
    n = max(1, min(farms.side, min(shape), math.floor(max(shape) / farms.ratio)))
    return min(max(1, int(n * farms.ratio)), max(shape)), n


def plan_windows(shape: tuple[int, int], farms: Farms, *, seed: int = 0) -> tuple[Window, ...]:
    """The windows of a matrix, sorted by row and column; at most ``farms.budget`` of them.

    With k = ``farms.per_dimension``: the step along a side of length L is
    max(1, (L - l) // (k - 1)) for windows of length l, their number min(k, (L - l) // step + 1);
    k = 1 gives one window, at the start. Beyond the budget windows are drawn by ``seed`` without
    replacement, so that every row and every column of windows is drawn equally often. On a square
    matrix what is drawn is symmetric, and windows that are not square are laid both ways.

    >>> [window.top for window in plan_windows((12, 4), Farms(per_dimension=3))]
    [0, 4, 8]
    """
    rows, columns = window_shape(shape, farms)
    tops = _starts(max(shape), rows, farms.per_dimension)
    lefts = _starts(min(shape), columns, farms.per_dimension)
    square = shape[0] == shape[1]
    both_ways = square and rows != columns
    budget = max(1, farms.budget // 2 if both_ways else farms.budget)
    cells = _drawn(len(tops), len(lefts), budget, square and not both_ways, seed)
    found = [Window(tops[i], lefts[j], rows, columns) for i, j in cells]
    if both_ways:
        found += [Window(x.left, x.top, columns, rows) for x in found]
    return tuple(sorted(found, key=lambda x: (x.top, x.left)))


def pool_windows(
    loader: Loader, shape: tuple[int, int], farms: Farms, *, seed: int = 0, method: str = "gram64"
) -> Pool:
    """Eigenvalues (squared singular values) of all windows of an (m, n) matrix in one pool.

    Only the rows of the windows in work are held. ``method`` is ``gram64``, ``gram32`` or
    ``svd64``, as in :func:`frog.numerics.spectrum.spectrum`. A window with NaN or Inf gives NaN.

    >>> class Diagonal:
    ...     def blocks(self, axis, size):
    ...         yield np.diag([3.0, 2.0, 1.0])
    >>> pool_windows(Diagonal(), (3, 3), Farms()).eigenvalues.tolist()
    [9.0, 4.0, 1.0]
    """
    planned = plan_windows(shape, farms, seed=seed)
    found = [_eigenvalues(part, method) for part in _cut(loader, shape, planned)]
    values = np.concatenate(found)
    rows, columns = window_shape(shape, farms)
    r = min(rows, columns)
    exact = (np.finfo(np.float64).eps * max(rows, columns)) ** 2
    return Pool(
        eigenvalues=np.sort(values)[::-1],
        shape=(rows, columns),
        windows=len(planned),
        effective=effective_windows(planned),
        resolution=exact if method == "svd64" else RESOLUTION[method] * max(r, SMALLEST[method]),
    )


def effective_windows(windows: tuple[Window, ...]) -> float:
    """Number of disjoint windows with the same information: K^2 / sum_ab rho_ab^2.

    rho_ab is the share of entries that windows a and b have in common. For random entries a
    statistic of degree d in the eigenvalues correlates like rho^d between two windows. An alpha
    does not change with the scale, so the trace (d = 1) does not enter; the correlation that is
    taken is that of d = 2, the largest that can.
    Source: Borodin 2014, Mosc. Math. J. 14(1) (covariance of the spectra of submatrices).

    >>> one, other = Window(0, 0, 4, 4), Window(2, 0, 4, 4)
    >>> effective_windows((one, one)), effective_windows((one, other))
    (1.0, 1.6)
    """
    boxes = np.array([(x.top, x.left, x.top + x.rows, x.left + x.columns) for x in windows])
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    area = windows[0].rows * windows[0].columns
    return len(windows) ** 2 / float(np.square(shared / area).sum())


def at_ranks(values: np.ndarray, keep: int) -> np.ndarray:
    """``keep`` of the sorted values, at the middles of as many equal stretches of ranks.

    >>> at_ranks(np.arange(9.0), 3).tolist()
    [1.0, 4.0, 7.0]
    """
    keep = min(keep, len(values))
    return values[((np.arange(keep) + 0.5) * len(values) / keep).astype(int)]


# ---------------------------------------------------------------------------- placing


def _starts(length: int, size: int, count: int) -> list[int]:
    free = length - size
    if count == 1:
        return [0]
    step = max(1, free // (count - 1))
    return [i * step for i in range(min(count, free // step + 1))]


def _drawn(
    tall: int, wide: int, budget: int, symmetric: bool, seed: int
) -> Iterator[tuple[int, int]]:
    """Cells of a grid: all of them, or as many as the budget has room for, evenly spread."""
    if tall * wide <= budget:
        yield from ((i, j) for i in range(tall) for j in range(wide))
        return
    rng = np.random.default_rng(seed)
    if symmetric:
        yield from _drawn_symmetric(rng.permutation(tall).tolist(), budget)
        return
    rows, columns = rng.permutation(tall), rng.permutation(wide)
    period = math.lcm(tall, wide)  # a diagonal that closes after so many cells; then the next one
    for t in range(budget):
        yield int(rows[t % tall]), int(columns[(t + t // period) % wide])


def _drawn_symmetric(order: list[int], budget: int) -> Iterator[tuple[int, int]]:
    """The main diagonal first, then cells with their mirror images, diagonal by diagonal."""
    size, left = len(order), budget
    for offset in range(size // 2 + 1):
        for i in range(size):
            a, b = order[i], order[(i + offset) % size]
            if 2 * offset == size and i >= offset:
                return  # the middle diagonal is its own mirror image
            need = 1 if a == b else 2
            if left < need:
                return
            left -= need
            yield from ((a, b), (b, a))[:need]


# ---------------------------------------------------------------------------- cutting


def _cut(
    loader: Loader, shape: tuple[int, int], windows: tuple[Window, ...]
) -> Iterator[np.ndarray]:
    """The windows as arrays, in order; of the matrix only the rows in work are in memory."""
    axis = 0 if shape[0] >= shape[1] else 1
    slabs = loader.blocks(axis, max(1, SLAB // min(shape)))
    held: list[np.ndarray] = []  # consecutive rows of the tall matrix
    first, end = 0, 0
    for window in windows:
        while end < window.top + window.rows:
            slab = next(slabs)
            held.append(np.asarray(slab if axis == 0 else slab.T))
            end += len(held[-1])
        while held and first + len(held[0]) <= window.top:
            first += len(held.pop(0))
        rows = slice(window.top - first, window.top - first + window.rows)
        columns = slice(window.left, window.left + window.columns)
        yield np.concatenate([part[:, columns] for part in held])[rows]


def _eigenvalues(window: np.ndarray, method: str) -> np.ndarray:
    """Eigenvalues of one window on its small side, in any order."""
    if method == "svd64":
        if not np.isfinite(window).all():
            return np.full(min(window.shape), np.nan)
        return np.square(np.linalg.svd(window.astype(np.float64), compute_uv=False))
    dtype = np.float64 if method == "gram64" else np.float32
    axis = 0 if window.shape[0] >= window.shape[1] else 1
    r = min(window.shape)
    gram = np.zeros((r, r), dtype=dtype)
    with np.errstate(all="ignore"):
        add_gram(gram, np.ascontiguousarray(window, dtype=dtype), axis)
        if not np.isfinite(np.trace(gram)):
            return np.full(r, np.nan)
    return np.maximum(eigenvalues_in_place(gram), 0.0).astype(np.float64)
