"""The old outputs are kept on the new inputs, by a second forward pass of the base model.

Learning without Forgetting, Li & Hoiem 2016, arXiv:1606.09282. Prediction: the strongest of the
protections for full tuning and masks alike (5 points or more on the hand signs), at the cost of a
forward pass a step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.tuning.train import Idea, Run


@dataclass(frozen=True, kw_only=True)
class Distil(Idea):
    """Add ``weight`` times the divergence of the old outputs, KL or squared distance."""

    weight: float = 1.0

    def begin(self, run: Run) -> None:
        task = run.task
        tuned = task.model
        task.model = copy.deepcopy(task.pristine).eval()
        run.kept["old model"], task.model = task.model, tuned

    def loss(self, run: Run, batch: Any, loss: Tensor) -> Tensor:
        task = run.task
        tuned = task.model
        with torch.no_grad():
            task.model = run.kept["old model"]
            old = task.outputs(batch).float()
            task.model = tuned
        now = task.outputs(batch).float()
        if task.logits:
            apart = functional.kl_div(
                functional.log_softmax(now, -1), functional.log_softmax(old, -1),
                log_target=True, reduction="batchmean",
            )  # fmt: skip
        else:
            apart = 10 * (now - old).square().sum(-1).mean()  # embeddings have length one
        return loss + self.weight * apart
