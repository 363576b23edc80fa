"""The new head is fitted once more at the end, on the weights that are kept.

Where only a part of the change is kept the head was trained on features that are no more. It alone
trains here, so the old task cannot be forgotten by it. Prediction: with 0.6 of the change kept the
new quality rises by 1 point or more on the hand signs at the same old quality, with 0.4 by more;
up to 1 point on both tasks of MiniLM; nothing where no head is new. Full tuning gains the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.tuning.ideas.head_first import STEPS, fit_head
from benchmarks.tuning.train import Idea, Run

OTHER_BATCHES = 3000
"""Added to the seed: other batches than those of training and of the first fit."""


@dataclass(frozen=True, kw_only=True)
class HeadLast(Idea):
    """Fit the head for ``steps`` steps, after what other ideas do at the end."""

    steps: int = STEPS

    def end(self, run: Run) -> None:
        fit_head(run.task, run.seed + OTHER_BATCHES, steps=self.steps)
