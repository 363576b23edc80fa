"""The learning rate of a run, and what it was made from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A learning rate for the chosen weights, with every ingredient.

    ``full`` is the rate of full tuning and ``origin`` where it comes from; ``budget`` the share of
    the targeted weights that train. ``share`` is the measured share of the gradient (its ``norm``:
    ``L1``, or ``squared L2`` for an optimizer whose step follows the size of the gradient) that
    falls into the mask, over ``batches`` batches, and ``chance`` that of a random mask of the same
    counts; both None where nothing was measured. ``cap`` is the largest rate that is given
    (infinite where the optimizer's step has no bound), ``also`` the rate of parameters that train
    whole. ``kept`` is the share of the change that will be kept at the end
    (:meth:`frog.Tuner.scale_change`). ``lr = min(full / (share or budget), cap) / kept``: a step
    may be as much larger as less of it stays.
    """

    lr: float
    full: float
    origin: str
    optimizer: str
    budget: float
    share: float | None = None
    chance: float | None = None
    norm: str = "L1"
    batches: int = 0
    cap: float = float("inf")
    also: float = 0.0
    kept: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def capped(self) -> bool:
        """Whether the cap, not the share, decided."""
        return self.lr == self.cap / self.kept

    @property
    def reason(self) -> str:
        """One or two lines: how the rate came about, and the share of the mask beside chance."""
        if self.budget == 1.0 and self.share is None:
            full = f"that of full tuning ({self.origin})"
            if self.kept < 1:
                full = f"{self.full:.3g}, {full}{self._over_kept}"
            return f"lr {self.lr:.3g} for {self.optimizer}: {full}"
        by = self.budget if self.share is None else self.share
        what = "of the weights train" if self.share is None else "of the gradient in the mask"
        first = (
            f"lr {self.lr:.3g} for {self.optimizer} = {self.full:.3g} ({self.origin}) / "
            f"{by:.3%} ({what})"
        )
        if self.capped:
            first += f", capped from {self.full / by:.3g}: a step is at most the RMS of W"
        first += self._over_kept
        lines = [first]
        if self.share is not None and self.chance is not None:
            ratio = self.share / self.chance if self.chance > 0 else float("inf")
            lines.append(
                f"{self.norm} gradient share of the mask {self.share:.3%}, of a random mask "
                f"{self.chance:.3%} (x {ratio:.2f}), over {self.batches} batches"
            )
        return "\n".join([*lines, *self.notes])

    @property
    def _over_kept(self) -> str:
        return f" / {self.kept:g} (share of the change that is kept)" if self.kept < 1 else ""

    def __str__(self) -> str:
        return self.reason
