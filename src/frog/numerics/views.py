"""Matrix <-> parameter: the arithmetic of :class:`frog.types.MatrixView`.

A view is built from :func:`plain` by four moves: :func:`regrid` splits an axis, :func:`pick` and
:func:`part` choose along one, :func:`transposed` swaps rows and columns. The layouts that models
use (thirds, heads, experts) are short sequences of these; they are named at the end of the file.

Arrays may be numpy arrays (a mapped file, too) or torch tensors; what comes back is of the same
kind, and a view of the same memory wherever the layout allows it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from frog.errors import FrogError
from frog.types import MatrixView


class ViewError(FrogError):
    """A view does not fit its tensor, or an index lies outside its matrix."""


# ------------------------------------------------------------------------------ reading


def view_shape(view: MatrixView) -> tuple[int, int]:
    """Rows and columns (m, n) of the matrix."""
    lengths = _lengths(view)
    return (
        math.prod(lengths[axis] for axis in view.rows),
        math.prod(lengths[axis] for axis in view.columns),
    )


def take(array: Any, view: MatrixView) -> Any:
    """The (m, n) matrix that ``view`` picks from ``array`` of ``view.tensor_shape``.

    >>> take(np.arange(6).reshape(3, 2), transposed(plain((3, 2))))
    array([[0, 2, 4],
           [1, 3, 5]])
    """
    if tuple(array.shape) != view.tensor_shape:
        raise ViewError(
            f"the tensor must have shape {view.tensor_shape}, got {tuple(array.shape)}: "
            "the view belongs to another tensor"
        )
    cut = array.reshape(view.grid)[
        tuple(x if isinstance(x, int) else slice(*x) for x in view.index)
    ]
    kept = [axis for axis, x in enumerate(view.index) if not isinstance(x, int)]
    order = [kept.index(axis) for axis in (*view.rows, *view.columns)]
    turned = cut.transpose(order) if isinstance(cut, np.ndarray) else cut.permute(order)
    return turned.reshape(view_shape(view))


def put(array: Any, view: MatrixView, values_mn: Any) -> None:
    """Write an (m, n) matrix to the place that ``view`` picks from a contiguous torch tensor.

    >>> import torch
    >>> tensor = torch.zeros(3, 2)
    >>> put(tensor, third((3, 2), 1), torch.ones(1, 2))
    >>> tensor.tolist()
    [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """
    cut = array.view(view.grid)[tuple(x if isinstance(x, int) else slice(*x) for x in view.index)]
    kept = [axis for axis, x in enumerate(view.index) if not isinstance(x, int)]
    turned = cut.permute([kept.index(axis) for axis in (*view.rows, *view.columns)])
    turned.copy_(values_mn.reshape(turned.shape))


def take_rows(array: Any, view: MatrixView, start: int, stop: int) -> Any:
    """Rows ``start`` to ``stop`` of the matrix, (stop - start, n); the rest is not touched."""
    m = view_shape(view)[0]
    if not 0 <= start <= stop <= m:
        raise ViewError(f"rows must lie in 0..{m}, got {start}..{stop}")
    if not view.rows:
        return take(array, view)[start:stop]
    # Only the outermost row axis is cut; what it covers beyond the asked rows is cut off after.
    lengths = _lengths(view)
    outer, *others = view.rows
    inner = math.prod(lengths[axis] for axis in others)
    if inner == 0:
        return take(array, view)[start:stop]
    first, last = start // inner, -(-stop // inner)
    slab = take(array, part(view, outer, first, last))
    return slab[start - first * inner : stop - first * inner]


def take_columns(array: Any, view: MatrixView, start: int, stop: int) -> Any:
    """Columns ``start`` to ``stop`` of the matrix, (m, stop - start)."""
    n = view_shape(view)[1]
    if not 0 <= start <= stop <= n:
        raise ViewError(f"columns must lie in 0..{n}, got {start}..{stop}")
    return take_rows(array, transposed(view), start, stop).T


def entries(view: MatrixView, rows: Any, columns: Any) -> np.ndarray:
    """Flat indices in the tensor, int64, of matrix entries; rows and columns broadcast.

    >>> entries(third((6, 2), 1), [0, 1], [1, 0])
    array([5, 6])
    """
    m, n = view_shape(view)
    rows, columns = np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64)
    for word, index, length in (("rows", rows, m), ("columns", columns, n)):
        if index.size and not (index.min() >= 0 and index.max() < length):
            raise ViewError(f"{word} must lie in 0..{length - 1}, got {index.min()}..{index.max()}")
    strides = _strides(view.grid)
    start = sum(
        (x if isinstance(x, int) else x[0]) * stride
        for x, stride in zip(view.index, strides, strict=True)
    )
    row_part = _offsets(view, view.rows, rows, strides)
    return start + row_part + _offsets(view, view.columns, columns, strides)


def all_entries(view: MatrixView) -> np.ndarray:
    """Flat indices in the tensor of all entries of the matrix, int64, shape (m, n)."""
    m, n = view_shape(view)
    return entries(view, np.arange(m)[:, None], np.arange(n)[None, :])


def strided(view: MatrixView) -> tuple[int, list[tuple[int, int]], list[tuple[int, int]]]:
    """Where the matrix starts in its flat tensor, and (length, stride) of its row and column axes.

    Lengths of one are left out; a stride counts elements.
    """
    strides, lengths = _strides(view.grid), _lengths(view)
    start = sum(
        (x if isinstance(x, int) else x[0]) * stride
        for x, stride in zip(view.index, strides, strict=True)
    )

    def axes(group: tuple[int, ...]) -> list[tuple[int, int]]:
        return [
            (lengths[axis], strides[axis] * view.index[axis][2])  # type: ignore[index]
            for axis in group
            if lengths[axis] != 1
        ]

    return start, axes(view.rows), axes(view.columns)


def from_strided(
    tensor_shape: tuple[int, ...],
    start: int,
    rows: list[tuple[int, int]],
    columns: list[tuple[int, int]],
) -> MatrixView | None:
    """The view of the matrix that lies so in the flat tensor; None where no grid holds it.

    The inverse of :func:`strided`. The grid is built from the strides: each must divide the next
    larger one, and the matrix must not run over a grid line.
    """
    size = math.prod(tensor_shape)
    axes = [(stride, length, 0, i) for i, (length, stride) in enumerate(rows)]
    axes += [(stride, length, 1, i) for i, (length, stride) in enumerate(columns)]
    if any(stride <= 0 for stride, *_ in axes) or any(n == 0 for _, n, *_ in axes):
        return None
    grid: list[int] = []
    index: list[int | tuple[int, int, int]] = []
    sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
    above, rest = size, start
    for stride, length, side, place in sorted(axes, reverse=True):
        # The axis of the grid between this stride and the one above it; what remains of the
        # start after this axis belongs to the finer ones.
        if above % stride:
            return None
        cells, first = above // stride, rest // stride
        if first + length > cells:
            return None
        sides[side][place] = len(grid)
        grid.append(cells)
        index.append((first, first + length, 1))
        above, rest = stride, rest - first * stride
    if above > 1:
        grid.append(above)
        index.append(rest)
    return MatrixView(
        tensor_shape=tensor_shape,
        grid=tuple(grid),
        index=tuple(index),
        rows=tuple(sides[0][i] for i in range(len(rows))),
        columns=tuple(sides[1][i] for i in range(len(columns))),
    )


# --------------------------------------------------------------------------- the moves


def plain(shape: tuple[int, ...]) -> MatrixView:
    """The first axis as rows, all others, in order, as columns: (out, in) or an unfolded kernel."""
    shape = tuple(int(x) for x in shape)
    if len(shape) < 2:
        raise ViewError(f"a matrix needs a tensor of two axes or more, got shape {shape}")
    return MatrixView(
        tensor_shape=shape,
        grid=shape,
        index=tuple((0, size, 1) for size in shape),
        rows=(0,),
        columns=tuple(range(1, len(shape))),
    )


def transposed(view: MatrixView) -> MatrixView:
    """Rows and columns swapped."""
    return replace(view, rows=view.columns, columns=view.rows)


def part(view: MatrixView, axis: int, start: int, stop: int, step: int = 1) -> MatrixView:
    """Only the steps ``start``, ``start + step``, ... below ``stop`` along one grid axis."""
    old = view.index[axis]
    length = _lengths(view)[axis]
    if isinstance(old, int) or not 0 <= start <= stop <= length or step < 1:
        raise ViewError(f"a part of axis {axis} must lie in 0..{length}, got {start}..{stop}")
    cut = (old[0] + start * old[2], old[0] + stop * old[2], old[2] * step)
    # The stop may overshoot the grid by less than one step: the length stays right.
    cut = (cut[0], min(cut[1], view.grid[axis]), cut[2])
    return replace(view, index=(*view.index[:axis], cut, *view.index[axis + 1 :]))


def pick(view: MatrixView, axis: int, place: int) -> MatrixView:
    """One place along one grid axis, which leaves the matrix."""
    old = view.index[axis]
    length = _lengths(view)[axis]
    if isinstance(old, int) or not 0 <= place < length:
        raise ViewError(f"a place on axis {axis} must lie in 0..{length - 1}, got {place}")
    return replace(
        view,
        index=(*view.index[:axis], old[0] + place * old[2], *view.index[axis + 1 :]),
        rows=tuple(x for x in view.rows if x != axis),
        columns=tuple(x for x in view.columns if x != axis),
    )


def regrid(view: MatrixView, axis: int, sizes: tuple[int, ...]) -> MatrixView:
    """Split one whole grid axis into several, outermost first; -1 stands for what remains."""
    length = view.grid[axis]
    if -1 in sizes:
        known = math.prod(x for x in sizes if x != -1)
        sizes = tuple(length // max(known, 1) if x == -1 else x for x in sizes)
    if view.index[axis] != (0, length, 1) or math.prod(sizes) != length:
        raise ViewError(f"axis {axis} of {length} cannot be split into {sizes}")
    extra = len(sizes) - 1

    def renumbered(group: tuple[int, ...]) -> tuple[int, ...]:
        result: list[int] = []
        for x in group:
            result += range(axis, axis + len(sizes)) if x == axis else [x + extra * (x > axis)]
        return tuple(result)

    fresh = tuple((0, size, 1) for size in sizes)
    return replace(
        view,
        grid=(*view.grid[:axis], *sizes, *view.grid[axis + 1 :]),
        index=(*view.index[:axis], *fresh, *view.index[axis + 1 :]),
        rows=renumbered(view.rows),
        columns=renumbered(view.columns),
    )


# -------------------------------------------------------------------------- the layouts


def fused(shape: tuple[int, ...], axis: int, start: int, stop: int) -> MatrixView:
    """Part of a tensor that holds several matrices one after the other along ``axis``."""
    return part(plain(shape), axis, start, stop)


def third(shape: tuple[int, ...], which: int, axis: int = 0) -> MatrixView:
    """One of three equal parts along ``axis``: q, k or v of a concatenated projection."""
    size = shape[axis] // 3
    if size * 3 != shape[axis]:
        raise ViewError(f"axis {axis} of {shape} must be divisible by 3")
    return fused(shape, axis, which * size, (which + 1) * size)


def grouped(shape: tuple[int, ...], groups: int, start: int, stop: int) -> MatrixView:
    """Rows ``start`` to ``stop`` of each of ``groups`` equal groups of rows.

    q, k and v interleaved per head (GPT-NeoX: groups = heads, 3·d rows each), or per group of
    heads that share a key (Falcon), are such parts.
    """
    view = regrid(plain(shape), 0, (groups, -1))
    return part(view, 1, start, stop)


def expert(shape: tuple[int, ...], number: int, *, swapped: bool = False) -> MatrixView:
    """Matrix ``number`` of a stack (E, out, in), or (E, in, out) where ``swapped``."""
    view = MatrixView(
        tensor_shape=tuple(shape),
        grid=tuple(shape),
        index=tuple((0, size, 1) for size in shape),
        rows=(0, 1),
        columns=tuple(range(2, len(shape))),
    )
    view = pick(view, 0, number)
    return transposed(view) if swapped else view


def _lengths(view: MatrixView) -> list[int]:
    return [1 if isinstance(x, int) else len(range(*x)) for x in view.index]


def _strides(grid: tuple[int, ...]) -> list[int]:
    return [math.prod(grid[axis + 1 :]) for axis in range(len(grid))]


def _offsets(
    view: MatrixView, group: tuple[int, ...], index: np.ndarray, strides: list[int]
) -> np.ndarray:
    """What flat row (or column) numbers add to the flat index in the tensor."""
    result = np.zeros_like(index)
    lengths = _lengths(view)
    for axis in reversed(group):
        index, place = np.divmod(index, lengths[axis])
        result += place * (view.index[axis][2] * strides[axis])  # type: ignore[index]
        # the start of the axis is counted once, by the caller
    return result
