"""A penalty on what the old function depends on, measured on new inputs: no old data.

The diagonal of J^T J, J the Jacobian of the old outputs (logits or embeddings) by the trained
weights, is estimated on a few training batches with Gaussian probes: E (J^T v)^2. The penalty
strength / 2 * sum F_i d_i^2 on the change d is that of EWC (Kirkpatrick et al. 2017,
arXiv:1612.00796) without data of the old task. Prediction: a random mask forgets less at equal new
quality on the hand signs (1 to 5 points); little on JPEG images, where old and new outputs agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.tuning.train import Idea, Run, autocast


def output_fisher(run: Run, batches: list[Any], probes: int, seed: int) -> list[Tensor]:
    """Mean squared gradient of probed outputs for every trained tensor, per example."""
    trained = [p for p, _ in run.moving]
    found = [torch.zeros_like(p) for p in trained]
    draw = torch.Generator().manual_seed(seed)
    for batch in batches:
        with autocast(run.task):
            outputs = run.task.outputs(batch).float()
        for probe in range(probes):
            v = torch.randn(outputs.shape, generator=draw)
            loss = (outputs * v).sum() / len(outputs) ** 0.5
            grads = torch.autograd.grad(loss, trained, retain_graph=probe + 1 < probes)
            for total, grad in zip(found, grads, strict=True):
                total.addcmul_(grad, grad, value=1 / (probes * len(batches)))
    return found


@dataclass(frozen=True, kw_only=True)
class SelfFisher(Idea):
    """Pull each weight back by ``strength`` times what the old outputs depend on it."""

    strength: float = 0.1
    batches: int = 6
    probes: int = 2

    def begin(self, run: Run) -> None:
        source = run.task.batches(run.seed + 2000)
        fisher = output_fisher(run, [next(source) for _ in range(self.batches)], self.probes,
                               run.seed)  # fmt: skip
        run.kept["fisher"] = fisher

    def before_step(self, run: Run) -> None:
        with torch.no_grad():
            for (parameter, start), fisher in zip(run.moving, run.kept["fisher"], strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(self.strength * fisher * (parameter - start))
