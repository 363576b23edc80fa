"""Protected subspaces: the leading directions of every matrix stay what they were."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from frog.errors import UsageError
from frog.tuning.guards.guard import Watcher, guard
from frog.tuning.guards.products import (
    EXACT_UNTIL,
    Change,
    Weight,
    leading,
    random_start,
    triplets,
)
from frog.tuning.guards.reading import Reading
from frog.tuning.guards.rotation import Rotation
from frog.tuning.guards.turns import Turns

if TYPE_CHECKING:
    from frog.tuning.guards.run import Run
    from frog.tuning.matrix import TunedMatrix

BEYOND = 8
"""Directions beyond the protected ones that are known one by one."""

START_STEPS, CHECK_STEPS = 20, 4

MODES = ("watch", "project")

NEARLY = 0.8
"""Share of what is allowed that a pull leaves, and beyond which a check pulls harder."""

TRIES = 4
"""Times that a matrix is pulled back, each with half the bound, before its change is shrunk."""

SHRINK, SHRINKS = 0.8, 20
"""What shrinks a change, and how often at most: 0.8^20 = 1 %."""

SAFETY = 1.1
"""A few power iterations find that much less than the largest singular value, at most."""


@guard
class Subspaces(Watcher):
    """Overlap of the k leading left and right singular directions with those at the start.

    overlap = ||U_k'^T U_k||_F^2 / k, the smaller of both sides, of ``layers`` matrices a check,
    in rotation; an alarm below ``overlap``. ``k`` is a number, or ``"gap"``: per matrix, up to
    ``most`` directions, where the largest relative gap of the singular values is. Without a gap
    behind them, single directions mean nothing: the smallest change turns them.

    ``mode="project"`` holds the overlap: every ``project_every`` steps the turn of each matrix is
    found to first order from the chosen entries alone, and where both sides together are beyond
    what one is allowed, the change is replaced by the nearest one (least squares over the chosen
    entries) that turns less. Checks, and whenever a new direction may outgrow a protected one,
    measure the true overlap; where it falls short they halve what is allowed, and in the end
    shrink the change. These steps are work, not checks: ``cost`` does not bound them.
    """

    name = "subspaces"

    def __init__(
        self,
        *,
        k: int | str = "gap",
        most: int = 16,
        overlap: float = 0.99,
        mode: str = "watch",
        project_every: int = 10,
        layers: int | None = 4,
        **common: Any,
    ) -> None:
        super().__init__(**{"cost": 0.005, **common})
        if k != "gap" and not (isinstance(k, int) and k >= 1):
            raise UsageError(f"k must be a number of directions or 'gap', got {k!r}")
        if mode not in MODES:
            raise UsageError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if not 0 < overlap < 1:
            raise UsageError(f"overlap must lie in (0, 1), got {overlap!r}")
        self.k, self.most, self.overlap, self.mode = k, most, overlap, mode
        self.project_every = project_every
        self.projections = 0
        self._turns = Turns(layers)
        self._start: dict[str, Rotation] = {}
        self._bound: dict[str, float] = {}
        self._warm: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}

    @torch.no_grad()
    def start(self, run: Run) -> None:
        """The leading directions of every matrix."""
        for seed, matrix in enumerate(run.matrices):
            r = min(matrix.shape)
            most = min(self.most if self.k == "gap" else int(self.k), r - 1)
            if most < 1:
                continue
            values, u, v = _triplets(matrix, min(most + BEYOND, r), None, seed)
            if not float(values[0]) > 0:
                continue  # all zero, or not finite: no direction to protect
            k = most
            if self.k == "gap":
                ratios = values[:most] / values[1 : most + 1].clamp_min(1e-30)
                k = int(ratios.argmax()) + 1
            self._start[matrix.name] = Rotation(values, u, v, k)
            self._bound[matrix.name] = 1.0 - self.overlap
            if r > EXACT_UNTIL:
                self._warm[matrix.name] = v

    def protected(self) -> dict[str, int]:
        """How many directions are protected, by matrix."""
        return {name: x.k for name, x in self._start.items()}

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Pull back what turned too far, to first order."""
        if self.mode == "project" and run.step % self.project_every == 0:
            for matrix in run.matrices:
                if matrix.name in self._start:
                    self._pull(matrix)
                    if self._outgrown(matrix):
                        self._hold(matrix)

    def _pull(self, matrix: TunedMatrix) -> None:
        change, rotation = Change(matrix), self._start[matrix.name]
        bound = self._bound[matrix.name]
        if not bool(torch.isfinite(change.values).all()):
            return
        if rotation.of(change) > bound:
            # a little below: the next steps go on
            matrix.set_change(rotation.pulled(change, NEARLY * bound))
            self.projections += 1

    def _outgrown(self, matrix: TunedMatrix) -> bool:
        """Whether a direction of the change may become larger than a protected one.

        That turns nothing to first order: it changes places. sigma_{k+1} + ||D||_2 bounds what
        any other direction can reach (Weyl).
        """
        rotation, change = self._start[matrix.name], Change(matrix)
        start = self._largest.get(matrix.name)
        if start is None:
            start = random_start(matrix.shape, 2, change.values.device, 0)
        values, _, vectors = leading(change, start.to(change.values.device), CHECK_STEPS)
        if not math.isfinite(float(values[0])):
            return False
        self._largest[matrix.name] = vectors
        return rotation.next + SAFETY * float(values[0]) > rotation.last

    def _hold(self, matrix: TunedMatrix) -> float:
        """Pull until the true overlap is as wanted, in the end by shrinking the whole change."""
        value = self._overlap(matrix)
        for attempt in range(TRIES + SHRINKS):
            if not 1.0 - value > NEARLY * (1.0 - self.overlap):
                break
            if attempt < TRIES:
                self._bound[matrix.name] *= 0.5
                self._pull(matrix)
            else:
                matrix.set_change(SHRINK * matrix.change())
                self.projections += 1
            value = self._overlap(matrix)
        return value

    @torch.no_grad()
    def check(self, run: Run) -> Iterable[Reading]:
        """The true overlap of the next few matrices."""
        for matrix in self._turns.take(run, self._start):
            value = (self._hold if self.mode == "project" else self._overlap)(matrix)
            yield Reading(
                layer=matrix.name, kind="overlap", before=1.0, value=value, limit=self.overlap,
                words=f"overlap of its {self._start[matrix.name].k} leading directions with those "
                "of the start is",
            )  # fmt: skip

    def _overlap(self, matrix: TunedMatrix) -> float:
        rotation = self._start[matrix.name]
        k = rotation.k
        warm = self._warm.get(matrix.name)
        _, u, v = _triplets(matrix, k if warm is None else rotation.v.shape[1], warm, 0)
        if warm is not None:
            self._warm[matrix.name] = v
        sides = ((rotation.u, u), (rotation.v, v))
        both = [float((old[:, :k].T @ new[:, :k]).square().sum()) / k for old, new in sides]
        return min(both) if all(map(math.isfinite, both)) else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Where the rotation stands, what is allowed, where iterations ended."""
        return {
            **self._turns.state_dict(),
            "projections": self.projections,
            "bound": dict(self._bound),
            "warm": {name: x.clone() for name, x in self._warm.items()},
            "largest": {name: x.clone() for name, x in self._largest.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._turns.load_state_dict(state)
        self.projections = state["projections"]
        self._bound, self._warm = dict(state["bound"]), dict(state["warm"])
        self._largest = dict(state["largest"])


def _triplets(
    matrix: TunedMatrix, q: int, warm: Tensor | None, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The q leading singular triplets of now: exactly, or from where an iteration ended."""
    weight = Weight(matrix)
    if min(matrix.shape) <= EXACT_UNTIL:
        if not bool(torch.isfinite(weight.squared_norm())):
            nan = weight.values.new_full((1,), torch.nan).float()
            m, n = matrix.shape
            return nan.expand(q), nan.expand(m, q), nan.expand(n, q)
        return triplets(weight, q)
    if warm is not None:
        return leading(weight, warm.to(weight.values.device), CHECK_STEPS)
    start = random_start(matrix.shape, q, weight.values.device, seed)
    return leading(weight, start, START_STEPS)
