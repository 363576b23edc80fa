"""The shape of the change: how much of it is one direction, and whether that is a new one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from frog.numerics.drift import INTRUDER_COSINE, INTRUDER_TOP
from frog.tuning.guards.guard import Watcher, guard
from frog.tuning.guards.products import (
    EXACT_UNTIL,
    Before,
    Change,
    Weight,
    leading,
    random_start,
)
from frog.tuning.guards.reading import Reading

if TYPE_CHECKING:
    from frog.tuning.guards.run import Run
    from frog.tuning.matrix import TunedMatrix

STEPS = 4
"""Power iterations of a check, from where the last one ended, in a block of two."""

START_STEPS = 10

FEW_DIRECTIONS = 0.4
"""Share of random signs in the chosen places beyond which no change of them has many directions."""

SMALL = 4 * INTRUDER_TOP
"""Smaller side below which ten leading directions are no few any more."""

OLD_AROUND = 64
"""Old directions that new ones are held against in a matrix too large for all of them."""


@guard
class ShapeOfChange(Watcher):
    """Spectral share of the change, ||dW||_2 / ||dW||_F, and intruder dimensions.

    At equal quality forgetting followed the spectral share in the pilot. ``null`` is that of
    random signs in the same places: a few columns have a large share by themselves. The limit is
    ``times`` the null, or ``share`` of the way from it to 1 (a change of one direction) where that
    is less; places whose null is beyond 0.4 are not judged. It counts once the change is at least
    ``material`` of ||W||_F: the first steps of any run go one way.

    Intruders: of the 10 leading left directions of the new matrix, those whose largest |cosine|
    with any direction at the start is below 0.5 (Shuttleworth et al. 2024), in the matrix whose
    change is largest beside its own largest singular value, one a check; matrices with fewer
    than 40 directions are left out, and those of less than a third of the RMS of all (a pooler
    that was never trained has no directions to lose). In matrices of more than 1,024 the old
    directions are the 64 leading ones.
    """

    name = "change"

    def __init__(
        self,
        *,
        times: float = 3.0,
        share: float = 0.7,
        material: float = 0.02,
        intruders: int = 3,
        **common: Any,
    ) -> None:
        super().__init__(**{"cost": 0.005, **common})
        self.times, self.share = times, share
        self.material, self.intruders = material, intruders
        self._null: dict[str, float] = {}
        self._size: dict[str, tuple[float, float]] = {}
        self._vectors: dict[str, Tensor] = {}

    def start(self, run: Run) -> None:
        """The share of random signs in the chosen places, and the size of every matrix."""
        for seed, matrix in enumerate(run.matrices):
            change = Change(matrix)
            device = change.values.device
            start = random_start(matrix.shape, 2, device, seed)
            signs = torch.randn(matrix.count, generator=torch.Generator().manual_seed(seed)).sign()
            null = change.with_values(signs.to(device))
            top = float(leading(null, start, START_STEPS)[0][0])
            self._null[matrix.name] = top / null.norm()
            whole = float(Weight(matrix).squared_norm()) ** 0.5
            self._size[matrix.name] = (whole, run.top(matrix)[0])
            self._vectors[matrix.name] = start

    @torch.no_grad()
    def check(self, run: Run) -> Iterable[Reading]:
        """The share of every matrix's change, and the intruders of the likeliest one."""
        suspect, most = None, 0.0
        for matrix in run.matrices:
            change = Change(matrix)
            size = change.norm()
            whole, largest = self._size[matrix.name]
            if not math.isfinite(size) or whole == 0 or size == 0:
                continue  # not finite is the matter of another guard
            start = self._vectors[matrix.name].to(change.values.device)
            values, _, vectors = leading(change, start, STEPS)
            self._vectors[matrix.name] = vectors
            top = float(values[0])
            small = whole < run.small * math.sqrt(matrix.params)
            if top / largest > most and min(matrix.shape) >= SMALL and not small:
                suspect, most = matrix, top / largest
            null = self._null[matrix.name]
            if size / whole >= self.material and null <= FEW_DIRECTIONS:
                yield Reading(
                    layer=matrix.name, kind="spectral share", before=null, value=top / size,
                    limit=min(self.times * null, null + self.share * (1.0 - null)),
                    words="||dW||_2 / ||dW||_F of its change is",
                )  # fmt: skip
        if suspect is not None:
            yield Reading(
                layer=suspect.name, kind="intruders", before=0.0,
                value=float(intruders(suspect)), limit=float(self.intruders),
                words="leading directions that no old one resembles:",
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The vectors that the next check starts from."""
        return {"vectors": {name: x.clone() for name, x in self._vectors.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._vectors = dict(state["vectors"])


def intruders(matrix: TunedMatrix) -> int:
    """How many of the 10 leading left directions of now no old one resembles."""
    weight = Weight(matrix)
    before = Before(weight, Change(matrix))
    device = weight.values.device
    if min(matrix.shape) > EXACT_UNTIL:
        start = random_start(matrix.shape, OLD_AROUND, device, 0)
        _, old, right = leading(before, start, STEPS)
        new = leading(weight, right[:, : 2 * INTRUDER_TOP], STEPS)[1][:, :INTRUDER_TOP]
    else:
        # both whole, one after the other: a copy of one matrix at most
        now = torch.cat([slab.double() for slab in weight.slabs()])
        new = torch.linalg.svd(now, full_matrices=False)[0][:, :INTRUDER_TOP]
        change = before.change
        now.index_put_((change.rows, change.columns), matrix.base().double())
        old = torch.linalg.svd(now, full_matrices=False)[0]
    cosines = (old.T @ new).abs().amax(dim=0)
    return int((cosines < INTRUDER_COSINE).sum())
