"""Scale collapse while a model is tuned: one matrix's scale changes while the others' hardly do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from frog.numerics.drift import robust_z
from frog.numerics.outliers import (
    CHANGE_LIMIT,
    SPREAD_FLOOR,
    Z_LIMIT,
    groups_of,
    z_by_group,
)
from frog.tuning.guards.guard import Watcher, guard
from frog.tuning.guards.products import Change, Weight, largest
from frog.tuning.guards.reading import Reading

if TYPE_CHECKING:
    from frog.tuning.guards.run import Run
    from frog.tuning.matrix import TunedMatrix

CHECK_STEPS = 2
"""Power iterations of a check: from where the last one ended, and from where the change points."""


@guard
class ScaleCollapse(Watcher):
    """A matrix whose scale changed against the start unlike the others': up or down.

    Every check, of every tuned matrix: d = change of log10 ||W||_F^2 and of log10 lambda_max
    (power iteration from where it last ended and from the leading direction of the change). An
    alarm where |d| > 0.6 (a factor of 2 in the norm) and the robust z of d among the layers of
    its role, or among all, is beyond 4: limits and groups are those of ``frog compare``. A matrix
    of less than a third of the RMS of all (a pooler that was never trained) may grow up to that:
    only what lies beyond counts. The norms are of the live weights as they lie there, so that a
    weight that something else scaled is seen, too. Costs a few passes over the weights a check.
    """

    name = "scale-collapse"
    action = "slow"

    def __init__(self, *, change: float | None = None, z: float = Z_LIMIT, **common: Any) -> None:
        super().__init__(**{"cost": 0.005, **common})
        self.change, self.z = change, z
        self._start: dict[str, np.ndarray] = {}
        self._free: dict[str, np.ndarray] = {}
        self._vectors: dict[str, Tensor] = {}

    def start(self, run: Run) -> None:
        """Norms and largest eigenvalues at the start."""
        for matrix in run.matrices:
            top, self._vectors[matrix.name] = run.top(matrix)
            self._start[matrix.name] = _sizes(Weight(matrix), top)
            self._free[matrix.name] = _free(matrix.shape, run.small)

    @torch.no_grad()
    def check(self, run: Run) -> Iterable[Reading]:
        """How far every matrix's scale stands apart: the farthest of each of the two norms."""
        changes = np.array([self._change(x) for x in run.matrices])
        if not len(changes):
            return
        groups = groups_of([x.role for x in run.matrices])
        for column, (kind, words) in enumerate((
            ("log_norm", "log10 of its squared Frobenius norm changed by"),
            ("log_spectral_norm", "log10 of its largest eigenvalue changed by"),
        )):  # fmt: skip
            limit = CHANGE_LIMIT[kind] if self.change is None else self.change
            d = changes[:, column]
            z = np.stack([robust_z(d, SPREAD_FLOOR), z_by_group(d, groups)])
            # a matrix alone has none to be held against
            z = np.nan_to_num(np.abs(z), nan=math.inf if len(d) == 1 else 0.0).max(axis=0)
            used = np.minimum(np.abs(d) / limit, z / self.z)
            used[~np.isfinite(d)] = math.inf
            for place in np.flatnonzero(used > 1.0).tolist() or [int(used.argmax())]:
                yield Reading(
                    layer=run.matrices[place].name, kind=kind, before=0.0, value=float(d[place]),
                    limit=math.copysign(limit, d[place] if d[place] == d[place] else 1.0),
                    words=words, used=float(used[place]),
                )  # fmt: skip

    def _change(self, matrix: TunedMatrix) -> np.ndarray:
        """The change of both sizes, in decades, without the free growth of a small matrix."""
        now, start = self._now(matrix), self._start[matrix.name]
        base = np.maximum(start, np.minimum(now, self._free[matrix.name]))
        return now - np.where(now > start, base, start)

    def _now(self, matrix: TunedMatrix) -> np.ndarray:
        """Both sizes of a matrix, in decades."""
        weight, change = Weight(matrix), Change(matrix)
        warm = self._vectors[matrix.name].to(weight.values.device)
        new = change.turned(change.times(warm) + change.times(torch.ones_like(warm)))
        if not bool((new != 0).any() & torch.isfinite(new).all()):
            new = torch.ones_like(warm)
        top, vector = largest(weight, torch.cat([warm, new], 1), CHECK_STEPS)
        if bool(torch.isfinite(vector).all()):
            self._vectors[matrix.name] = vector
        return _sizes(weight, top)

    def state_dict(self) -> dict[str, Any]:
        """The vectors that the next check starts from."""
        return {"vectors": {name: x.clone() for name, x in self._vectors.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._vectors = dict(state["vectors"])


def _sizes(weight: Weight, top: float) -> np.ndarray:
    """log10 of ||W||_F^2 and of lambda_max; an all-zero weight has a size of 1e-300."""
    norms = np.array([float(weight.squared_norm()), top * top])
    return np.log10(np.where(norms > 0, norms, np.where(norms == 0, 1e-300, norms)))


def _free(shape: tuple[int, int], rms: float) -> np.ndarray:
    """log10 of ||W||_F^2 and of lambda_max of a random matrix of that shape and RMS."""
    m, n = shape
    if rms <= 0:
        return np.full(2, -300.0)
    return np.log10([rms**2 * m * n, rms**2 * (math.sqrt(m) + math.sqrt(n)) ** 2])
