"""The new head is fitted on frozen features before the weights move.

LP-FT, Kumar et al. 2022, arXiv:2202.10054: a random head pulls the features about until it has
learnt something. Prediction: at equal new quality, full tuning and a random mask both forget
clearly less (over 2 points on the hand signs, where much is forgotten); no help where no head is
new.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.tuning.task import Task
from benchmarks.tuning.train import Idea, autocast

STEPS = 60


@dataclass(frozen=True, kw_only=True)
class HeadFirst(Idea):
    """Fit the head for ``steps`` steps by AdamW, the rate falling to zero."""

    steps: int = STEPS

    def prepare(self, task: Task, seed: int) -> None:
        fit_head(task, seed, steps=self.steps)


def fit_head(task: Task, seed: int, *, steps: int = STEPS) -> None:
    """Train the head alone; nothing where the task has none."""
    if not task.head:
        return
    for parameter in task.model.parameters():
        parameter.requires_grad_(False)
    head = [task.model.get_parameter(name).requires_grad_(True) for name in task.head]
    optimizer = torch.optim.AdamW(head, lr=task.head_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: (steps - s) / steps)
    source = task.batches(seed + 1)
    for _ in range(steps):
        optimizer.zero_grad()
        with autocast(task):
            loss = task.loss(next(source))
        loss.backward()
        optimizer.step()
        schedule.step()
