"""Standard deviations of the noise on one matrix, s_ij = a_i b_j off the chosen entries, 0 on them.

They are never written down: two vectors, and for elements and blocks the places of the chosen
units in compressed rows. Chosen rows and columns are zeros in the vectors.

For an input x (t, n) the noise of output i has variance a_i^2 q_ti, where the energy
q_ti = sum_j b_j^2 x_tj^2 runs over the entries of row i that are not chosen: the sum over all of
them less that over the chosen (in float64 where outlying inputs would drown the rest), or, where
more than half of the matrix is chosen, the sum over the others itself.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frog.numerics.units import grid_of
from frog.tuning.matrix import TunedMatrix

MOST = 0.9
"""Share of the energy on chosen entries beyond which the rest is taken in float64."""


@dataclass(slots=True)
class Units:
    """Some units (d, e) of the grid of an (m, n) matrix: single entries or blocks of ``size``.

    ``rows`` (d, e) and ``columns`` (e, d) hold them as sparse matrices of ones, float32, 16 bytes
    a unit; ``free`` says that the units listed are those with noise, not the chosen ones.
    """

    size: tuple[int, int]
    free: bool
    rows: Tensor
    columns: Tensor

    def to(self, device: torch.device) -> Units:
        """The same on another device."""
        return Units(self.size, self.free, self.rows.to(device), self.columns.to(device))


@dataclass(slots=True)
class Spread:
    """``a`` (m,) and ``b`` (n,), float32, and the units of elements or blocks.

    ``a`` holds the RMS of the matrix: s_ij is nu_t times ``a_i b_j``.
    """

    a: Tensor
    b: Tensor
    units: Units | None = None

    def to(self, device: torch.device) -> Spread:
        """Itself, or the same on another device."""
        if self.a.device == device:
            return self
        units = None if self.units is None else self.units.to(device)
        return Spread(self.a.to(device), self.b.to(device), units)

    def energy(self, x: Tensor) -> Tensor:
        """q (t, m) for x (t, n), or (t, 1) where it is the same for all outputs; in x's dtype."""
        squares = (x * self.b).square_()
        units = self.units
        if units is None:
            return squares.sum(1, keepdim=True)
        cells = _sums(squares, units.size[1]).T.contiguous()  # (e, t)
        if not units.free and cells.device.type != "cpu":
            cells = cells.double()  # looking first would wait for the device
        q = units.rows.to(cells.dtype) @ cells  # (d, t)
        if not units.free:
            whole = cells.sum(0)
            if cells.dtype == torch.float32 and bool((q > MOST * whole).any()):
                cells = cells.double()
                q, whole = units.rows.double() @ cells, cells.sum(0)
            q = torch.sub(whole, q, out=q).clamp_(min=0)
        return _repeat(q.T.to(x.dtype).contiguous(), units.size[0], len(self.a))

    def energy_gradient(self, x: Tensor, dq: Tensor) -> Tensor:
        """Half the gradient with respect to x (t, n), from that of q: dq (t, m)."""
        squares, units = self.b.square(), self.units
        if units is None:
            return x * squares * dq.sum(1, keepdim=True)
        cells = _sums(dq, units.size[0]).T.contiguous()  # (d, t)
        each = units.columns.to(cells.dtype) @ cells  # (e, t)
        if not units.free:
            each = torch.sub(cells.sum(0), each, out=each)
        return _repeat(each.T.contiguous(), units.size[1], len(self.b)).mul(x).mul_(squares)

    def allowed(self, rows: Tensor) -> Tensor | None:
        """Which entries of these rows are not chosen, bool (len(rows), n); None for all."""
        units = self.units
        if units is None:
            return None
        grid, starts = rows // units.size[0], units.rows.crow_indices()
        first, count = starts[grid].long(), (starts[grid + 1] - starts[grid]).long()
        line = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), count)
        place = torch.arange(len(line), device=rows.device)
        place += torch.repeat_interleave(first - count.cumsum(0) + count, count)
        made = rows.new_full((len(rows), units.columns.shape[0]), not units.free, dtype=torch.bool)
        made[line, units.rows.col_indices()[place].long()] = units.free
        return _repeat(made, units.size[1], len(self.b))


def spread_of(
    matrix: TunedMatrix,
    guide: tuple[np.ndarray, np.ndarray],
    rms: float,
    kept: np.ndarray | None = None,
) -> Spread:
    """The spread of noise on the entries of ``matrix`` that are not chosen.

    With ``kept``, bool (m, n), only on those of them where it is True; the places of all others
    are then listed, 8 bytes for each weight of a matrix of which half is pruned.
    """
    a, b = (np.array(x, dtype=np.float32) for x in guide)
    a *= np.float32(rms)
    device = matrix.compact.weight.device
    units = None
    if kept is not None:
        still = ~kept
        still[matrix.entries()] = True
        units, full = _units(np.flatnonzero(still), matrix.shape, (1, 1), device)
        a[full] = 0
    elif matrix.granularity == "row":
        a[matrix.index] = 0
    elif matrix.granularity == "column":
        b[matrix.index] = 0
    else:
        size = matrix.block_size if matrix.granularity == "block" else (1, 1)
        chosen = np.sort(np.asarray(matrix.index, dtype=np.int64))
        units, full = _units(chosen, matrix.shape, size, device)
        a[np.repeat(full, size[0])[: len(a)]] = 0  # exactly, not up to rounding
    return Spread(torch.from_numpy(a).to(device), torch.from_numpy(b).to(device), units)


def _units(
    chosen: np.ndarray, shape: tuple[int, int], size: tuple[int, int], device: torch.device
) -> tuple[Units | None, np.ndarray]:
    """The chosen units, or the others where those are fewer; and which grid rows are all chosen."""
    down, across = grid_of(shape, size)
    full = np.bincount(chosen // across, minlength=down) == across
    free = 2 * len(chosen) > down * across
    if free:
        others = np.ones(down * across, dtype=bool)
        others[chosen] = False
        chosen = np.flatnonzero(others)
    rows, columns = np.divmod(chosen, across)
    starts = np.concatenate([[0], np.bincount(rows, minlength=down).cumsum()])
    turned = np.argsort(columns, kind="stable")
    turned_starts = np.concatenate([[0], np.bincount(columns, minlength=across).cumsum()])
    made = Units(
        size,
        free,
        _ones(starts, columns, (down, across)),
        _ones(turned_starts, rows[turned], (across, down)),
    )
    return made.to(device), full


def _ones(starts: np.ndarray, places: np.ndarray, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        # torch calls compressed rows beta, once in a process
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(starts.astype(np.int32)),
            torch.from_numpy(places.astype(np.int32)),
            torch.ones(len(places)),
            size=shape,
            check_invariants=False,
        )


def _sums(x: Tensor, width: int) -> Tensor:
    """Sums over runs of ``width`` columns, the last may be shorter: (t, n) -> (t, ceil(n / w))."""
    if width == 1:
        return x
    missing = -x.shape[1] % width
    padded: Any = torch.nn.functional.pad(x, (0, missing)) if missing else x
    return padded.view(len(x), -1, width).sum(2)


def _repeat(x: Tensor, width: int, length: int) -> Tensor:
    """Each column ``width`` times, cut to ``length`` columns."""
    return x if width == 1 else x.repeat_interleave(width, 1)[:, :length]
