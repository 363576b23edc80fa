"""Products of a live weight and of a sparse change with thin matrices, and what they tell.

Everything runs on the device of the weight. A weight in a short format is multiplied slab by
slab in float32, so that no second copy of it is made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from frog.tuning.matrix import TunedMatrix

SLAB = 1 << 22
"""Elements of a weight that are widened at a time: 16 MiB in float32."""

EXACT_UNTIL = 1024
"""Smaller side up to which eigenvalues come from a float64 Gram matrix, and directions, too."""

Product = Callable[[Tensor], Tensor]


class Weight:
    """The live (m, n) values of a matrix, as an operator."""

    def __init__(self, matrix: TunedMatrix) -> None:
        self.values = matrix.weight()
        self.shape = matrix.shape

    def times(self, x_nb: Tensor) -> Tensor:
        """W x, (m, b) float32."""
        return torch.cat([slab @ x_nb for slab in self.slabs()])

    def turned(self, y_mb: Tensor) -> Tensor:
        """W^T y, (n, b) float32."""
        out, start = 0.0, 0
        for slab in self.slabs():
            out = out + slab.T @ y_mb[start : start + len(slab)]
            start += len(slab)
        assert isinstance(out, Tensor)
        return out

    def slabs(self) -> list[Tensor] | map:
        """Rows of the weight in float32, whole where they are that already."""
        if self.values.dtype == torch.float32:
            return [self.values]
        rows = max(1, SLAB // max(1, self.shape[1]))
        return map(torch.Tensor.float, self.values.split(rows))

    def squared_norm(self) -> Tensor:
        """||W||_F^2, a float64 scalar."""
        parts = [torch.linalg.vector_norm(slab).double() ** 2 for slab in self.slabs()]
        return torch.stack(parts).sum()

    def gram(self) -> Tensor:
        """W^T W or W W^T on the smaller side, (r, r); float64 up to :data:`EXACT_UNTIL`."""
        wide = torch.float64 if min(self.shape) <= EXACT_UNTIL else torch.float32
        rows = max(1, SLAB // max(1, self.shape[1]))
        if self.shape[0] < self.shape[1]:
            slabs = [x.to(wide) for x in self.values.split(rows, dim=1)]
            return torch.stack([x @ x.T for x in slabs]).sum(0)
        out = torch.zeros((self.shape[1],) * 2, dtype=wide, device=self.values.device)
        for slab in self.values.split(rows):
            slab = slab.to(wide)
            out.addmm_(slab.T, slab)
        return out


def start_of(matrix: TunedMatrix) -> Weight:
    """The weight of a matrix as it was at the start, bit for bit: one copy of it."""
    weight = Weight(matrix)
    rows, columns = (torch.from_numpy(x).to(weight.values.device) for x in matrix.entries())
    weight.values = weight.values.clone()
    weight.values.index_put_((rows, columns), matrix.base())
    return weight


class Change:
    """The change (m, n) of a matrix: k entries, as an operator.

    The places are made anew: kept, they would weigh more than what trains.
    """

    def __init__(self, matrix: TunedMatrix) -> None:
        device = matrix.compact.weight.device
        self.rows, self.columns = (torch.from_numpy(x).to(device) for x in matrix.entries())
        self.values = matrix.change()
        self.shape = matrix.shape

    def with_values(self, values: Tensor) -> Change:
        """The same places with other values (k,)."""
        other = object.__new__(Change)
        other.rows, other.columns, other.shape = self.rows, self.columns, self.shape
        other.values = values
        return other

    def times(self, x_nb: Tensor) -> Tensor:
        """D x, (m, b)."""
        out = x_nb.new_zeros((self.shape[0], x_nb.shape[1]))
        return out.index_add_(0, self.rows, self.values[:, None] * x_nb[self.columns])

    def turned(self, y_mb: Tensor) -> Tensor:
        """D^T y, (n, b)."""
        out = y_mb.new_zeros((self.shape[1], y_mb.shape[1]))
        return out.index_add_(0, self.columns, self.values[:, None] * y_mb[self.rows])

    def norm(self) -> float:
        """||D||_F."""
        return float(torch.linalg.vector_norm(self.values))


class Before:
    """The weight as it was at the start: what it is, less the change."""

    def __init__(self, weight: Weight, change: Change) -> None:
        self.weight, self.change, self.shape = weight, change, weight.shape

    def times(self, x_nb: Tensor) -> Tensor:
        """(W - D) x, (m, b)."""
        return self.weight.times(x_nb) - self.change.times(x_nb)

    def turned(self, y_mb: Tensor) -> Tensor:
        """(W - D)^T y, (n, b)."""
        return self.weight.turned(y_mb) - self.change.turned(y_mb)


def random_start(shape: tuple[int, int], columns: int, device: torch.device, seed: int) -> Tensor:
    """A seeded (n, columns) start, the same on every device."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape[1], columns, generator=draw).to(device)


def leading(
    matrix: Weight | Change | Before, start_nq: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Leading singular values (q,), left (m, q) and right (n, q) vectors by subspace iteration.

    Source: Halko, Martinsson & Tropp 2011, SIAM Review 53(2), algorithm 4.4; the singular
    values are lower bounds (Ritz values). A start of NaN gives NaN.
    """
    v = torch.linalg.qr(start_nq).Q
    for _ in range(steps):
        u = torch.linalg.qr(matrix.times(v)).Q
        v = torch.linalg.qr(matrix.turned(u)).Q
    image = matrix.times(v)
    if not bool(torch.isfinite(image).all()):
        q = start_nq.shape[1]
        return image.new_full((q,), torch.nan), image * torch.nan, v * torch.nan
    u, values, turn = torch.linalg.svd(image, full_matrices=False)
    return values, u, v @ turn.T


def largest(matrix: Weight | Change, start_nq: Tensor, steps: int) -> tuple[float, Tensor]:
    """The largest singular value by power iteration from a start (n, q), and its right vector."""
    values, _, v = leading(matrix, start_nq, steps)
    return float(values[0]), v[:, :1]


def triplets(weight: Weight, q: int) -> tuple[Tensor, Tensor, Tensor]:
    """The q leading singular triplets of a weight, from its Gram matrix: (q,), (m, q), (n, q)."""
    squares, vectors = torch.linalg.eigh(weight.gram())
    values = squares[-q:].flip(0).clamp_min(0.0).sqrt()
    known = vectors[:, -q:].flip(1).float()
    if weight.shape[0] >= weight.shape[1]:
        return values.float(), _unit(weight.times(known)), known
    return values.float(), known, _unit(weight.turned(known))


def _unit(columns: Tensor) -> Tensor:
    """Columns of norm one; not by QR, which would turn signs against those of the other side."""
    return columns / torch.linalg.vector_norm(columns, dim=0).clamp_min(1e-30)
