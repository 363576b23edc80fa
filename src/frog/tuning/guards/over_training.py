"""Over-training while a model is tuned: alpha below 2, or out of where it was at the start."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from frog.numerics.outliers import CHANGE_LIMIT
from frog.numerics.powerlaw import fit_power_law
from frog.tuning.guards.guard import Watcher, guard
from frog.tuning.guards.products import Weight, start_of
from frog.tuning.guards.reading import Reading
from frog.tuning.guards.turns import Turns
from frog.types import PowerLawFit

if TYPE_CHECKING:
    from frog.tuning.guards.run import Run
    from frog.tuning.matrix import TunedMatrix

FEWEST = 50
"""Eigenvalues below which an alpha says too little to act on."""

DEVIATIONS = 4.0
"""Standard errors on either side of alpha that make up its interval, beside the band."""


@guard
class OverTraining(Watcher):
    """Alpha falls below 2, or leaves the interval that it had at the start.

    The eigenvalues of ``layers`` matrices a check, in rotation. Two estimators, never mixed:

    - ``alpha (ks)``: below 2 where it was not at the start; an alarm only where the whole
      stability band is (every tail that fits nearly as well);
    - ``alpha (ks)`` and ``alpha (hill)`` leave the start: the intervals (4 standard errors and,
      for ks, the band) of now and of the start have nothing in common;
    - ``effective rank``: log10 of the number of directions, against the start, limit 0.3.

    Matrices with fewer than 50 eigenvalues are left out: their alpha says too little. The start of
    a matrix is measured when its first turn comes, on a copy with the chosen entries put back: a
    run need not wait for the spectra of a whole model.
    """

    name = "over-training"

    def __init__(
        self,
        *,
        layers: int | None = 4,
        lowest: float = 2.0,
        deviations: float = DEVIATIONS,
        rank: float = CHANGE_LIMIT["log_effective_rank"],
        **common: Any,
    ) -> None:
        super().__init__(**{"cost": 0.01, **common})
        self.lowest, self.deviations, self.rank = lowest, deviations, rank
        self._able: set[str] = set()
        self._start: dict[str, tuple[PowerLawFit, PowerLawFit, float]] = {}
        self._turns = Turns(layers)

    def start(self, run: Run) -> None:
        """Which matrices are large enough; those of a run before this one are forgotten."""
        self._start = {}
        self._able = {x.name for x in run.matrices if min(x.shape) >= FEWEST}

    @torch.no_grad()
    def check(self, run: Run) -> Iterable[Reading]:
        """The next few matrices."""
        for matrix in self._turns.take(run, self._able):
            yield from self._of(matrix)

    def _of(self, matrix: TunedMatrix) -> Iterable[Reading]:
        if matrix.name not in self._start:
            self._start[matrix.name] = _spectrum_of(matrix.shape, start_of(matrix))
        before, now = self._start[matrix.name], _spectrum_of(matrix.shape, Weight(matrix))
        for old, new in zip(before[:2], now[:2], strict=True):
            if not old.ok:
                continue
            kind = f"alpha ({new.estimator})"
            if new.estimator == "ks" and old.alpha >= self.lowest and new.ok:
                # all of the band must be below, not only the point
                high = max(new.alpha, new.band_high)
                reached = (old.alpha - new.alpha) / max(old.alpha - self.lowest, 1e-9)
                yield Reading(
                    layer=matrix.name, kind=kind, before=old.alpha, value=new.alpha,
                    limit=self.lowest, words="alpha (ks) is",
                    used=reached if high < self.lowest else min(reached, 1.0),
                )  # fmt: skip
            yield self._left(matrix.name, kind, old, new)
        old_rank, new_rank = before[2], now[2]
        change = new_rank - old_rank
        yield Reading(
            layer=matrix.name, kind="effective rank", before=0.0, value=change,
            limit=math.copysign(self.rank, change), words="log10 of its effective rank changed by",
        )  # fmt: skip

    def _left(self, layer: str, kind: str, old: PowerLawFit, new: PowerLawFit) -> Reading:
        """How far alpha went towards the point where the two intervals part."""
        up = not new.alpha < old.alpha
        here, there = self._reach(old, up), self._reach(new, not up)
        limit = old.alpha + (here + there if up else -here - there)
        return Reading(
            layer=layer, kind=f"{kind} moved", before=old.alpha, value=new.alpha, limit=limit,
            words=f"{kind} left the interval of the start: it is",
        )  # fmt: skip

    def _reach(self, fit: PowerLawFit, up: bool) -> float:
        """How far the interval of a fit goes from alpha, up or down."""
        edge = fit.band_high - fit.alpha if up else fit.alpha - fit.band_low
        wide = self.deviations * fit.stderr
        return max(wide, edge) if math.isfinite(edge) else wide

    def state_dict(self) -> dict[str, Any]:
        """Which matrix comes next."""
        return self._turns.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._turns.load_state_dict(state)


def _spectrum_of(shape: tuple[int, int], weight: Weight) -> tuple[PowerLawFit, PowerLawFit, float]:
    """The fits by ks and by hill, and log10 of the effective rank."""
    gram = weight.gram()
    if not bool(torch.isfinite(gram.diagonal()).all()):
        values = np.full(len(gram), np.nan)
    else:
        values = torch.linalg.eigvalsh(gram).double().cpu().numpy().clip(min=0.0)
    ks = fit_power_law(values, estimator="ks", shape=shape)
    hill = fit_power_law(values, estimator="hill", shape=shape, extras=False)
    total = values.sum()
    share = values[values > 0] / total if total > 0 else np.array([math.nan])
    return ks, hill, float(-(share * np.log10(share)).sum())
